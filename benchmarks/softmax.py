"""Softmax variants against their formulas in plain JAX and torch, alone and inside attention."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.harness import Row, benchmark, jax_contender, to_torch, torch_contender
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


# name -> (op over the last axis, naive JAX form)
FUNCTIONS = {
    "relu_softmax": (ops.relu_softmax, lambda x: _divided(jax.nn.relu(x))),
    "two_quad": (ops.two_quad, lambda x: _divided((x + 5) ** 2)),
    "softplus_softmax": (
        functools.partial(ops.softplus_softmax, dim=64),
        lambda x: _lssa(x, x.shape[-1]),
    ),
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


def _with_gradients(function):
    def value_and_gradients(*arrays):
        y, pull_back = jax.vjp(function, *arrays[:-1])
        return y, *pull_back(arrays[-1])

    return value_and_gradients


@benchmark("softmax")
def softmax(quick: bool):
    """ops.softmax variants against their formulas in plain JAX, float32."""
    for rows, width in [(64, 64)] if quick else [(2048, 1024), (64, 32768)]:
        rng = np.random.default_rng(0)
        x, cotangent = (rng.normal(size=(rows, width)).astype(np.float32) for _ in "xc")
        for name, (ours, naive) in FUNCTIONS.items():
            for title, wrap, arrays in (
                ("forward", lambda f: f, (x,)),
                ("forward and gradients", _with_gradients, (x, cotangent)),
            ):
                yield Row(
                    f"{name}, {rows} x {width}, {title}",
                    ours=jax_contender("ops", wrap(ours), *arrays),
                    peers=[jax_contender("plain JAX", wrap(naive), *arrays)],
                    tolerance=1e-4,
                )


@benchmark("normalizers")
def normalizers(quick: bool):
    """Causal attention by each normalizer, chunked, against the matrix in plain JAX and torch."""
    for T, heads in [(64, 2)] if quick else [(1024, 8), (4096, 2)]:
        rng = np.random.default_rng(0)
        arrays = [rng.normal(size=(1, T, heads, 64)).astype(np.float32) for _ in range(4)]
        for name in NAIVE:
            yield from _attention_rows(name, arrays)


def _attention_rows(name, arrays):
    T, heads = arrays[0].shape[1:3]

    def ours(query, key, value):
        return ops.dot_product_attention(
            query, key, value, is_causal=True, normalizer=name, form="chunked"
        )

    def naive(query, key, value):
        logits = jnp.einsum("bthk,bshk->bhts", query, key) / 8
        logits = jnp.where(jnp.tril(jnp.ones((T, T), bool)), logits, -jnp.inf)
        count = jnp.arange(1.0, T + 1)[:, None]
        return jnp.einsum("bhts,bshv->bthv", NAIVE[name](logits, count), value)

    forward, backward = _torch(name, arrays)
    for title, wrap, given, peer in (
        ("forward", lambda f: f, arrays[:3], forward),
        ("forward and gradients", _with_gradients, arrays, backward),
    ):
        peers = [jax_contender("plain JAX", wrap(naive), *given)]
        if peer is not None:
            peers.append(torch_contender("torch", peer, result=_in_our_layout))
        yield Row(
            f"{name}, T={T}, {heads} x 64, causal, {title}",
            ours=jax_contender("chunked", wrap(ours), *given),
            peers=peers,
            tolerance=1e-3,
        )


def _in_our_layout(output):
    return jax.tree.map(lambda x: x.detach().transpose(1, 2), output)


def _torch(name, arrays):
    """Forward, and forward with gradients, over the whole matrix in torch; None without it."""
    import torch

    weights = _torch_weights(name)
    if weights is None:
        return None, None
    query, key, value, cotangent = (to_torch(x).transpose(1, 2).contiguous() for x in arrays)
    T = query.shape[-2]
    inputs = [x.requires_grad_() for x in (query, key, value)]
    hidden = ~torch.ones(T, T, dtype=torch.bool).tril()
    count = torch.arange(1.0, T + 1)[:, None]

    def attend():
        logits = (query @ key.transpose(-1, -2) / 8).masked_fill(hidden, -math.inf)
        logits = logits.masked_fill(hidden, -1e30) if name in ("softplus", "lssar") else logits
        return weights(logits, count) @ value

    def forward():
        with torch.no_grad():
            return attend()

    def backward():
        y = attend()
        return y, *torch.autograd.grad(y, inputs, cotangent)

    return forward, backward
