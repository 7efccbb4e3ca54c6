"""Hypernetworks: the size of what they make, and how soon they learn."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.claims import Finding, claim
from scanmax.models.hypernetworks import HyperNet, Hypernetized

# Encoding, and whether weights are added to the module's own.
KINDS = {"without": (None, False), "with": ("cos|sin", True)}
RATES = (3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
HIDDEN = (16, 64, 128)
TURNS = 16


class Classifier(nn.Module):
    """A perceptron of one hidden layer."""

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(32)(x)
        return nn.Dense(10)(jax.nn.leaky_relu(x))


@claim("mip-magnitudes", paper="mip-hypernetworks")
def mip_magnitudes(quick):
    """Weights are as large as the number they are made of; encoded numbers leave their size."""
    numbers = np.array([0.1, 0.25, 0.5, 1.0])
    lengths = {}
    for kind, (encoding, residual) in KINDS.items():
        model = Hypernetized(Classifier(), HIDDEN, encoding, residual)
        start = jax.jit(model.init)
        params = start(jax.random.key(0), jnp.ones(1), jnp.ones((1, 64)))["params"]
        own = nn.unbox(params["primary"])["Dense_0"]["kernel"]
        name = "Dense_0/kernel"
        shapes = {"Dense_0/kernel": (64, 32), "Dense_0/bias": (32,)}
        shapes |= {"Dense_1/kernel": (32, 10), "Dense_1/bias": (10,)}
        net = HyperNet(shapes, HIDDEN, encoding)
        made = net.apply({"params": params["hyper"]}, jnp.asarray(numbers, jnp.float32)[:, None])
        theta = np.asarray(own[None] + made[name], np.float64).reshape(len(numbers), -1)
        lengths[kind] = np.linalg.norm(theta, axis=1)
    plain, encoded = lengths["without"], lengths["with"]
    listed = {kind: ", ".join(f"{x / own[-1]:.2f}" for x in own) for kind, own in lengths.items()}
    return [
        Finding(
            "size of the weights of 0.1, 0.25, 0.5 and 1 over that of 1, at the start",
            "the numbers themselves",
            listed["without"],
            bool(np.allclose(plain / plain[-1], numbers, rtol=1e-3)),
        ),
        Finding(
            "the same encoded and added to a start of their own",
            "all alike",
            listed["with"],
            bool(encoded.max() / encoded.min() < 1.25),
        ),
    ]


def _turned_digits():
    """Digits at angles from 0 to 90 degrees, [TURNS, N, 64], and their classes."""
    from scipy.ndimage import rotate
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    images = images.reshape(-1, 8, 8) / 16
    turned = [
        rotate(images, angle, axes=(1, 2), reshape=False, order=1)
        for angle in np.linspace(0, 90, TURNS)
    ]
    return jnp.asarray(np.stack(turned).reshape(TURNS, -1, 64), jnp.float32), jnp.asarray(labels)


@claim("mip-digits", paper="mip-hypernetworks", by_hand=True)
def mip_digits(quick):
    """Told how far digits are turned, a hypernetwork learns sooner with MIP, at more rates."""
    images, labels = _turned_digits()
    steps, bound = 20 if quick else 1500, 0.5

    @functools.partial(jax.jit, static_argnums=0)
    def train(kind, seed, rate):
        model = Hypernetized(Classifier(), HIDDEN, *KINDS[kind])
        start, draws = jax.random.split(jax.random.key(seed))
        params = nn.unbox(model.init(start, jnp.ones(1), images[0, :1]))["params"]
        optimizer = optax.scale_by_adam()

        def loss_of(params, gamma, x, y):
            logits = model.apply({"params": params}, gamma, x)
            return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

        def step(carry, key):
            params, state, average = carry
            turn_key, row_key = jax.random.split(key)
            turn = jax.random.randint(turn_key, (), 0, TURNS)
            rows = jax.random.randint(row_key, (32,), 0, len(labels))
            gamma = turn.astype(jnp.float32)[None] / (TURNS - 1)
            given = (gamma, images[turn, rows], labels[rows])
            loss, gradient = jax.value_and_grad(loss_of)(params, *given)
            updates, state = optimizer.update(gradient, state)
            params = jax.tree.map(lambda p, u: p - rate * u, params, updates)
            average = 0.95 * average + 0.05 * loss
            return (params, state, average), average

        carry = (params, optimizer.init(params), jnp.log(10.0))
        return jax.lax.scan(step, carry, jax.random.split(draws, steps))[1]

    reached = {kind: {} for kind in KINDS}
    for kind in KINDS:
        for rate in RATES:
            for seed in (0, 1, 2):
                below = np.flatnonzero(np.asarray(train(kind, seed, rate)) < bound)
                count = int(below[0]) + 1 if len(below) else steps
                reached[kind].setdefault(rate, []).append(count)

    findings = []
    for rate in RATES:
        without, own = (reached[kind][rate] for kind in ("without", "with"))
        told = "; ".join(", ".join(str(n) for n in counts) for counts in (own, without))
        findings.append(
            Finding(
                f"steps of Adam at {rate:g} to a mean loss below {bound}, with MIP and without, "
                f"seeds 0 to 2, {steps} where it is not reached",
                "fewer with it",
                told,
                sum(own) < sum(without),
            )
        )
    wide = {
        kind: sum(max(counts) < steps for counts in by_rate.values())
        for kind, by_rate in reached.items()
    }
    findings.append(
        Finding(
            f"of {len(RATES)} rates those at which all seeds reach it, with MIP and without",
            "more with it",
            f"{wide['with']}; {wide['without']}",
            wide["with"] > wide["without"],
        )
    )
    return findings
