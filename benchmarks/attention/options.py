"""Attention with options on its logits and weights against the dense form, and against torch."""

import functools

import jax.numpy as jnp
import numpy as np

from benchmarks.claims.attention.options import grid_of
from benchmarks.harness import benchmark, to_torch
from benchmarks.passes import heads_first, normal, op_rows
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


def _torch(name, T, heads):
    """Torch's fused kernel with the bias as a mask, where the weights are such."""
    import torch

    if name not in BIASES:
        return {}
    bias = to_torch(BIASES[name](heads, T).astype(np.float32))
    attend = torch.nn.functional.scaled_dot_product_attention
    return {"torch SDPA": functools.partial(attend, attn_mask=bias)}


@benchmark("attention_options")
def attention_options(quick: bool):
    """Temperatures, distances and soft masks by blocks against the same weights as a matrix."""
    for T, heads in [(256, 2)] if quick else [(1024, 8), (4096, 2)]:
        arrays = normal(*[(1, T, heads, 64)] * 3)
        for name, (ours, matrix) in CASES.items():

            def naive(query, key, value, matrix=matrix):
                return _apply(matrix(query, key), value)

            yield from op_rows(
                f"{name}, T={T}, {heads} x 64",
                ours,
                arrays,
                jax_peers={"as a matrix": naive},
                torch_peers=_torch(name, T, heads),
                tensors=heads_first,
            )
