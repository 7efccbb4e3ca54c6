"""EvoNorm: layers that norm a map and bend it in one, found by search over both.

The B layers divide by the deviation of a batch, of which training keeps a running average as batch
norm does, but of no mean: `batch_statistics(x)[1]` while training, the average afterwards. The S
layers know nothing of the batch.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.ops.contract import accumulator_dtype, check_rank, op, spread
from scanmax.ops.norm import check_channels, check_groups, scaled_and_shifted

_SPACE = (-3, -2)


def _deviation(y: Array, axes, epsilon: float) -> Array:
    """Square root of the biased variance over `axes`, taken after the mean."""
    centred = y - jnp.mean(y, axes, keepdims=True)
    return jnp.sqrt(jnp.mean(jnp.square(centred), axes, keepdims=True) + epsilon)


def _root_mean_square(y: Array, axes, epsilon: float) -> Array:
    return jnp.sqrt(jnp.mean(jnp.square(y), axes, keepdims=True) + epsilon)


def _by_batch(x, variance, other, scale, bias, epsilon, **vectors) -> Array:
    """x over the larger of the batch's deviation and `other(y, vectors of the dtype of y)`."""
    check_rank(3, x=x)
    check_channels(x, variance=variance, **vectors, scale=scale, bias=bias)
    dtype = accumulator_dtype(x, variance)
    y = x.astype(dtype)
    batch = spread(jnp.sqrt(variance.astype(dtype) + epsilon), y)
    vectors_of_y = [spread(vector.astype(dtype), y) for vector in vectors.values()]
    return scaled_and_shifted(y / jnp.maximum(batch, other(y, *vectors_of_y)), scale, bias, x.dtype)


def _by_group(x, gate, size, scale, bias, groups, epsilon) -> Array:
    """gate(y) over `size` of y, which is taken over space and the channels of a group."""
    check_groups(x, groups)
    y = x.astype(accumulator_dtype(x))
    split = (*x.shape[:-1], groups, x.shape[-1] // groups)
    bent = gate(y).reshape(split) / size(y.reshape(split), (-4, -3, -1), epsilon)
    return scaled_and_shifted(bent.reshape(x.shape), scale, bias, x.dtype)


@op("epsilon")
def evonorm_b0(
    x: Float[Array, "*B Y X C"],
    variance: Float[Array, "C"],
    v: Float[Array, "C"],
    scale: Float[Array, "C"] | None = None,
    bias: Float[Array, "C"] | None = None,
    *,
    epsilon: float = 1e-5,
) -> Float[Array, "*B Y X C"]:
    """EvoNorm-B0: the batch's deviation against a line and the image's own deviation.

        y = x / max(sqrt(variance + eps), v x + sqrt(var_yx(x) + eps)) * scale + bias

    Args:
      x: the map.
      variance: of each channel over the batch, or its running average.
      v: slope of the line; starts at one.
      scale: gain; None is one.
      bias: offset; None is zero.
      epsilon: added to both variances.

    Returns:
      [*B, Y, X, C] in the dtype of x, computed in at least float32.

    Raises:
      ValueError: when variance, v, scale or bias is not [C].

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> x = jnp.array([[[1.0], [3.0]]])
      >>> ops.evonorm_b0(x, ops.batch_statistics(x)[1], jnp.zeros(1))[0].round()
      Array([[1.],
             [3.]], dtype=float32)

    Reference: evonorm
    """

    def other(y, v):
        return v * y + _deviation(y, _SPACE, epsilon)

    return _by_batch(x, variance, other, scale, bias, epsilon, v=v)


@op("epsilon")
def evonorm_b1(
    x: Float[Array, "*B Y X C"],
    variance: Float[Array, "C"],
    scale: Float[Array, "C"] | None = None,
    bias: Float[Array, "C"] | None = None,
    *,
    epsilon: float = 1e-5,
) -> Float[Array, "*B Y X C"]:
    """EvoNorm-B1: the batch's deviation against the image's root mean square times x + 1.

        y = x / max(sqrt(variance + eps), (x + 1) sqrt(mean_yx(x^2) + eps)) * scale + bias

    Args:
      x: the map.
      variance: of each channel over the batch, or its running average.
      scale: gain; None is one.
      bias: offset; None is zero.
      epsilon: added to variance and mean square.

    Returns:
      [*B, Y, X, C] in the dtype of x, computed in at least float32.

    Raises:
      ValueError: when variance, scale or bias is not [C].

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> x = jnp.array([[[1.0], [-1.0]]])
      >>> ops.evonorm_b1(x, ops.batch_statistics(x)[1])[0].round(3)
      Array([[ 0.5],
             [-1. ]], dtype=float32)

    Reference: evonorm
    """

    def other(y):
        return (y + 1) * _root_mean_square(y, _SPACE, epsilon)

    return _by_batch(x, variance, other, scale, bias, epsilon)


@op("epsilon")
def evonorm_b2(
    x: Float[Array, "*B Y X C"],
    variance: Float[Array, "C"],
    scale: Float[Array, "C"] | None = None,
    bias: Float[Array, "C"] | None = None,
    *,
    epsilon: float = 1e-5,
) -> Float[Array, "*B Y X C"]:
    """EvoNorm-B2: the batch's deviation against the image's root mean square less x.

        y = x / max(sqrt(variance + eps), sqrt(mean_yx(x^2) + eps) - x) * scale + bias

    Args:
      x: the map.
      variance: of each channel over the batch, or its running average.
      scale: gain; None is one.
      bias: offset; None is zero.
      epsilon: added to variance and mean square.

    Returns:
      [*B, Y, X, C] in the dtype of x, computed in at least float32.

    Raises:
      ValueError: when variance, scale or bias is not [C].

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> x = jnp.array([[[1.0], [-1.0]]])
      >>> ops.evonorm_b2(x, ops.batch_statistics(x)[1])[0].round(3)
      Array([[ 1. ],
             [-0.5]], dtype=float32)

    Reference: evonorm
    """

    def other(y):
        return _root_mean_square(y, _SPACE, epsilon) - y

    return _by_batch(x, variance, other, scale, bias, epsilon)


@op("groups", "epsilon")
def evonorm_s0(
    x: Float[Array, "*B Y X C"],
    v: Float[Array, "C"],
    scale: Float[Array, "C"] | None = None,
    bias: Float[Array, "C"] | None = None,
    *,
    groups: int = 32,
    epsilon: float = 1e-5,
) -> Float[Array, "*B Y X C"]:
    """EvoNorm-S0: a gated map over the deviation of a group of channels, which is not centred.

        y = x sigmoid(v x) / sqrt(var_yxg(x) + eps) * scale + bias

    Args:
      x: the map.
      v: slope inside the gate; starts at one.
      scale: gain; None is one.
      bias: offset; None is zero.
      groups: number of channel groups; divides C.
      epsilon: added to the variance.

    Returns:
      [*B, Y, X, C] in the dtype of x, computed in at least float32.

    Raises:
      ValueError: when v, scale or bias is not [C], or groups does not divide C.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> x = jnp.array([[[0.0], [4.0]]])
      >>> ops.evonorm_s0(x, jnp.zeros(1), groups=1)[0].round()
      Array([[0.],
             [1.]], dtype=float32)

    Reference: evonorm
    """
    check_rank(3, x=x)
    check_channels(x, v=v, scale=scale, bias=bias)

    def gate(y):
        return y * jax.nn.sigmoid(spread(v.astype(y.dtype), y) * y)

    return _by_group(x, gate, _deviation, scale, bias, groups, epsilon)


@op("groups", "epsilon")
def evonorm_s1(
    x: Float[Array, "*B Y X C"],
    scale: Float[Array, "C"] | None = None,
    bias: Float[Array, "C"] | None = None,
    *,
    groups: int = 32,
    epsilon: float = 1e-5,
) -> Float[Array, "*B Y X C"]:
    """EvoNorm-S1: S0 whose gate has no slope to learn.

        y = x sigmoid(x) / sqrt(var_yxg(x) + eps) * scale + bias

    Args:
      x: the map.
      scale: gain; None is one.
      bias: offset; None is zero.
      groups: number of channel groups; divides C.
      epsilon: added to the variance.

    Returns:
      [*B, Y, X, C] in the dtype of x, computed in at least float32.

    Raises:
      ValueError: when scale or bias is not [C], or groups does not divide C.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> ops.evonorm_s1(jnp.array([[[20.0], [22.0]]]), groups=1)[0].round()
      Array([[20.],
             [22.]], dtype=float32)

    Reference: evonorm
    """
    check_rank(3, x=x)
    check_channels(x, scale=scale, bias=bias)
    return _by_group(x, jax.nn.silu, _deviation, scale, bias, groups, epsilon)


@op("groups", "epsilon")
def evonorm_s2(
    x: Float[Array, "*B Y X C"],
    scale: Float[Array, "C"] | None = None,
    bias: Float[Array, "C"] | None = None,
    *,
    groups: int = 32,
    epsilon: float = 1e-5,
) -> Float[Array, "*B Y X C"]:
    """EvoNorm-S2: S1 over the root mean square of a group of channels.

        y = x sigmoid(x) / sqrt(mean_yxg(x^2) + eps) * scale + bias

    Args:
      x: the map.
      scale: gain; None is one.
      bias: offset; None is zero.
      groups: number of channel groups; divides C.
      epsilon: added to the mean square.

    Returns:
      [*B, Y, X, C] in the dtype of x, computed in at least float32.

    Raises:
      ValueError: when scale or bias is not [C], or groups does not divide C.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> ops.evonorm_s2(jnp.array([[[30.0], [30.0]]]), groups=1)[0].round(3)
      Array([[1.],
             [1.]], dtype=float32)

    Reference: evonorm
    """
    check_rank(3, x=x)
    check_channels(x, scale=scale, bias=bias)
    return _by_group(x, jax.nn.silu, _root_mean_square, scale, bias, groups, epsilon)
