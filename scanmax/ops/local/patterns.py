"""Which keys each query of a grid reads, axis by axis, and how an axis is cut into blocks.

Every local pattern (windows, shifted windows, neighbourhoods with any edge, halos, strides) is a
product of two axes, and on an axis every query reads an interval of keys. A pattern is therefore
two arrays of integers per axis. `cut` turns them into equal blocks of queries, each with the
interval of keys that its queries read together, at a fixed distance from the block: gathering is
padding, reshaping and a few slices, and so is its transpose.

A dilated axis falls into classes of positions that read only each other; they are cut one after
another, each as an axis of its own.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from scanmax.ops.contract import require


@dataclasses.dataclass(frozen=True, eq=False)
class Axis:
    """Intervals of keys on one axis, in units of the dilation.

    Attributes:
      size: positions on the axis.
      low: [classes, queries of a class], the first key that a query reads.
      high: the last one, included; below `low` for a query that is not there.
      stride: keys from one query to the next.
      outside: keys beyond the axis take part, as zeros.
    """

    size: int
    low: np.ndarray
    high: np.ndarray
    stride: int = 1
    outside: bool = False

    @property
    def classes(self) -> int:
        return self.low.shape[0]


def window_axis(size: int, window: int, shift: int, rolled: bool) -> tuple[Axis, int]:
    """Windows [i w + s, (i + 1) w + s), and how many queries are missing before the first.

    `rolled`: of an axis rolled by -s, on which the last window holds both ends of the axis.
    """
    places = np.arange(size)
    if rolled:
        window_of = np.where(places < size - shift, places // window, size // window)
        missing = 0
    else:
        window_of = (places - shift) // window
        missing = (window - shift) % window
    first = np.searchsorted(window_of, window_of, "left")
    last = np.searchsorted(window_of, window_of, "right") - 1
    return Axis(size, first[None], last[None]), missing


def neighborhood_axis(size: int, kernel: int, stride: int, dilation: int, edges: str) -> Axis:
    """The `kernel` keys around each query: moved into the axis, cut off by it, or zeros outside."""
    per_class = -(-size // dilation)
    low = np.zeros((dilation, per_class), np.int64)
    high = low - 1
    reach = kernel // 2
    for c in range(min(dilation, size)):
        members = -(-(size - c) // dilation)
        q = np.arange(members)
        first = q - reach
        if edges == "clamped":
            first = np.clip(first, 0, max(members - kernel, 0))
        last = first + kernel - 1
        if edges != "zero":
            first, last = np.maximum(first, 0), np.minimum(last, members - 1)
        low[c, :members], high[c, :members] = first, last
    return Axis(size, low[:, ::stride], high[:, ::stride], stride, edges == "zero")


def halo_cut(size: int, block: int, halo: int, edges: str, stride: int) -> "Cut":
    """Each block's own keys and `halo` more on both sides, read by every `stride`-th of its places.

    Differences count keys from the start of the block, and queries among those asked.
    """
    start = np.arange(0, size, stride) // block * block
    low, high = start - halo, start + block - 1 + halo
    if edges != "zero":
        low, high = np.maximum(low, 0), np.minimum(high, size - 1)
    axis = Axis(size, low[None], high[None], stride, edges == "zero")
    found = cut(axis, block // stride)
    relative = found.first + np.arange(found.keys) - np.arange(found.queries)[:, None]
    return dataclasses.replace(found, relative=relative)


@dataclasses.dataclass(frozen=True, eq=False)
class Cut:
    """An axis in blocks; everything static.

    Attributes:
      axis: what was cut.
      blocks: blocks of a class.
      queries: queries of a block.
      keys: keys of a block.
      missing: padding before the first query.
      first: the first key of the first block, may lie before the axis.
      allowed: [classes * blocks, queries, keys], which pairs take part; None for all.
      relative: [queries, keys], key minus query, the same in every block.
    """

    axis: Axis
    blocks: int
    queries: int
    keys: int
    missing: int
    first: int
    allowed: np.ndarray | None
    relative: np.ndarray

    def split_queries(self, x: Array, axis: int) -> Array:
        """[.., queries, ..] -> [.., classes * blocks, queries of a block, ..]."""
        x = self._by_class(x, axis)
        after = self.blocks * self.queries - self.missing - x.shape[axis + 1]
        x = _pad(x, axis + 1, self.missing, after)
        lead, tail = x.shape[:axis], x.shape[axis + 2 :]
        return x.reshape(*lead, self.axis.classes * self.blocks, self.queries, *tail)

    def join_queries(self, y: Array, axis: int) -> Array:
        """The inverse of `split_queries`."""
        lead, tail = y.shape[:axis], y.shape[axis + 2 :]
        classes, per_class = self.axis.low.shape
        y = y.reshape(*lead, classes, self.blocks * self.queries, *tail)
        y = lax.slice_in_dim(y, self.missing, self.missing + per_class, axis=axis + 1)
        size = per_class if classes == 1 else self.axis.size
        y = lax.collapse(jnp.swapaxes(y, axis, axis + 1), axis, axis + 2)
        return lax.slice_in_dim(y, 0, size, axis=axis)

    def split_keys(self, x: Array, axis: int) -> Array:
        """[.., keys, ..] -> [.., classes * blocks, keys of a block, ..], zeros outside."""
        x = self._by_class(x, axis)
        step = self.queries * self.axis.stride
        parts = -(-self.keys // step)
        length = (self.blocks + parts - 1) * step
        x = _pad(x, axis + 1, -self.first, length + self.first - x.shape[axis + 1])
        lead, tail = x.shape[: axis + 1], x.shape[axis + 2 :]
        x = x.reshape(*lead, self.blocks + parts - 1, step, *tail)
        pieces = []
        for part in range(parts):
            piece = lax.slice_in_dim(x, part, part + self.blocks, axis=axis + 1)
            kept = min(step, self.keys - part * step)
            pieces.append(lax.slice_in_dim(piece, 0, kept, axis=axis + 2))
        x = jnp.concatenate(pieces, axis + 2) if parts > 1 else pieces[0]
        return x.reshape(*lead[:-1], self.axis.classes * self.blocks, self.keys, *tail)

    def _by_class(self, x, axis):
        """[.., n, ..] -> [.., classes, n of a class, ..]."""
        classes, n = self.axis.classes, x.shape[axis]
        per_class = -(-n // classes)
        x = _pad(x, axis, 0, classes * per_class - n)
        x = x.reshape(*x.shape[:axis], per_class, classes, *x.shape[axis + 1 :])
        return jnp.swapaxes(x, axis, axis + 1)


def cut(axis: Axis, block: int, missing: int = 0) -> Cut:
    """Cuts an axis into blocks of `block` queries, the first of them `missing` that many."""
    classes, per_class = axis.low.shape
    blocks = -(-(per_class + missing) // block)
    query = np.arange(blocks * block) - missing
    there = (query >= 0) & (query < per_class)
    low = np.full((classes, blocks * block), 1, np.int64)
    high = np.zeros_like(low)
    low[:, there], high[:, there] = axis.low, axis.high
    start = (np.arange(blocks * block) // block * block - missing) * axis.stride
    reads = low <= high
    first = int((low - start)[reads].min(initial=0))
    last = int((high - start)[reads].max(initial=0))
    keys = last - first + 1
    shape = (classes, blocks, block, 1)
    place = (start + first).reshape(1, blocks, block, 1) + np.arange(keys)
    allowed = (place >= low.reshape(shape)) & (place <= high.reshape(shape))
    allowed = allowed.reshape(classes * blocks, block, keys)
    relative = first + np.arange(keys) - np.arange(block)[:, None] * axis.stride
    return Cut(
        axis=axis,
        blocks=blocks,
        queries=block,
        keys=keys,
        missing=missing,
        first=first - missing * axis.stride,
        allowed=None if allowed.all() else allowed,
        relative=relative,
    )


def even_block(length: int, target: int) -> int:
    """The block size that covers length in as few blocks of at most `target`, evened out."""
    return max(-(-length // max(-(-length // target), 1)), 1)


def pair(name: str, value, minimum: int) -> tuple[int, int]:
    """(rows, columns) of an option that is one integer or two."""
    values = tuple(value) if isinstance(value, tuple | list) else (value, value)
    require(
        len(values) == 2 and all(isinstance(v, int) and v >= minimum for v in values),
        f"{name}={value!r}; expected an integer of at least {minimum}, or (rows, columns).",
    )
    return values


def _pad(x, axis, before, after):
    """Zeros around an axis; negative ones cut off."""
    if before == after == 0:
        return x
    edges = [(0, 0, 0)] * x.ndim
    edges[axis] = (before, after, 0)
    return lax.pad(x, jnp.zeros((), x.dtype), edges)
