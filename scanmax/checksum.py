"""A checksum per array that no layout changes: the same on one device, on a mesh, on the host.

The array's bits are taken as 32-bit words; each is mixed with its place, and the mixed words are
summed modulo 2**32. Sums of integers do not depend on their order, so every device sums its part
and no array is ever gathered. The mixing is a bijection: one word that changes always changes the
sum, and any other damage does with probability 1 - 2**-32.
"""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

# Arrays of so many words are summed on the host: it costs less than a program for their shape.
SMALL = 1 << 16
# The finalizer of MurmurHash3.
_FACTORS = (np.uint32(0x85EBCA6B), np.uint32(0xC2B2AE35))


def checksums(tree: Any) -> dict[str, int]:
    """Path of each array, joined by slashes -> its checksum.

    Every process of a run calls it together; all get the same.
    """
    pairs = jax.tree_util.tree_leaves_with_path(tree)
    found = jax.device_get([leaf if _is_small(leaf) else _checksum(leaf) for _, leaf in pairs])
    return {
        name_of(path): _on_host(value) if _is_small(leaf) else int(value)
        for (path, leaf), value in zip(pairs, found)
    }


def name_of(path: tuple[Any, ...]) -> str:
    """A key path of jax.tree_util as "params/block_00/kernel"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def damaged_arrays(tree: Any, expected: dict[str, int]) -> list[str]:
    """Names of the arrays whose checksum is not the expected one; none may be missing there."""
    return [name for name, value in checksums(tree).items() if expected.get(name) != value]


def describe_damage(names: Iterable[str]) -> str:
    """One clause that names the first damaged arrays.

    >>> describe_damage(["params/a", "params/b", "params/c", "step"])
    'the checksums of params/a, params/b, params/c and 1 more differ'
    """
    names = list(names)
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"the checksums of {', '.join(names[:3])}{more} differ"


def _is_small(leaf: Any) -> bool:
    return np.size(leaf) <= SMALL and getattr(leaf, "is_fully_addressable", True)


def _on_host(array: Any) -> int:
    """What `_checksum` gives: a place is that of the words in a row."""
    array = np.asarray(array)
    array = array.astype(jax.dtypes.canonicalize_dtype(array.dtype)).reshape(-1)
    kind = np.dtype(f"uint{8 * min(array.dtype.itemsize, 4)}")
    words = array.view(kind).astype(np.uint32)
    mixed = _mixed(words ^ _mixed(np.arange(words.size, dtype=np.uint32)))
    return int(mixed.sum(dtype=np.uint32))


@jax.jit
def _checksum(array: jax.Array) -> jax.Array:
    words = _words(array)
    # Place by place, without a reshape: that would gather a sharded array.
    place = jnp.zeros((), jnp.uint32)
    for axis, size in enumerate(words.shape):
        place = place * np.uint32(size) + lax.broadcasted_iota(jnp.uint32, words.shape, axis)
    return jnp.sum(_mixed(words ^ _mixed(place)), dtype=jnp.uint32)


def _words(array: jax.Array) -> jax.Array:
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        array = jnp.stack([array.real, array.imag], axis=-1)
    if array.dtype == jnp.bool_:
        return array.astype(jnp.uint32)
    bits = 8 * array.dtype.itemsize
    kind = {8: jnp.uint8, 16: jnp.uint16}.get(bits, jnp.uint32)
    # Wider numbers get an axis of their words.
    return lax.bitcast_convert_type(array, kind).astype(jnp.uint32)


def _mixed(words: jax.Array) -> jax.Array:
    words = (words ^ (words >> np.uint32(16))) * _FACTORS[0]
    words = (words ^ (words >> np.uint32(13))) * _FACTORS[1]
    return words ^ (words >> np.uint32(16))
