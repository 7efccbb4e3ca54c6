"""A generator of random numbers that compiles soon, for tests that draw a few and run once.

JAX's own generators are strong, and their code is long: they are most of what the initialisation
of a small network takes to compile. This one hashes a counter, as good as a test needs.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.random import define_prng_impl

# An odd number near 2^32 over the golden ratio: multiples of it lie evenly.
GOLDEN = np.uint32(0x9E3779B9)


def _mixed(x: jax.Array) -> jax.Array:
    """A bijection of 32 bits in which every bit of x moves every bit of the result."""
    x = (x ^ (x >> 16)) * np.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * np.uint32(0x846CA68B)
    return x ^ (x >> 16)


def _seed(seed: jax.Array) -> jax.Array:
    return _mixed(seed.astype(jnp.uint32).reshape(1) + GOLDEN)


def _counted(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Numbers of a key, one for each place."""
    places = jax.lax.iota(jnp.uint32, math.prod(shape)) + np.uint32(1)
    return _mixed(_mixed(places * GOLDEN + key) + key)


def _split(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return _counted(key, shape).reshape(*shape, 1)


def _fold_in(key: jax.Array, data: jax.Array) -> jax.Array:
    return _mixed(_mixed(data.astype(jnp.uint32) + GOLDEN) + key)


def _random_bits(key: jax.Array, width: int, shape: tuple[int, ...]) -> jax.Array:
    bits = _counted(key, shape)
    if width == 64:
        low = _mixed(bits + GOLDEN).astype(jnp.uint64)
        bits = (bits.astype(jnp.uint64) << np.uint64(32)) | low
    return bits.astype(f"uint{width}").reshape(shape)


QUICK_PRNG = define_prng_impl(
    key_shape=(1,),
    seed=_seed,
    split=_split,
    random_bits=_random_bits,
    fold_in=_fold_in,
    name="quick",
    tag="qck",
)
