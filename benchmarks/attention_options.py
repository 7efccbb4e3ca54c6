"""Attention with options on its logits and weights against the dense form, and against torch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.claims.attention_options import grid_of
from benchmarks.harness import Row, benchmark, jax_contender, to_torch, torch_contender
from scanmax import ops


def _apply(matrix, value):
    return jnp.einsum("bhts,bshv->bthv", matrix, value)


def _temperature(query):
    return jnp.full(query.shape[-2], 4.2, query.dtype)


def _slopes(query):
    return -ops.alibi_slopes(query.shape[-2])


def _decays(query):
    return ops.manhattan_log_decay(query.shape[-2])


def _loud(query):
    return ops.selective_temperature(query[..., 0], jnp.asarray(0.0), query.shape[1])


def _shares(query):
    return jnp.full(query.shape[-2], 0.5, query.dtype)


# name -> (our op, the weights that it applies), functions of query, key (and value).
CASES = {
    "cosine": (
        lambda q, k, v: ops.length_scaled_cosine_attention(q, k, v, _temperature(q)),
        lambda q, k: ops.length_scaled_cosine_attention_matrix(q, k, _temperature(q)),
    ),
    "selective, causal": (
        lambda q, k, v: ops.selective_attention(q, k, v, _loud(q), is_causal=True),
        lambda q, k: ops.selective_attention_matrix(q, k, _loud(q), is_causal=True),
    ),
    "ALiBi, causal": (
        lambda q, k, v: ops.distance_attention(q, k, v, _slopes(q), is_causal=True),
        lambda q, k: ops.distance_attention_matrix(q, k, _slopes(q), is_causal=True),
    ),
    "Manhattan": (
        lambda q, k, v: ops.manhattan_attention(q, k, v, _decays(q), grid=grid_of(q.shape[1])),
        lambda q, k: ops.manhattan_attention_matrix(q, k, _decays(q), grid=grid_of(q.shape[1])),
    ),
    "Manhattan, on the weights": (
        lambda q, k, v: ops.manhattan_attention(
            q, k, v, _decays(q), grid=grid_of(q.shape[1]), placement="weights"
        ),
        lambda q, k: ops.manhattan_attention_matrix(
            q, k, _decays(q), grid=grid_of(q.shape[1]), placement="weights"
        ),
    ),
    "Manhattan, decomposed": (
        lambda q, k, v: ops.manhattan_attention(
            q, k, v, _decays(q), grid=grid_of(q.shape[1]), decomposed=True
        ),
        lambda q, k: ops.manhattan_attention_matrix(
            q, k, _decays(q), grid=grid_of(q.shape[1]), decomposed=True
        ),
    ),
    "soft causal": (
        lambda q, k, v: ops.soft_causal_attention(q, k, v, jnp.asarray(0.5)),
        lambda q, k: ops.soft_causal_attention_matrix(q, k, jnp.asarray(0.5)),
    ),
    "heterogeneous": (
        lambda q, k, v: ops.heterogeneous_attention(q, k, v, _shares(q)),
        lambda q, k: ops.heterogeneous_attention_matrix(q, k, _shares(q)),
    ),
}
# What torch's fused kernel can do: those that are a bias on the logits.
BIASES = {
    "ALiBi, causal": lambda heads, T: _causal(np.asarray(-ops.alibi_slopes(heads)), _line(T)),
    "Manhattan": lambda heads, T: (
        np.asarray(ops.manhattan_log_decay(heads))[:, None, None] * _distances(T)[None]
    ),
}


def _line(T):
    return np.abs(np.arange(T)[:, None] - np.arange(T)[None]).astype(np.float32)


def _causal(rates, distances):
    bias = rates[:, None, None] * distances[None]
    return np.where(np.tri(distances.shape[0], dtype=bool), bias, -np.inf)


def _distances(T):
    rows, columns = (axis.reshape(-1).astype(np.float32) for axis in np.indices(grid_of(T)))
    return sum(np.abs(place[:, None] - place[None]) for place in (rows, columns))


def _with_gradients(function):
    def value_and_gradients(query, key, value, cotangent):
        y, pull_back = jax.vjp(function, query, key, value)
        return y, *pull_back(cotangent)

    return value_and_gradients


def _torch(name, arrays):
    """Forward, and forward with gradients, of torch's fused kernel with the bias as a mask."""
    import torch

    query, key, value, cotangent = (to_torch(x).transpose(1, 2).contiguous() for x in arrays)
    inputs = [x.requires_grad_() for x in (query, key, value)]
    bias = to_torch(BIASES[name](query.shape[1], query.shape[2]).astype(np.float32))
    attend = functools.partial(torch.nn.functional.scaled_dot_product_attention, attn_mask=bias)

    def forward():
        with torch.no_grad():
            return attend(*inputs)

    def backward():
        y = attend(*inputs)
        return y, *torch.autograd.grad(y, inputs, cotangent)

    return forward, backward


def _in_our_layout(output):
    return jax.tree.map(lambda x: x.detach().transpose(1, 2), output)


@benchmark("attention_options")
def attention_options(quick: bool):
    """Temperatures, distances and soft masks by blocks against the same weights as a matrix."""
    for T, heads in [(256, 2)] if quick else [(1024, 8), (4096, 2)]:
        rng = np.random.default_rng(0)
        arrays = [rng.normal(size=(1, T, heads, 64)).astype(np.float32) for _ in range(4)]
        for name, (ours, matrix) in CASES.items():

            def naive(query, key, value, matrix=matrix):
                return _apply(matrix(query, key), value)

            theirs = _torch(name, arrays) if name in BIASES else (None, None)
            for step, wrap, inputs, peer in (
                ("forward", lambda f: f, arrays[:3], theirs[0]),
                ("forward and gradients", _with_gradients, arrays, theirs[1]),
            ):
                peers = [jax_contender("as a matrix", wrap(naive), *inputs)]
                if peer is not None:
                    peers.append(torch_contender("torch SDPA", peer, result=_in_our_layout))
                yield Row(
                    f"{name}, T={T}, {heads} x 64, {step}",
                    ours=jax_contender("scanmax", wrap(ours), *inputs),
                    peers=peers,
                    tolerance=1e-4,
                )
