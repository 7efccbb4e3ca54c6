"""Softmax variants against their formulas in plain JAX and torch, alone and inside attention."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.harness import benchmark
from benchmarks.passes import heads_first, normal, op_rows
from scanmax import ops


def _divided(scores):
    return scores / jnp.maximum(scores.sum(-1, keepdims=True), 1e-30)


def _by_threshold(x, power):
    """sum relu(x - tau)^power = 1 by sorting, differentiated by JAX."""
    # a masked logit only has to be out of reach
    z = -jnp.sort(-jnp.maximum(x - x.max(-1, keepdims=True), -3), axis=-1)
    k = jnp.arange(1, z.shape[-1] + 1, dtype=z.dtype)
    if power == 1:
        taus = (jnp.cumsum(z, -1) - 1) / k
    else:
        mean = jnp.cumsum(z, -1) / k
        spread = jnp.cumsum(z * z, -1) - k * mean**2
        taus = mean - jnp.sqrt(jnp.maximum((1 - spread) / k, 1e-12))
    size = (z > taus).sum(-1, keepdims=True)
    tau = jnp.take_along_axis(taus, size - 1, -1)
    return jax.nn.relu(x - x.max(-1, keepdims=True) - tau) ** power


def _lssa(x, count):
    return _divided(jax.nn.softplus(math.log(64) * jnp.log(count) * x) * (x > -jnp.inf))


def _lssar(x, count):
    return _divided(jax.nn.relu(count * _lssa(x, count) - 1 * (count > 1)) ** 3)


def _quad(x):
    return _divided(jnp.where(x > -jnp.inf, x + 5, 0) ** 2)


def _stable_scores(x):
    return jnp.where(x < 0, 1 / (1 - x), 1 + x)


# name -> (op over the last axis, naive JAX form)
FUNCTIONS = {
    "softmax": (ops.softmax, lambda x: jax.nn.softmax(x, -1)),
    "log_softmax": (ops.log_softmax, lambda x: jnp.log(jax.nn.softmax(x, -1))),
    "log_stablemax": (ops.log_stablemax, lambda x: jnp.log(_divided(_stable_scores(x)))),
    "softmax and reweight_power": (
        lambda x: ops.reweight_power(jax.nn.softmax(x, -1)),
        lambda x: _divided(jax.nn.relu(x.shape[-1] * jax.nn.softmax(x, -1) - 1) ** 3),
    ),
    "relu_softmax": (ops.relu_softmax, lambda x: _divided(jax.nn.relu(x))),
    "two_quad": (ops.two_quad, lambda x: _divided((x + 5) ** 2)),
    "softplus_softmax": (
        functools.partial(ops.softplus_softmax, dim=64),
        lambda x: _lssa(x, x.shape[-1]),
    ),
    "squared_relu_softmax": (
        ops.squared_relu_softmax,
        lambda x: jnp.square(jax.nn.relu(x)) / (jnp.square(jax.nn.relu(x)).sum(-1)[:, None] + 1e-5),
    ),
    "sigmoid_weights": (
        ops.sigmoid_weights,
        lambda x: jax.nn.sigmoid(x - math.log(x.shape[-1])),
    ),
    "stablemax": (ops.stablemax, lambda x: _divided(_stable_scores(x))),
    "softmax_one": (
        ops.softmax_one,
        lambda x: jax.nn.softmax(jnp.pad(x, ((0, 0), (0, 1))))[:, :-1],
    ),
    "sparsemax": (ops.sparsemax, functools.partial(_by_threshold, power=1)),
    "entmax15": (ops.entmax15, lambda x: _by_threshold(x / 2, 2)),
}

# name -> naive weights of masked logits, given how many keys each row sees
NAIVE = {
    "softmax": lambda x, count: jax.nn.softmax(x),
    "softmax_one": lambda x, count: jax.nn.softmax(jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, 1))))[
        ..., :-1
    ],
    "relu_softmax": lambda x, count: _divided(jax.nn.relu(x)),
    "two_quad": lambda x, count: _quad(x),
    "softplus": _lssa,
    "lssar": _lssar,
    "sparsemax": lambda x, count: _by_threshold(x, 1),
    "entmax15": lambda x, count: _by_threshold(x / 2, 2),
}


def _torch_weights(name):
    """The same in torch where it has the pieces, else None."""
    import torch

    def divided(x):
        return x / x.sum(-1, keepdim=True).clamp_min(1e-30)

    def quad(x):
        return divided((x + 5).masked_fill(x == -math.inf, 0) ** 2)

    def softplus(x, count):
        scores = torch.nn.functional.softplus(math.log(64) * count.log() * x)
        return divided(scores.masked_fill(x < -1e29, 0))

    def lssar(x, count):
        return divided((count * softplus(x, count) - (count > 1).float()).relu() ** 3)

    return {
        "softmax": lambda x, count: x.softmax(-1),
        "relu_softmax": lambda x, count: divided(x.relu()),
        "two_quad": lambda x, count: quad(x),
        "softplus": softplus,
        "lssar": lssar,
    }.get(name)


@benchmark("softmax")
def softmax(quick: bool):
    """ops.softmax variants against their formulas in plain JAX, float32."""
    for rows, width in [(64, 64)] if quick else [(2048, 1024), (64, 32768)]:
        x = normal((rows, width))
        for name, (ours, naive) in FUNCTIONS.items():
            peers = {"plain JAX": naive}
            yield from op_rows(f"{name}, {rows} x {width}", ours, x, jax_peers=peers)


@benchmark("normalizers")
def normalizers(quick: bool):
    """Causal attention by each normalizer, chunked, against the matrix in plain JAX and torch."""
    for T, heads in [(64, 2)] if quick else [(1024, 8), (4096, 2)]:
        arrays = normal(*[(1, T, heads, 64)] * 3)
        for name in NAIVE:
            yield from op_rows(
                f"{name}, T={T}, {heads} x 64, causal",
                functools.partial(
                    ops.dot_product_attention, is_causal=True, normalizer=name, form="chunked"
                ),
                arrays,
                jax_peers={"plain JAX": functools.partial(_naive, name)},
                torch_peers=_torch(name, T),
                tensors=heads_first,
                name="chunked",
                tolerance=1e-3,
            )


def _naive(name, query, key, value):
    T = query.shape[1]
    logits = jnp.einsum("bthk,bshk->bhts", query, key) / 8
    logits = jnp.where(jnp.tril(jnp.ones((T, T), bool)), logits, -jnp.inf)
    count = jnp.arange(1.0, T + 1)[:, None]
    return jnp.einsum("bhts,bshv->bthv", NAIVE[name](logits, count), value)


def _torch(name, T):
    """The same over the whole matrix in torch, where it has the pieces."""
    import torch

    weights = _torch_weights(name)
    if weights is None:
        return {}
    hidden = ~torch.ones(T, T, dtype=torch.bool).tril()
    count = torch.arange(1.0, T + 1)[:, None]
    floor = -1e30 if name in ("softplus", "lssar") else -math.inf

    def attend(query, key, value):
        logits = (query @ key.transpose(-1, -2) / 8).masked_fill(hidden, floor)
        return weights(logits, count) @ value

    return {"torch": attend}


@benchmark("hubness")
def hubness(quick: bool):
    """Inverted and dual inverted softmax over banks against plain JAX and torch, float32."""

    def inverted(similarity, bank):
        return jnp.exp(20 * similarity) / jnp.exp(20 * bank).sum(-2)

    def dual(similarity, queries, gallery):
        return inverted(similarity, queries) * inverted(similarity, gallery)

    def inverted_torch(similarity, bank):
        return (20 * similarity).exp() / (20 * bank).exp().sum(-2)

    def dual_torch(similarity, queries, gallery):
        return inverted_torch(similarity, queries) * inverted_torch(similarity, gallery)

    for T, S in ((32, 64),) if quick else ((1024, 1024), (1000, 8192)):
        # cosine similarities: the plain forms have no protection against overflow
        arrays = [np.tanh(x) for x in normal((T, S), (2 * T, S), (T, S), scale=0.3)]
        for name, ours, plain, peer, count in (
            ("inverted", ops.inverted_softmax, inverted, inverted_torch, 2),
            ("dual inverted", ops.dual_inverted_softmax, dual, dual_torch, 3),
        ):
            yield from op_rows(
                f"{name}, {T} queries, {S} items",
                ours,
                arrays[:count],
                jax_peers={"plain JAX": plain},
                torch_peers={"torch": peer},
                training=False,
            )
