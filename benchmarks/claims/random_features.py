"""Dense layers over random features: how errors fall, and what a closed form is worth."""

import functools
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.claims import Finding, claim
from scanmax import ops
from scanmax.models.parts.random_features import RandomFeatureDense

COUNTS = (8, 32, 128, 512)


def _exact(name, x, w):
    """What the mean of the products is."""
    if name == "cosine":
        return np.cos(x @ w)
    if name == "sine":
        return np.sin(x @ w)
    sizes = np.linalg.norm(x) * np.linalg.norm(w)
    angle = np.arccos(x @ w / sizes)
    return sizes * (np.sin(angle) + (np.pi - angle) * np.cos(angle)) / (2 * np.pi)


@functools.partial(jax.jit, static_argnames="name")
def _products(keys, x, w, *, name):
    """What each of the features adds, M times its share: a row for each key."""

    def products(key):
        directions, signs = jax.random.split(key)
        g = jax.random.normal(directions, (COUNTS[-1], len(x)))
        if name == "relu":
            found = ops.relu_random_features(x, g) * ops.relu_random_features(w, g)
        else:
            u, a, p = ops.fourier_samples(signs, len(g), activation=name)
            psi = ops.universal_random_weights(w[:, None], g, u, a, p)[:, 0]
            found = (ops.universal_random_features(x, g, u) * psi).reshape(2, -1).sum(0)
        return found * len(g)

    return jax.vmap(products)(keys)


@claim("snnk-monte-carlo", paper="snnk")
def snnk_monte_carlo(quick):
    """The error of a layer of m random features falls as 1 / sqrt(m), around no bias."""
    x, w = np.array([0.5, -0.3, 0.2, 0.1]), np.array([0.6, -0.5, 0.4, 0.3])
    given = (jnp.asarray(x, jnp.float32), jnp.asarray(w, jnp.float32))
    keys, findings = jax.random.split(jax.random.key(0), 1000), []
    kinds = {"cosine": "cos(w . x)", "sine": "sin(w . x)", "relu": "the arc-cosine kernel"}
    for name, what in kinds.items():
        off = np.asarray(_products(keys, *given, name=name), np.float64) - _exact(name, x, w)
        errors = [np.sqrt(np.mean(off[:, :count].mean(1) ** 2)) for count in COUNTS]
        slope = float(np.polyfit(np.log(COUNTS), np.log(errors), 1)[0])
        bias = float(abs(off.mean()) / (off.std() / off.size**0.5))
        findings += [
            Finding(
                f"power of m in the error of {what}, m from 8 to 512",
                "-0.50",
                f"{slope:.2f}",
                abs(slope + 0.5) < 0.05,
            ),
            Finding(
                "distance of its mean from it, in deviations of the mean",
                "within 4: no bias",
                f"{bias:.1f}",
                bias < 4,
            ),
        ]
    return findings


def _digits(seed):
    """Digits in a new order: pixels of mean 0 and rows of length 1, a column of ones, classes."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(images))
    images, labels = images[order], labels[order]
    images = images - images[:1400].mean(0)
    images = images / np.linalg.norm(images, axis=1, keepdims=True)
    return jnp.asarray(images, jnp.float32), jnp.asarray(labels)


def _descend(predict, params, x, targets, steps):
    """Parameters after Adam on the mean square error of the whole set."""
    optimizer = optax.adam(optax.cosine_decay_schedule(0.01, steps))

    @jax.jit
    def train(params):
        def step(carry, _):
            params, state = carry
            loss = lambda p: jnp.mean((predict(p, x) - targets) ** 2)  # noqa: E731
            updates, state = optimizer.update(jax.grad(loss)(params), state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, optimizer.init(params)), length=steps)[0][0]

    return jax.block_until_ready(train(params))


@claim("snnk-bundled-digits", paper="snnk", by_hand=True)
def snnk_bundled_digits(quick):
    """A net that is bundled whole is solved in closed form, as well as by gradients, and sooner."""
    steps, count = (20, 64) if quick else (1000, 512)
    accuracies: dict[str, list[float]] = {}
    seconds: dict[str, list[float]] = {}
    errors: dict[str, list[float]] = {}
    for seed in (0, 1, 2):
        x, labels = _digits(seed)
        learned, targets = slice(0, 1400), jax.nn.one_hot(labels, 10)
        for name in ("relu", "cosine"):
            layer = RandomFeatureDense(10, count, activation=name, radius=1.0, seed=seed)
            phi = layer.features_of(x)
            phi = jnp.concatenate([phi, jnp.ones_like(phi[:, :1])], 1)
            start = time.perf_counter()
            solved = ops.fit_dense(phi[learned], targets[learned], ridge=1e-6)
            solved = jax.block_until_ready(solved)
            middle = time.perf_counter()
            product = lambda w, phi: phi @ w  # noqa: E731
            trained = _descend(
                product, jnp.zeros_like(solved), phi[learned], targets[learned], steps
            )
            end = time.perf_counter()
            for how, w, took in (
                ("closed", solved, middle - start),
                ("gradient", trained, end - middle),
            ):
                right = (jnp.argmax(phi @ w, 1) == labels)[1400:]
                accuracies.setdefault(f"{name} {how}", []).append(float(right.mean()))
                seconds.setdefault(f"{name} {how}", []).append(took)
                error = jnp.mean((phi[learned] @ w - targets[learned]) ** 2)
                errors.setdefault(f"{name} {how}", []).append(float(error))
        keys = jax.random.split(jax.random.key(seed))
        # As many hidden units as features.
        params = {
            "w": jax.random.normal(keys[0], (64, count)) * 2**0.5,
            "v": jax.random.normal(keys[1], (count, 10)) * count**-0.5,
            "b": jnp.zeros((1, 10)),
        }
        net = lambda p, x: jax.nn.relu(x @ p["w"]) @ p["v"] + p["b"]  # noqa: E731
        params = _descend(net, params, x[learned], targets[learned], steps)
        right = (jnp.argmax(net(params, x), 1) == labels)[1400:]
        accuracies.setdefault("two layers", []).append(float(right.mean()))

    def told(name):
        values = accuracies[name]
        return f"{np.mean(values):.1%} ({min(values):.1%} to {max(values):.1%})"

    findings = []
    for name in ("relu", "cosine"):
        own, other = f"{name} closed", f"{name} gradient"
        findings.append(
            Finding(
                f"held-out digits, closed form of {count} {name} features and {steps} steps of "
                "Adam on them",
                "comparable: within a point of the gradient's",
                f"{told(own)}; {told(other)}",
                bool(np.mean(accuracies[own]) > np.mean(accuracies[other]) - 0.01),
            )
        )
        findings.append(
            Finding(
                "their square error on the digits that they learn from, the worst seed's",
                "closed form less",
                f"{max(errors[own]):.5f}; {max(errors[other]):.5f}",
                all(x < y for x, y in zip(errors[own], errors[other])),
            )
        )
        findings.append(
            Finding(
                "their seconds, the last seed, compiled anew",
                "closed form less",
                f"{seconds[own][-1]:.2f}; {seconds[other][-1]:.2f}",
                seconds[own][-1] < seconds[other][-1],
            )
        )
    best = max(np.mean(accuracies[f"{name} closed"]) for name in ("relu", "cosine"))
    findings.append(
        Finding(
            f"two layers of {count} hidden units, both trained, by Adam on the same error",
            "comparable: within a point of the best closed form",
            told("two layers"),
            bool(best > np.mean(accuracies["two layers"]) - 0.01),
        )
    )
    return findings
