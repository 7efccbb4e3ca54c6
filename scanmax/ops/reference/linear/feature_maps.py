"""Feature maps of linear attention, and random features of the softmax kernel."""

import jax
import jax.numpy as jnp

from scanmax.ops.contract import accumulator_dtype


def _taylor(x):
    """(1, u_a, u_a u_a / sqrt 2, u_a u_b for a < b): products are 1 + s + s^2 / 2."""
    K = x.shape[-1]
    u = x / K**0.25
    squares = [
        u[..., a] * u[..., b] / (2**0.5 if a == b else 1) for a in range(K) for b in range(a, K)
    ]
    return jnp.concatenate([jnp.ones_like(x[..., :1]), u, jnp.stack(squares, -1)], -1)


FEATURE_MAPS = {
    None: lambda x: x,
    "elu": lambda x: jnp.where(x > 0, x + 1, jnp.exp(jnp.minimum(x, 0))),
    "relu": lambda x: jnp.maximum(x, 0),
    "softmax": jax.nn.softmax,
    "squared_relu": lambda x: jnp.maximum(x, 0) * jnp.maximum(x, 0),
    "taylor": _taylor,
}


def features(x, feature_map):
    """phi(x)."""
    return feature_map(x) if callable(feature_map) else FEATURE_MAPS[feature_map](x)


def orthogonal_random_features(key, num_features, dim, *, norms="chi", dtype=jnp.float32):
    """Normal vectors made orthogonal one after another (Gram-Schmidt), dim at a time."""
    directions, lengths = jax.random.split(key)
    normal = jax.random.normal(directions, (-(-num_features // dim), dim, dim), dtype)
    rows = []
    for block in normal:
        basis = []
        for column in block.T:
            for other in basis:
                column = column - (column * other).sum() * other
            basis.append(column / jnp.sqrt((column * column).sum()))
        rows += basis
    normal = jax.random.normal(lengths, (num_features, dim), dtype)
    length = jnp.sqrt((normal * normal).sum(-1, keepdims=True))
    length = jnp.full_like(length, dim**0.5) if norms == "constant" else length
    return length * jnp.stack(rows[:num_features])


def positive_random_features(
    x, projection, *, scale=None, stabilize=None, epsilon=0.0, precision=None
):
    """phi(x)_m = exp(w_m . u - |u|^2 / 2 - c) / sqrt(M) + epsilon, u = sqrt(scale) x."""
    scale = x.shape[-1] ** -0.5 if scale is None else scale
    u = x.astype(accumulator_dtype(x)) * scale**0.5
    w = projection.astype(u.dtype)
    products = (u[..., None, :] * w.reshape((1,) * (u.ndim + 1 - w.ndim) + w.shape)).sum(-1)
    exponents = products - (u * u).sum(-1, keepdims=True) / 2
    if stabilize == "token":
        exponents = exponents - exponents.max(-1, keepdims=True)
    if stabilize == "sequence":
        exponents = exponents - exponents.max((-3, -1), keepdims=True)
    return (jnp.exp(exponents) / projection.shape[-2] ** 0.5 + epsilon).astype(x.dtype)


def cosine_features(x, positions=None, *, max_length=None):
    """phi(x)_i = (relu(x_i) cos(a_i), relu(x_i) sin(a_i)), a_i = pi i / (2 M)."""
    length = x.shape[-3]
    positions = jnp.arange(length) if positions is None else positions
    angles = jnp.pi * positions.astype(accumulator_dtype(x)) / (2 * (max_length or length))
    angles = jnp.broadcast_to(angles[..., None, None], x.shape)
    positive = jnp.maximum(x, 0).astype(angles.dtype)
    return jnp.concatenate([positive * jnp.cos(angles), positive * jnp.sin(angles)], -1).astype(
        x.dtype
    )
