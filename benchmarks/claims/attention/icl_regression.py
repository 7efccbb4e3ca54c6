"""In-context linear regression by one layer of softmax attention, and what its weights become."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.claims import Finding, claim, save_figure
from scanmax import ops
from scanmax.data.sequence_tasks import linear_regression

DIM, LENGTH, NOISE = 5, 40, 0.1


def predict(params, x, y, normalise=ops.softmax):
    """sum_h ov_h . Z softmax(Z^T kq_h z_q): the examples z = (x, y), read by z_q = (x_q, 0)."""
    examples = jnp.concatenate([x[:, :-1], y[:, :-1, None]], -1)
    query = jnp.concatenate([x[:, -1], jnp.zeros_like(y[:, -1:])], -1)
    logits = jnp.einsum("be,hef,blf->bhl", query, params["kq"], examples)
    return jnp.einsum("bhl,hf,blf->b", normalise(logits), params["ov"], examples)


def linear(logits):
    """Linear attention in place of softmax: sums scaled for the training length."""
    return logits / LENGTH


def train(heads: int, steps: int, normalise=ops.softmax, seed: int = 0):
    """Parameters after training on fresh prompts from small random ones."""
    optimizer = optax.adam(optax.cosine_decay_schedule(2e-2, steps))

    @jax.jit
    def step(params, state, x, y):
        def loss(params):
            return jnp.mean((predict(params, x, y, normalise) - y[:, -1]) ** 2)

        updates, state = optimizer.update(jax.grad(loss)(params), state)
        return optax.apply_updates(params, updates), state

    kq, ov = jax.random.split(jax.random.key(seed))
    params = {
        "kq": 0.1 * jax.random.normal(kq, (heads, DIM + 1, DIM + 1)),
        "ov": 0.1 * jax.random.normal(ov, (heads, DIM + 1)),
    }
    state, rng = optimizer.init(params), np.random.default_rng(seed)
    for _ in range(steps):
        params, state = step(params, state, *linear_regression(rng, 256, LENGTH, DIM, NOISE))
    return params


def debiased(x, y):
    """One step of gradient descent with centred covariates, its step size the best for LENGTH.

    eta / L sum_l y_l (x_l - mean) . x_q, where with n = L - 1 centred covariates' products are
    Wishart(n, I) / L: eta = L / (n + d + 1 + noise d), and the risk is
    1 + noise - n / (n + d + 1 + noise d).
    """
    centred = x[:, :-1] - x[:, :-1].mean(1, keepdims=True)
    eta = LENGTH / (LENGTH + DIM + NOISE * DIM)
    return eta / LENGTH * np.einsum("bld,bl,bd->b", centred, y[:, :-1], x[:, -1])


def bayes(x, y):
    """Ridge regression with the true variances: the posterior mean."""
    examples, targets = x[:, :-1].astype(np.float64), y[:, :-1].astype(np.float64)
    gram = np.einsum("bld,ble->bde", examples, examples) + DIM * NOISE * np.eye(DIM)
    moment = np.einsum("bld,bl->bd", examples, targets)
    return np.einsum("bd,bd->b", np.linalg.solve(gram, moment[..., None])[..., 0], x[:, -1])


def risk(prediction, y) -> float:
    return float(np.mean((np.asarray(prediction, np.float64) - y[:, -1]) ** 2))


@claim(
    "icl-regression",
    paper="icl-linreg-multihead-softmax",
    by_hand=True,
    figure="icl_regression",
)
def icl_regression(quick):
    """Two softmax heads learn debiased gradient descent: a multiple of I, signs +-, sums zero."""
    steps, prompts = (50, 2000) if quick else (4000, 40_000)
    two, one = train(2, steps), train(1, steps)
    sums = train(1, steps, linear)
    x, y = linear_regression(np.random.default_rng(99), prompts, LENGTH, DIM, NOISE)
    run = jax.jit(predict, static_argnames="normalise")
    risks = {
        "two heads": risk(run(two, x, y), y),
        "one head": risk(run(one, x, y), y),
        "debiased": risk(debiased(x, y), y),
        "bayes": risk(bayes(x, y), y),
    }
    n = LENGTH - 1
    closed_form = 1 + NOISE - n / (n + DIM + 1 + NOISE * DIM)

    kq, ov = np.asarray(two["kq"]), np.asarray(two["ov"])
    square = kq[:, :DIM, :DIM]
    diagonals = np.diagonal(square, axis1=1, axis2=2)
    sizes = np.abs(diagonals).mean(1)
    off = np.abs(square * (1 - np.eye(DIM))).max((1, 2))
    spread = diagonals.std(1)
    last = ov[:, -1]
    lengths = (10, 20, 40, 80, 160, 320)
    curves = {"two softmax heads": [], "linear attention": [], "debiased": [], "Bayes": []}
    for length in lengths:
        longer = linear_regression(np.random.default_rng(7), prompts // 4, length, DIM, NOISE)
        curves["two softmax heads"].append(risk(run(two, *longer), longer[1]))
        curves["linear attention"].append(risk(run(sums, *longer, normalise=linear), longer[1]))
        curves["Bayes"].append(risk(bayes(*longer), longer[1]))
        # one step of descent divides by the examples it has
        scaled = LENGTH / length * debiased(*longer)
        curves["debiased"].append(risk(scaled, longer[1]))
    if not quick:
        _picture(kq, ov, lengths, curves)
    softmax, sums = (curves[name] for name in ("two softmax heads", "linear attention"))
    longest = lengths.index(160)
    return [
        Finding(
            "KQ: largest entry off the diagonal over the diagonal's mean, head by head",
            "0 (diagonal)",
            ", ".join(f"{value:.3f}" for value in off / sizes),
            float((off / sizes).max()) < 0.1,
        ),
        Finding(
            "KQ: deviation along the diagonal over its mean",
            "0 (a multiple of I)",
            ", ".join(f"{value:.3f}" for value in spread / sizes),
            float((spread / sizes).max()) < 0.1,
        ),
        Finding(
            "KQ: means of the two diagonals",
            "opposite signs, equal sizes",
            ", ".join(f"{value:.3f}" for value in diagonals.mean(1)),
            bool(diagonals.mean(1).prod() < 0 and abs(sizes[0] - sizes[1]) < 0.1 * sizes.mean()),
        ),
        Finding(
            "OV: the y entries of the heads, and the largest other entry",
            "sum to zero; 0",
            f"{last[0]:.3f} and {last[1]:.3f}; {np.abs(ov[:, :-1]).max():.3f}",
            bool(
                abs(last.sum()) < 0.05 * np.abs(last).sum()
                and np.abs(ov[:, :-1]).max() < 0.1 * np.abs(last).mean()
            ),
        ),
        Finding(
            "risk of two heads, of the debiased predictor on the same prompts, and its closed form",
            "nearly equal",
            f"{risks['two heads']:.4f}, {risks['debiased']:.4f}, {closed_form:.4f}",
            abs(risks["two heads"] / risks["debiased"] - 1) < 0.05,
        ),
        Finding(
            "risk of one head",
            "above that of two",
            f"{risks['one head']:.4f}",
            risks["one head"] > 1.2 * risks["two heads"],
        ),
        Finding(
            "risk of two heads over Bayes'",
            "a constant factor",
            f"{risks['two heads'] / risks['bayes']:.2f} (Bayes {risks['bayes']:.4f})",
            risks["two heads"] < 3 * risks["bayes"],
        ),
        Finding(
            f"trained on {LENGTH} examples, read on {lengths[longest]}: risk of two softmax heads, "
            "and of linear attention, whose sums grow with the length",
            "softmax's falls further, linear's does not",
            f"{softmax[longest]:.3f}, {sums[longest]:.3f}",
            softmax[longest] < softmax[lengths.index(LENGTH)] < sums[longest],
        ),
    ]


def _picture(kq, ov, lengths, curves):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    sizes = {"figsize": (15, 3.4), "width_ratios": (1, 1, 1, 1.6), "layout": "constrained"}
    figure, axes = plt.subplots(1, 4, **sizes)
    bound = np.abs(kq[:, :DIM]).max()
    names = [f"x{i + 1}" for i in range(DIM)] + ["y"]
    for head in range(2):
        image = axes[head].imshow(kq[head, :DIM], cmap="RdBu", vmin=-bound, vmax=bound)
        axes[head].set(title=f"KQ of head {head + 1}", xlabel="example", ylabel="query")
        axes[head].set_xticks(range(DIM + 1), names)
        axes[head].set_yticks(range(DIM), names[:DIM])
    figure.colorbar(image, ax=axes[:2], shrink=0.7)
    for head in range(2):
        axes[2].bar(np.arange(DIM + 1) + 0.4 * head - 0.2, ov[head], 0.4, label=f"head {head + 1}")
    axes[2].set_xticks(range(DIM + 1), names)
    axes[2].set(title="OV, row of the prediction")
    axes[2].legend()
    for (name, risks), style in zip(curves.items(), ("o-", "o-", "x--", "o-")):
        axes[3].plot(lengths, risks, style, label=name)
    axes[3].axvline(LENGTH, color="grey", linestyle=":")
    axes[3].set(xscale="log", yscale="log", xlabel="examples in the prompt", title="risk")
    axes[3].legend()
    save_figure(figure, "icl_regression")
