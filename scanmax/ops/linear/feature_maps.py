"""Feature maps of linear attention: by name, and random ones with their projections given.

Attention weights phi(q) . phi(k) need a phi that makes sense of the product: positive ones keep
weights positive, Taylor's and the random ones imitate exp(q . k / sqrt(K)).
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from scanmax.ops.contract import (
    accumulator_dtype,
    check_choice,
    check_rank,
    check_shape,
    op,
    require,
)


def _elu(x):
    """1 + elu(x), which is exp(x) below zero; twice as fast on CPU as by expm1."""
    return jnp.where(x > 0, x + 1, jnp.exp(jnp.where(x > 0, 0, x)))


def _squared_relu(x):
    return jnp.square(jax.nn.relu(x))


def _taylor(x):
    """[1, u, all u_a u_b of a <= b] with u = x / K^(1/4): products are 1 + s + s^2 / 2."""
    u = x * x.shape[-1] ** -0.25
    halves = u * math.sqrt(0.5)
    parts = [jnp.ones_like(x[..., :1]), u]
    # By slices: the gradient of a gather is slow. u_a u_b stands for u_b u_a too.
    for a in range(x.shape[-1]):
        parts += [halves[..., a : a + 1] * u[..., a : a + 1], u[..., a : a + 1] * u[..., a + 1 :]]
    return jnp.concatenate(parts, -1)


FEATURE_MAPS = {
    None: lambda x: x,
    "elu": _elu,
    "relu": jax.nn.relu,
    "softmax": lambda x: jax.nn.softmax(x, axis=-1),
    "squared_relu": _squared_relu,
    "taylor": _taylor,
}


def check_feature_map(feature_map) -> None:
    """Refuses a name that is not in FEATURE_MAPS; functions pass."""
    if not callable(feature_map):
        check_choice("feature_map", feature_map, tuple(FEATURE_MAPS))


def features(x, feature_map):
    """phi(x) for the name or the function phi; None (no array) passes."""
    if x is None:
        return None
    return feature_map(x) if callable(feature_map) else FEATURE_MAPS[feature_map](x)


def feature_width(width: int, feature_map) -> int:
    """How many features phi makes of `width` channels."""
    x = jax.ShapeDtypeStruct((width,), jnp.float32)
    return jax.eval_shape(lambda x: features(x, feature_map), x).shape[-1]


@op("num_features", "dim", "norms", "dtype")
def orthogonal_random_features(
    key: Key[Array, ""], num_features: int, dim: int, *, norms: str = "chi", dtype=jnp.float32
) -> Float[Array, "M K"]:
    """Random directions for `positive_random_features`, orthogonal in blocks of K.

    Every w_m is distributed as a normal vector of K entries ("chi"), or uniformly on the sphere
    of radius sqrt(K) ("constant"); those of one block of K are orthogonal to each other, blocks
    are independent. Only "chi" leaves the estimate of the kernel without bias.

    Args:
      key: a PRNG key.
      num_features: M.
      dim: K.
      norms: lengths of the directions, "chi" or "constant".
      dtype: of the result.

    Returns:
      [M, K], one direction a row.

    Raises:
      ValueError: sizes that are not positive, an unknown name of norms.

    Example:
      >>> import jax
      >>> from scanmax.ops import orthogonal_random_features
      >>> w = orthogonal_random_features(jax.random.key(0), 2, 2, norms="constant")
      >>> abs((w @ w.T).round(3))
      Array([[2., 0.],
             [0., 2.]], dtype=float32)

    Reference: t2t-vit
    """
    require(
        num_features > 0 and dim > 0, f"num_features={num_features}, dim={dim} must be positive."
    )
    check_choice("norms", norms, ("chi", "constant"))
    directions, lengths = jax.random.split(key)
    normal = jax.random.normal(directions, (-(-num_features // dim), dim, dim), dtype)
    q, r = jnp.linalg.qr(normal)
    # QR is unique, and q uniformly distributed, once the diagonal of r is positive
    signs = jnp.sign(jnp.diagonal(r, axis1=-2, axis2=-1))
    rows = (q * signs[:, None, :]).swapaxes(-1, -2).reshape(-1, dim)[:num_features]
    if norms == "constant":
        return rows * math.sqrt(dim)
    normal = jax.random.normal(lengths, (num_features, dim), dtype)
    return rows * jnp.linalg.norm(normal, axis=-1, keepdims=True)


@op("stabilize", "epsilon", "precision")
def positive_random_features(
    x: Float[Array, "*B H K"],
    projection: Float[Array, "M K"] | Float[Array, "H M K"],
    *,
    scale: Float[Array, ""] | float | None = None,
    stabilize: str | None = None,
    epsilon: float = 0.0,
    precision=None,
) -> Float[Array, "*B H M"]:
    """Positive random features of the softmax kernel (FAVOR+).

        phi(x)_m = exp(w_m . u - |u|^2 / 2 - c) / sqrt(M) + epsilon,    u = sqrt(scale) x

    For normal directions w, and c = epsilon = 0, the mean of phi(q) . phi(k) is exp(scale q . k).
    A c that is the same for all features of a query, or for all keys, cancels in normalised
    attention, and keeps exponentials in range.

    Args:
      x: queries or keys, [*B, T, H, K] or those of one token.
      projection: the w_m, one set or one per head.
      scale: None is K^(-1/2).
      stabilize: c is 0 for None, the largest exponent of the token for "token" (queries), of
        all tokens [T] of a head for "sequence" (keys; not in causal attention, where it would
        let the past depend on the future in its last digits).
      epsilon: added to every feature, so that no row of weights is empty.
      precision: of the matrix product.

    Returns:
      [*B, H, M] in the dtype of x; exponents are computed in at least float32.

    Raises:
      ValueError: a projection of another shape, an unknown name of stabilize.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from scanmax import ops
      >>> w = ops.orthogonal_random_features(jax.random.key(0), 4096, 2)
      >>> q, k = jnp.array([[[0.5, 1.0]]]), jnp.array([[[1.0, -0.5]]])
      >>> phi_q, phi_k = (ops.positive_random_features(x, w) for x in (q, k))
      >>> (phi_q * phi_k).sum().round(1)  # q . k is 0
      Array(1., dtype=float32)

    Reference: t2t-vit
    """
    check_rank(2, x=x, projection=projection)
    check_choice("stabilize", stabilize, (None, "token", "sequence"))
    heads, dim = x.shape[-2:]
    require(
        projection.shape[-1] == dim and projection.shape[:-2] in ((), (heads,)),
        f"projection has shape {projection.shape}; expected [M, K] or [H, M, K] for x of shape "
        f"{x.shape}.",
    )
    require(
        stabilize != "sequence" or x.ndim > 2,
        f"stabilize='sequence' needs x [*B, T, H, K]; x has shape {x.shape}.",
    )
    dtype = accumulator_dtype(x)
    u = x.astype(dtype) * jnp.sqrt(jnp.asarray(dim**-0.5 if scale is None else scale, dtype))
    pattern = "...hk,hmk->...hm" if projection.ndim == 3 else "...hk,mk->...hm"
    exponents = jnp.einsum(pattern, u, projection.astype(dtype), precision=precision)
    exponents = exponents - jnp.square(u).sum(-1, keepdims=True) / 2
    if stabilize is not None:
        axes = -1 if stabilize == "token" else (-3, -1)
        exponents = exponents - exponents.max(axes, keepdims=True)
    phi = jnp.exp(exponents) * projection.shape[-2] ** -0.5 + epsilon
    return phi.astype(x.dtype)


@op("max_length")
def cosine_features(
    x: Float[Array, "*B T H K"],
    positions: Int[Array, "*B T"] | None = None,
    *,
    max_length: int | None = None,
) -> Float[Array, "*B T H C"]:
    """Features whose products are weighed by the cosine of the distance of their tokens.

        phi(x)_i = (relu(x_i) cos(a_i), relu(x_i) sin(a_i)),    a_i = pi i / (2 M)
        phi(q)_i . phi(k)_j = relu(q_i) . relu(k_j) cos(pi (i - j) / (2 M))

    Behind them `linear_attention` with normalize=True is cosFormer's: weights are positive and
    fall with the distance, to 0 where it is M.

    Args:
      x: queries or keys.
      positions: i of each token; None is 0, 1, .. T - 1. Only their distances tell.
      max_length: M, no smaller than any distance; None is T.

    Returns:
      [*B, T, H, 2 K] in the dtype of x; angles are in at least float32.

    Raises:
      ValueError: positions of another shape, or a max_length below 1.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> phi = ops.cosine_features(jnp.ones((2, 1, 1)), max_length=2)[:, 0]
      >>> (phi @ phi.T).round(3)  # cos(0) and cos(pi / 4)
      Array([[1.   , 0.707],
             [0.707, 1.   ]], dtype=float32)

    Reference: nas-efficient-transformer-mixed
    """
    check_rank(3, x=x)
    length = x.shape[-3]
    check_shape("positions", positions, x.shape[:-2], "[*B, T]")
    require(max_length is None or max_length >= 1, f"max_length={max_length}; expected at least 1.")
    dtype = accumulator_dtype(x)
    if positions is None:
        positions = jnp.arange(length).reshape((1,) * (x.ndim - 3) + (length,))
    angles = positions.astype(dtype) * (math.pi / 2 / (max_length or max(length, 1)))
    positive = jax.nn.relu(x).astype(dtype)
    parts = [
        positive * jnp.broadcast_to(turn(angles)[..., None, None], positive.shape)
        for turn in (jnp.cos, jnp.sin)
    ]
    return jnp.concatenate(parts, -1).astype(x.dtype)
