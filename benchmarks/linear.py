"""Attention in linear order against the same weights as a matrix, and both orders in torch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.harness import benchmark, to_torch
from benchmarks.passes import heads_first, normal, op_rows
from scanmax import ops

EPSILON = 1e-6


def _apply(matrix, value):
    return jnp.einsum("bhij,bjhv->bihv", matrix, value)


def _naive(matrix, **options):
    return lambda query, key, value: _apply(matrix(query, key, **options), value)


def _random_features(query, key):
    # 128 directions, the same ones in torch
    w = jnp.asarray(_directions(query.shape[-1]))
    query = ops.positive_random_features(query, w, stabilize="token")
    return query, ops.positive_random_features(key, w, stabilize="sequence")


def _performer(query, key, value):
    return ops.linear_attention(
        *_random_features(query, key), value, normalize=True, is_causal=False
    )


def _performer_matrix(query, key):
    return ops.linear_attention_matrix(
        *_random_features(query, key), normalize=True, is_causal=False
    )


def _cosformer(query, key, value):
    phi = map(ops.cosine_features, (query, key))
    return ops.linear_attention(*phi, value, normalize=True, is_causal=False)


def _cosformer_matrix(query, key):
    phi = map(ops.cosine_features, (query, key))
    return ops.linear_attention_matrix(*phi, normalize=True, is_causal=False)


@functools.cache
def _directions(width):
    with jax.ensure_compile_time_eval():
        return np.asarray(ops.orthogonal_random_features(jax.random.key(0), 128, width))


def _cross_covariance(query, key, value):
    def unit(x):
        return x / jnp.linalg.norm(x, axis=1, keepdims=True)

    weights = jax.nn.softmax(jnp.einsum("bthc,bthd->bhcd", unit(query), unit(key)), -1)
    return jnp.einsum("bhcd,bthd->bthc", weights, value)


# name -> (our op, the naive form)
CASES = {
    "scaling": (ops.scaling_attention, _naive(ops.scaling_attention_matrix)),
    "mala": (ops.mala_attention, _naive(ops.mala_attention_matrix)),
    "mala, causal": (
        functools.partial(ops.mala_attention, is_causal=True),
        _naive(ops.mala_attention_matrix, is_causal=True),
    ),
    "inline": (ops.inline_attention, _naive(ops.inline_attention_matrix)),
    "rala": (ops.rala_attention, _naive(ops.rala_attention_matrix)),
    "performer, 128 features": (_performer, _naive(_performer_matrix)),
    "cosformer": (_cosformer, _naive(_cosformer_matrix)),
    "cross-covariance": (ops.cross_covariance_attention, _cross_covariance),
}


def _torch_orders(name):
    """The linear and the quadratic order of a case, on tensors [B, H, T, K]; None for none."""
    import torch
    from torch.nn.functional import elu, normalize

    def products(q, k, v, gain, shift):
        """Both orders of y = gain s v + shift sum(v), s = q k^T."""

        def linear(q, k, v):
            total = q @ k.sum(-2, keepdim=True).mT
            return gain(total, k) * (q @ (k.mT @ v)) + shift(total, k) * v.sum(-2, keepdim=True)

        def quadratic(q, k, v):
            s = q @ k.mT
            total = s.sum(-1, keepdim=True)
            return (gain(total, k) * s + shift(total, k)) @ v

        return linear, quadratic

    def with_rule(features, gain, shift):
        def order(index):
            def attend(q, k, v):
                q, k = features(q, k)
                return products(q, k, v, gain, shift)[index](q, k, v)

            return attend

        return order(0), order(1)

    def scaled(q, k):
        return q * (q.shape[-1] ** -0.5 / q.shape[-2]), k

    def elu_scaled(q, k):
        return scaled(elu(q) + 1, elu(k) + 1)

    def weighed(q, k):
        q, k = elu(q) + 1, elu(k) + 1
        logits = q.mean(-2, keepdim=True) @ k.mT * q.shape[-1] ** -0.5
        return q, k * torch.softmax(logits, -1).mT

    def random_features(q, k):
        w = to_torch(_directions(q.shape[-1]))

        def exponents(x):
            x = x * x.shape[-1] ** -0.25
            return x @ w.mT - x.square().sum(-1, keepdim=True) / 2

        q, k = exponents(q), exponents(k)
        return (q - q.amax(-1, keepdim=True)).exp(), (k - k.amax((-2, -1), keepdim=True)).exp()

    def by_distance(q, k):
        angles = torch.arange(q.shape[-2]) * (torch.pi / 2 / q.shape[-2])
        turns = angles.cos()[:, None], angles.sin()[:, None]
        return tuple(torch.cat([x.relu() * turn for turn in turns], -1) for x in (q, k))

    if name == "cross-covariance":

        def covariance(q, k, v):
            weights = torch.softmax(normalize(q, dim=-2).mT @ normalize(k, dim=-2), -1)
            return v @ weights.mT

        return covariance, None
    return {
        "scaling": with_rule(scaled, lambda t, k: 1, lambda t, k: 0),
        "mala": with_rule(
            elu_scaled, lambda t, k: 1 + 1 / (t + EPSILON), lambda t, k: -t / k.shape[-2]
        ),
        "mala, causal": (None, None),
        "inline": with_rule(scaled, lambda t, k: 1, lambda t, k: (1 - t) / k.shape[-2]),
        "rala": with_rule(weighed, lambda t, k: 1 / (t + EPSILON), lambda t, k: 0),
        "cosformer": with_rule(by_distance, lambda t, k: 1 / t, lambda t, k: 0),
        "performer, 128 features": with_rule(random_features, lambda t, k: 1 / t, lambda t, k: 0),
    }[name]


@benchmark("linear")
def linear(quick: bool):
    """The linear-order family against its matrices, and against both orders in torch, float32."""
    for T, heads in [(256, 2)] if quick else [(1024, 8), (4096, 2)]:
        query, key, value = normal(*[(1, T, heads, 64)] * 3)
        # bounded queries and keys, for which random features are of use
        arrays = [0.5 * query, 0.5 * key, value]
        for name, (ours, naive) in CASES.items():
            orders = zip(("torch, linear", "torch, quadratic"), _torch_orders(name))
            yield from op_rows(
                f"{name}, T={T}, {heads} x 64",
                ours,
                arrays,
                jax_peers={"matrix": naive},
                torch_peers={order: attend for order, attend in orders if attend},
                tensors=heads_first,
            )
