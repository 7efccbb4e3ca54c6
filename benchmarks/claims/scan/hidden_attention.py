"""The hidden attention of Mamba: the matrix that its scans apply, drawn and rolled out."""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.claims import Finding, claim, save_figure
from benchmarks.claims.conv import digits, trained
from scanmax import ops
from scanmax.models import create_model


def _gap(actual, expected) -> float:
    return float(jnp.abs(actual - expected).max() / jnp.abs(expected).max())


@claim("hidden-attention-equals-scan", paper="hidden-mamba-attention")
def equals_scan(quick):
    """Scan, recurrence and the matrix over tokens are three views of one layer."""
    rng = np.random.default_rng(0)

    def draw(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    T, channels, states = 48, 6, 4
    x, dt, A = draw(T, channels), jnp.abs(draw(T, channels)), -jnp.abs(draw(channels, states))
    B, C = draw(T, states), draw(T, states)
    y = ops.selective_scan(x, dt, A, B, C)
    matrix = ops.selective_scan_matrix(dt, A, B, C)
    state, steps = jnp.zeros((channels, states)), []
    for t in range(T):
        out, state = ops.selective_scan_step(state, x[t], dt[t], A, B[t], C[t])
        steps.append(out)
    heads, B, C = draw(T, 3, 2), B[:, None], C[:, None]
    rates, steps2 = -jnp.abs(draw(3)), jnp.abs(draw(T, 3))
    ssd = ops.ssd(heads, steps2, rates, B, C)
    ssd_matrix = ops.ssd_matrix(steps2, rates, B, C)
    gaps = {
        "Mamba: matrix times tokens against the scan": _gap(jnp.einsum("cij,jc->ic", matrix, x), y),
        "Mamba: step after step against the scan": _gap(jnp.stack(steps), y),
        "Mamba-2: matrix times tokens against the scan": _gap(
            jnp.einsum("hij,jhp->ihp", ssd_matrix, heads), ssd
        ),
    }
    found = [Finding(what, "equal", f"{gap:.0e}", gap < 1e-5) for what, gap in gaps.items()]
    count = matrix.shape[0]
    what = f"matrices of a layer of {channels} channels"
    return [*found, Finding(what, "one per channel", str(count), count == channels)]


def _matrices(model, variables, images):
    """The sown matrices of every block, first block first."""
    run = jax.jit(lambda x: model.apply(variables, x, mutable=["intermediates"])[1])
    blocks = run(images)["intermediates"]
    names = sorted(name for name in blocks if name.startswith("block_"))
    return [blocks[name]["mixer"]["attention"][0] for name in names]


def _rollout(matrices):
    """What the class token has read of every patch: sizes of entries, rows normalised."""
    sizes = [jnp.abs(matrix.mean(1, keepdims=True)) for matrix in matrices]
    rows = [size / size.sum(-1, keepdims=True) for size in sizes]
    return np.asarray(ops.attention_rollout(rows, num_queries=1))[:, 0, 1:].reshape(-1, 4, 4)


@claim(
    "hidden-attention-digits",
    paper="hidden-mamba-attention",
    by_hand=True,
    figure="hidden_attention",
)
def hidden_attention_digits(quick):
    """Attention rollout over the hidden attention finds the patches that a decision rests on."""
    model = create_model(
        "vit_tiny_patch16_224",
        img_size=8,
        patch_size=2,
        dim=32,
        depth=2,
        heads=4,
        num_classes=10,
        mixer="mamba_bidirectional",
        mixer_options={"mamba_bidirectional": {"d_state": 8}},
    )
    data, held = digits()
    if quick:
        data, held = tuple(part[:64] for part in data), tuple(part[:32] for part in held)
    variables = trained(model, data, epochs=1 if quick else 15, rate=3e-3)
    images, labels = held
    predict = jax.jit(lambda images: model.apply(variables, images).argmax(-1))
    right = float((predict(images) == labels).mean())
    matrices = _matrices(model, variables, images)
    maps = _rollout(matrices)
    count = 4
    rng = np.random.default_rng(2)

    def without(ranks):
        """Accuracy where the first patches by rank are paper."""
        gone = np.zeros((len(images), 16), bool)
        np.put_along_axis(gone, ranks[:, :count], True, axis=1)
        gone = gone.reshape(-1, 4, 4).repeat(2, axis=1).repeat(2, axis=2)[..., None]
        return float((predict(np.where(gone, -1, images)) == labels).mean())

    first = without(np.argsort(-maps.reshape(len(images), -1), axis=1))
    last = without(np.argsort(maps.reshape(len(images), -1), axis=1))
    chance = np.mean(
        [without(rng.permuted(np.tile(np.arange(16), (len(images), 1)), axis=1)) for _ in range(3)]
    )
    _picture(images, labels, matrices, maps)
    return [
        Finding("held-out digits, 16 patches as tokens", "-", f"{100 * right:.1f} %", right > 0.9),
        Finding(
            f"with {count} patches at random as paper",
            "-",
            f"{100 * chance:.1f} %",
            bool(chance > 0),
        ),
        Finding(
            f"with the {count} that rollout ranks first",
            "lower than at random",
            f"{100 * first:.1f} %",
            bool(first < chance),
        ),
        Finding(
            f"with the {count} that it ranks last",
            "higher than at random",
            f"{100 * last:.1f} %",
            bool(last > chance),
        ),
    ]


def _picture(images, labels, matrices, maps) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    chosen = np.unique(labels, return_index=True)[1][:4]
    figure, axes = plt.subplots(len(chosen), 2 + len(matrices), figsize=(9, 7))
    for row, index in zip(axes, chosen):
        row[0].imshow(images[index, ..., 0], cmap="gray_r")
        row[1].imshow(maps[index], cmap="magma")
        for axis, matrix in zip(row[2:], matrices):
            mean = np.asarray(matrix[index].mean(0))
            limit = np.quantile(np.abs(mean), 0.99)
            axis.imshow(mean, cmap="RdBu_r", vmin=-limit, vmax=limit)
        for axis in row:
            axis.set_xticks([])
            axis.set_yticks([])
    titles = ["digit", "rollout", *(f"block {i}" for i in range(len(matrices)))]
    for axis, title in zip(axes[0], titles):
        axis.set_title(title, fontsize=9)
    save_figure(figure, "hidden_attention")
