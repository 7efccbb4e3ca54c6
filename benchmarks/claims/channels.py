"""Claims of the papers that choose few of many channels or experts."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import sklearn.datasets

from benchmarks.claims import Finding, claim
from scanmax import ops
from scanmax.models.parts.mixed_experts import MixedExperts


@claim("sigma-moe-is-an-mlp", paper="sigma-moe-pkm")
def sigma_moe_is_an_mlp(quick):
    """All experts with gates of 1 are the MLP of their channels; product keys miss no key."""
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        x, kernel, out = (
            jnp.asarray(rng.normal(size=shape)) for shape in ((5, 6), (4, 6, 3), (4, 3, 6))
        )
        y = ops.dropless_experts(x, jnp.ones((5, 4)), kernel, out, top_k=4)
        hidden = jax.nn.relu(x @ jnp.moveaxis(kernel, 0, 1).reshape(6, 12))
        error = float(jnp.abs(y - hidden @ out.reshape(12, 6)).max())
    halves = rng.normal(size=(2, 200, 64)).astype(np.float32)
    sums = (halves[0][:, :, None] + halves[1][:, None]).reshape(200, -1)
    found = np.asarray(ops.product_key_top_k(*halves, top_k=32)[0])
    missed = int((found != -np.sort(-sums, -1)[:, :32]).sum())
    return [
        Finding("difference from the dense MLP", "0", f"{error:.0e}", error < 1e-12),
        Finding(
            "of the 32 best of 4096 keys, for 200 tokens, missed", "0", str(missed), not missed
        ),
    ]


@claim("noisy-gates-balance", paper="sparsely-gated-moe")
def noisy_gates_balance(quick):
    """Descent on the losses of importance and load spreads tokens over experts."""
    x = jax.random.normal(jax.random.key(0), (256, 8)) + 1
    start = jax.random.normal(jax.random.key(1), (2, 8, 8))

    def counts(weights, noise):
        gates = ops.expert_gates(ops.noisy_logits(*(x @ w for w in weights), noise), top_k=2)
        return gates, jnp.sum(gates != 0, 0)

    def loss(weights, noise):
        gates, _ = counts(weights, noise)
        load = ops.expert_load(*(x @ w for w in weights), noise, top_k=2)
        return sum(ops.squared_variation(jnp.sum(part, 0)) for part in (gates, load))

    @jax.jit
    def train(weights):
        def step(weights, key):
            noise = jax.random.normal(key, (256, 8))
            return weights - 0.05 * jax.grad(loss)(weights, noise), None

        return jax.lax.scan(step, weights, jax.random.split(jax.random.key(2), 200))[0]

    shares = []
    for weights in (start, train(start)):
        _, taken = counts(weights, jax.random.normal(jax.random.key(3), (256, 8)))
        shares.append(float(jnp.max(taken) / jnp.mean(taken)))
    return [
        Finding(
            "tokens of the busiest of 8 experts over the mean, before and after",
            "17.8 without the losses, 1.14 with them, at another size",
            f"{shares[0]:.2f} and {shares[1]:.2f}",
            shares[1] < 1.3 < shares[0],
        )
    ]


# Of Feynman's list: a Gaussian, relativistic momentum, a force at a distance, a sum of waves.
FEYNMAN = {
    "exp(-(t / s)^2 / 2) / s": lambda a: jnp.exp(-((3 * a[0] / a[1]) ** 2) / 2) / a[1],
    "m v / sqrt(1 - (v / c)^2)": lambda a: a[0] * a[2] / jnp.sqrt(1 - (0.3 * a[2] / a[1]) ** 2),
    "q1 q2 / r^2": lambda a: a[0] * a[1] / a[2] ** 2,
    "sin(n t / 2)^2 / sin(t / 2)^2": lambda a: (jnp.sin(6 * a[0]) / jnp.sin(a[0])) ** 2,
}


class _Experts(nn.Module):
    """Numbers as tokens to a width, a block of experts, and the answer."""

    kans: int
    answers: int

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(24)(x)
        experts = MixedExperts(24, 8, kan_experts=self.kans, name="experts")
        x = x + experts(nn.LayerNorm()(x)[None])[0]
        return nn.Dense(self.answers)(x)


def _train_experts(network, loss, x, y, x_new, seeds, steps):
    """What networks of several seeds say of x_new, the shares of their experts, and their size."""
    optimizer = optax.adam(optax.cosine_decay_schedule(0.01, steps))

    @jax.jit
    def one(key):
        start, order = jax.random.split(key)
        params = nn.unbox(network.init(start, x[:8]))["params"]

        def step(carry, key):
            params, state = carry
            rows = jax.random.randint(key, (128,), 0, len(x))
            gradient = jax.grad(lambda p: loss(network.apply({"params": p}, x[rows]), y[rows]))
            updates, state = optimizer.update(gradient(params), state)
            return (optax.apply_updates(params, updates), state), None

        keys = jax.random.split(order, steps)
        (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), keys)
        told, seen = network.apply(
            {"params": params},
            x_new,
            capture_intermediates=lambda module, _: module.name == "router",
        )
        logits = seen["intermediates"]["experts"]["router"]["__call__"][0]
        shares = jnp.mean(ops.expert_gates(logits, top_k=2)[0] != 0, 0) / 2
        return told, shares, sum(p.size for p in jax.tree.leaves(params))

    told, shares, sizes = zip(*(one(jax.random.key(seed)) for seed in seeds))
    return np.stack(told), np.stack(shares), int(sizes[0])


@claim("mlp-kan-experts", paper="mlp-kan", by_hand=True)
def mlp_kan_experts(quick):
    """Half MLPs and half KANs serve functions and images, where one kind serves one of them."""
    seeds, steps = ((0,), 50) if quick else ((0, 1, 2), 400)
    x = jax.random.uniform(jax.random.key(0), (2048, 3), minval=0.5, maxval=1.5)
    y = jnp.stack([f(x.T) for f in FEYNMAN.values()], -1)
    y = (y - y.mean(0, keepdims=True)) / y.std(0, keepdims=True)
    digits = sklearn.datasets.load_digits()
    pixels, labels = jnp.asarray(digits.data / 16, jnp.float32), jnp.asarray(digits.target)
    errors, accuracy, shares, sizes = {}, {}, {}, {}
    for name, kans in (("mixed", 4), ("MLPs", 0), ("KANs", 8)):
        told, used, sizes[name] = _train_experts(
            _Experts(kans, 4),
            lambda a, b: jnp.mean((a - b) ** 2),
            x[:1024],
            y[:1024],
            x[1024:],
            seeds,
            steps,
        )
        errors[name] = np.sqrt(((told - np.asarray(y)[1024:]) ** 2).mean(1))
        told, seen, _ = _train_experts(
            _Experts(kans, 10),
            lambda a, b: optax.softmax_cross_entropy_with_integer_labels(a, b).mean(),
            pixels[:1200],
            labels[:1200],
            pixels[1200:],
            seeds,
            steps,
        )
        right = told.argmax(-1) == np.asarray(labels)[1200:]
        accuracy[name] = 100 * float(right.mean())
        shares[name] = used.mean(0), seen.mean(0)
    means = {name: float(np.exp(np.log(error).mean())) for name, error in errors.items()}
    functions, images = shares["mixed"]
    listed = {
        task: ", ".join(f"{name} {value:.3g}" for name, value in found.items())
        for task, found in (("functions", means), ("digits", accuracy))
    }
    return [
        Finding(
            "error of four functions over the deviation, geometric mean, by kinds of experts",
            "mixed is competitive",
            listed["functions"],
            means["mixed"] <= 1.1 * min(means.values()),
        ),
        Finding(
            "accuracy on digits, %",
            "mixed is competitive",
            listed["digits"],
            accuracy["mixed"] >= max(accuracy.values()) - 0.5,
        ),
        Finding(
            "parameters",
            "-",
            ", ".join(f"{name} {size}" for name, size in sizes.items()),
            True,
        ),
        Finding(
            "choices that fall on KANs, functions and digits; the least used of eight experts",
            "both kinds are used",
            f"{functions[4:].sum():.0%} and {images[4:].sum():.0%}; "
            f"{functions.min():.1%} and {images.min():.1%}",
            bool(min(functions[4:].sum(), images[4:].sum()) > 0.1)
            and bool(max(functions[4:].sum(), images[4:].sum()) < 0.9),
        ),
    ]
