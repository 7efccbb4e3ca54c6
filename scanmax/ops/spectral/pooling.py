"""Spectral pooling: low frequencies of a map against high ones, weighted by channel."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from scanmax.ops.contract import accumulator_dtype, check_rank, check_shape, op, require

_AXES = (-3, -2)


@op("radius")
def spectral_pooling(
    x: Float[Array, "*B Y X C"], low_weight: Float[Array, "C"], *, radius: float | int = 2
) -> Float[Array, "*B Y X C"]:
    """Spectral pooling filter: frequencies within a circle times lambda, others times 1 - lambda.

        y = irfft2(m rfft2(x)),  m = lambda if |f| < r, 1 - lambda if |f| > r, 1/3 if |f| = r

    f counts the periods of a wave over the map, along Y and along X. It is the circular convolution
    with the inverse transform of m.

    Args:
      x: the map.
      low_weight: lambda of each channel.
      radius: r.

    Returns:
      [*B, Y, X, C] in the dtype of x; transforms are in at least float32.

    Raises:
      ValueError: when low_weight is not [C], or the radius is negative.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> x = jnp.array([[1.0, 3.0]])[..., None]
      >>> ops.spectral_pooling(x, jnp.array([1.0]), radius=0.5)[..., 0]
      Array([[2., 2.]], dtype=float32)

    Reference: spanet
    """
    check_rank(3, x=x)
    check_shape("low_weight", low_weight, x.shape[-1:], "[C]")
    require(radius >= 0, f"radius={radius}; expected at least 0.")
    grid, dtype = x.shape[-3:-1], accumulator_dtype(x, low_weight)
    rows = np.fft.fftfreq(grid[0], 1 / grid[0])[:, None]
    distance = np.hypot(rows, np.arange(grid[1] // 2 + 1)[None])[..., None]
    weight = jnp.broadcast_to(low_weight.astype(dtype), (*distance.shape[:2], x.shape[-1]))
    inside, outside = distance < radius, distance > radius
    mask = jnp.where(inside, weight, jnp.where(outside, 1 - weight, 1 / 3))
    spectrum = jnp.fft.rfft2(x.astype(dtype), axes=_AXES)
    mask = jnp.broadcast_to(mask, spectrum.shape).astype(spectrum.dtype)
    return jnp.fft.irfft2(spectrum * mask, s=grid, axes=_AXES).astype(x.dtype)
