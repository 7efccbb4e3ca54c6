"""What a hypernetwork is told: numbers encoded so that none is larger than another."""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.ops.contract import accumulator_dtype, check_choice, check_rank, op

ENCODINGS = (None, "cos|sin", "z|1-z")


@op("encoding")
def mip_encode(
    x: Float[Array, "*B G"], *, encoding: str | None = "cos|sin"
) -> Float[Array, "*B E"]:
    """Numbers in [0, 1] as points of one length.

        E(x) = [cos(pi x / 2), sin(pi x / 2)]

    Layers without bias behind activations that are positively homogeneous, such as LeakyReLU, make
    what is as long as what they are given: weights made of plain numbers vanish as the number does.
    Numbers without bounds are squashed into [0, 1] before.

    Args:
      x: the numbers.
      encoding: "cos|sin"; "z|1-z", [x, 1 - x], whose sum alone is the same for all; None leaves
        them.

    Returns:
      [*B, 2 G] in the dtype of x, all cosines and then all sines; [*B, G] without an encoding.

    Raises:
      ValueError: an unknown encoding.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> ops.mip_encode(jnp.array([0.0, 0.5])).round(3)
      Array([1.   , 0.707, 0.   , 0.707], dtype=float32)

    Reference: mip-hypernetworks
    """
    check_rank(1, x=x)
    check_choice("encoding", encoding, ENCODINGS)
    if encoding is None:
        return x
    if encoding == "z|1-z":
        return jnp.concatenate([x, 1 - x], -1)
    angles = x.astype(accumulator_dtype(x)) * (math.pi / 2)
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], -1).astype(x.dtype)
