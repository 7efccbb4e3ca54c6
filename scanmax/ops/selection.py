"""The largest few of many numbers, without sorting them."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

_BITS = {16: jnp.uint16, 32: jnp.uint32, 64: jnp.uint64}


def kth_largest(x: Float[Array, "*B N"], k: int) -> Float[Array, "*B"]:
    """The k-th largest of each row, without a gradient; k is from 1 to N.

    The bits of floats, those of negative ones turned over, are ordered as the floats are. One after
    the other is set from the highest down where k numbers or more remain as large: as many passes
    over the numbers as they have bits, whatever k is, where `lax.top_k` sorts them (on CPUs 4 to 6
    times as long).
    """
    unsigned = _BITS[jnp.finfo(x.dtype).bits]
    bits = lax.bitcast_convert_type(lax.stop_gradient(x), unsigned)
    count = jnp.iinfo(unsigned).bits
    sign = unsigned(1 << (count - 1))
    keys = jnp.where(bits & sign != 0, ~bits, bits | sign)

    def step(index, found):
        trial = found | (sign >> jnp.asarray(index, unsigned))
        enough = jnp.sum(keys >= trial[..., None], -1, dtype=jnp.int32) >= k
        return jnp.where(enough, trial, found)

    found = lax.fori_loop(0, count, step, jnp.zeros_like(keys[..., 0]))
    bits = jnp.where(found & sign != 0, found & ~sign, ~found)
    return lax.bitcast_convert_type(bits, x.dtype)


def among_largest(x: Float[Array, "*B N"], k: int) -> Bool[Array, "*B N"]:
    """Whether a number is among the k largest of its row, of equal ones the first."""
    least = kth_largest(x, k)[..., None]
    above = x > least
    # Of those equal to the last that stays the first fill what the larger leave.
    room = k - jnp.sum(above, -1, keepdims=True, dtype=jnp.int32)
    equal = x == least
    return above | (equal & (jnp.cumsum(equal, -1, dtype=jnp.int32) <= room))
