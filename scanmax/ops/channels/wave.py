"""SpaRTAN's waves: the leading channel of a place is added to all, and pairs of channels turn."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.ops.contract import accumulator_dtype, check_rank, check_shape, op, require


@op()
def wave_aggregation(
    x: Float[Array, "*B C"],
    phase: Float[Array, "*B R"],
    amplitude: Float[Array, "*B R"],
    rotation: Float[Array, "N 2"],
) -> Float[Array, "*B R"]:
    """Waves of channels, to which that of the largest channel is added, turned pair by pair.

        w = amplitude * phase,    f = w + w_m,    m = argmax_c x_c
        y_2n + i y_(2n+1) = (f_2n + i f_(2n+1)) (rotation_n0 + i rotation_n1)

    m comes of x alone, and no gradient passes through it.

    Args:
      x: what each place is, before it is widened.
      phase: what an activation leaves of a map of x, R = 2 N channels, as many as C at least.
      amplitude: another map of x.
      rotation: real and imaginary part of a complex weight for each pair of channels.

    Returns:
      [*B, R] in the dtype of phase.

    Raises:
      ValueError: arrays that do not fit each other.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> x, waves = jnp.array([0.0, 1.0]), jnp.array([1.0, 2.0])
      >>> ops.wave_aggregation(x, waves, jnp.ones(2), jnp.array([[0.0, 1.0]]))  # a quarter turn
      Array([-4.,  3.], dtype=float32)

    Reference: spartan
    """
    check_rank(1, x=x, phase=phase)
    check_shape("amplitude", amplitude, phase.shape, "that of phase")
    width = phase.shape[-1]
    require(
        phase.shape[:-1] == x.shape[:-1] and width >= x.shape[-1] and width % 2 == 0,
        f"phase has shape {phase.shape}; expected an even number of at least {x.shape[-1]} "
        f"channels for x of shape {x.shape}.",
    )
    check_shape("rotation", rotation, (width // 2, 2), "[R / 2, 2]")
    dtype = accumulator_dtype(phase, amplitude, rotation)
    waves = phase.astype(dtype) * amplitude.astype(dtype)
    leading = jnp.argmax(x, axis=-1, keepdims=True)
    waves = waves + jnp.take_along_axis(waves, leading, axis=-1)
    pairs = waves.reshape(*waves.shape[:-1], width // 2, 2)
    real, imaginary = pairs[..., 0], pairs[..., 1]
    cosine, sine = (
        jnp.broadcast_to(part.astype(dtype), real.shape) for part in jnp.unstack(rotation, axis=-1)
    )
    turned = [real * cosine - imaginary * sine, real * sine + imaginary * cosine]
    return jnp.stack(turned, axis=-1).reshape(phase.shape).astype(phase.dtype)
