"""Mixers that attend to the pixels around each: windows, neighbourhoods, halos, MSA-Conv."""

from collections.abc import Callable
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax import ops
from scanmax.models.layers import normal_init, partitioned
from scanmax.models.mixers.base import Mixer
from scanmax.ops.local.blocks import matrix_of

Pair = int | tuple[int, int]


def as_pair(value: Pair) -> tuple[int, int]:
    """(rows, columns)."""
    return value if isinstance(value, tuple) else (value, value)


class LocalMixer(Mixer):
    """Projections of local attention, and its prefix tokens.

    Every pixel reads the prefix tokens too, under the same softmax and without position term; a
    prefix token reads every token.
    """

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        grid: tuple[int, int] | None = None,
        train: bool = False,
    ) -> Float[Array, "B T D"]:
        if self.is_causal:
            raise ValueError(f"{type(self).__name__} has no causal form: a map has no order.")
        grid, (B, T, D), P = self.grid_or_line(x, grid), x.shape, self.prefix_tokens
        width = self.head_dim(D)
        shape = (3, self.heads, width)
        dense = self.dense(shape, ("embed", None, "heads", "kv"), "qkv", apart=True)
        query, key, value = dense(x)
        attend, matrix = self.pattern(grid, width)

        def maps(x):
            return x[:, P:].reshape(B, *grid, self.heads, width)

        before: dict[str, Any] = {"global_key": key[:, :P]} if P else {}

        def whole_matrix():
            local = matrix(maps(query), maps(key), **before)
            if not P:
                return local
            return jnp.concatenate([ops.attention_matrix(query[:, :P], key), local], 2)

        self.sow_attention(T, whole_matrix)
        if P:
            before["global_value"] = value[:, :P]
        y = jax.lax.collapse(attend(maps(query), maps(key), maps(value), **before), 1, 3)
        if P:
            y = jnp.concatenate([ops.dot_product_attention(query[:, :P], key, value), y], 1)
        return self.dense(D, ("heads", "kv", "embed"), "out", contract=2)(y)

    @nn.nowrap
    def pattern(self, grid: tuple[int, int], width: int) -> tuple[Callable, Callable]:
        """The op on maps with its options and parameters, and its matrix."""
        raise NotImplementedError

    @nn.nowrap
    def relative_bias(self, sides: tuple[int, int]) -> Array:
        """A learned table over the differences of key and query."""
        init = partitioned(normal_init, ("heads", None, None))
        shape = (self.heads, *sides)
        return self.param("relative_bias", init, shape, self.param_dtype).astype(self.dtype)


def _with(op: Callable, bias: Array | None, options: dict[str, Any]) -> Callable:
    return lambda *maps, **more: op(*maps, bias, **options, **more)


class WindowAttention(LocalMixer):
    """Attention within windows, with a relative position bias: the mixer of Swin.

    A map that the windows do not tile has smaller ones at its far edges; one smaller than a window
    is a single window.

    Attributes:
      window_size: sides of a window; None is one window, the whole map.
      table_window: the window whose differences the table of biases holds; for others it is
        resampled. None is the window itself.
      use_table: whether there is such a table; without it places are not known.
      shift: by how much windows start later, or True for half a window.
      normalizer: how logits become weights.
    """

    formula: ClassVar[str] = (
        "y_p = sum_q softmax_q(q_p . k_q / sqrt K + b[q - p]) v_q, q in p's window"
    )
    cost: ClassVar[str] = "T w^2"
    papers: ClassVar[tuple[str, ...]] = ("stm-evaluation",)

    window_size: Pair | None = 7
    table_window: Pair | None = None
    use_table: bool = True
    shift: Pair | bool = False
    normalizer: str = "softmax"

    @nn.nowrap
    def pattern(self, grid, width):
        window = grid if self.window_size is None else as_pair(self.window_size)
        shift: Pair = 0
        if self.shift is True:
            shift = (window[0] // 2, window[1] // 2)
        elif self.shift is not False:
            shift = self.shift
        options = {"window_size": window, "shift": shift, "normalizer": self.normalizer}
        bias = self.table(window) if self.use_table else None
        return (
            _with(ops.window_attention, bias, options),
            _with(ops.window_attention_matrix, bias, options),
        )

    @nn.nowrap
    def table(self, window: tuple[int, int]) -> Float[Array, "H ry rx"]:
        """The biases of a window's differences."""
        own = window if self.table_window is None else as_pair(self.table_window)
        bias = self.relative_bias((2 * own[0] - 1, 2 * own[1] - 1))
        if own == window:
            return bias
        sides = tuple(2 * side - 1 for side in window)
        return jax.image.resize(bias, (self.heads, *sides), "linear", antialias=False)


class ShiftedWindowAttention(WindowAttention):
    """Window attention whose windows start half a window later; alternate it with "window".

    Pixels that a shift would bring together from opposite edges do not see each other.
    """

    formula: ClassVar[str] = (
        "y_p = sum_q softmax_q(q_p . k_q / sqrt K + b[q - p]) v_q, q in p's window (shifted)"
    )

    shift: Pair | bool = True


class NeighborhoodAttention(LocalMixer):
    """Attention to the k x k pixels around each, with a relative position bias.

    Attributes:
      kernel_size: k, odd.
      dilation: distance of neighbouring keys.
      edges: "clamped" keeps k x k keys by moving the neighbourhood into the map, "masked" cuts it
        off, "zero" takes zero vectors outside.
      normalizer: how logits become weights.
    """

    formula: ClassVar[str] = (
        "y_p = sum_q softmax_q(q_p . k_q / sqrt K + b[q - p]) v_q, q in the k x k pixels around p"
    )
    cost: ClassVar[str] = "T k^2"
    papers: ClassVar[tuple[str, ...]] = ()

    kernel_size: Pair = 7
    dilation: Pair = 1
    edges: str = "clamped"
    normalizer: str = "softmax"

    @nn.nowrap
    def pattern(self, grid, width):
        kernel = as_pair(self.kernel_size)
        options = {
            "kernel_size": kernel,
            "dilation": self.dilation,
            "edges": self.edges,
            "normalizer": self.normalizer,
        }
        sides = tuple(2 * k - 1 for k in kernel) if self.edges == "clamped" else kernel
        bias = self.relative_bias(sides)
        return (
            _with(ops.neighborhood_attention, bias, options),
            _with(ops.neighborhood_attention_matrix, bias, options),
        )


class HaloAttention(LocalMixer):
    """Attention of blocks to themselves and a halo of pixels, with 2-D relative embeddings.

    Attributes:
      block_size: sides of a block of queries.
      halo: pixels of keys around it.
      edges: pixels outside the map are "masked", as in the paper, or "zero" vectors that take part,
        as in the public code: for weights trained with it.
      normalizer: how logits become weights.
    """

    formula: ClassVar[str] = (
        "y_p = sum_q softmax_q(q_p . (k_q / sqrt K + r[q_y - p_y] + c[q_x - p_x])) v_q, "
        "q within h of p's block"
    )
    cost: ClassVar[str] = "T (b + 2h)^2"
    papers: ClassVar[tuple[str, ...]] = ("stm-evaluation",)

    block_size: Pair = 8
    halo: Pair = 3
    edges: str = "masked"
    normalizer: str = "softmax"

    @nn.nowrap
    def pattern(self, grid, width):
        embeddings = [
            self.param(
                f"relative_{name}",
                partitioned(nn.initializers.truncated_normal(width**-0.5), (None, "kv")),
                (2 * (block + halo) - 1, width),
                self.param_dtype,
            ).astype(self.dtype)
            for name, block, halo in zip(
                ("rows", "columns"), as_pair(self.block_size), as_pair(self.halo)
            )
        ]
        options = {
            "block_size": self.block_size,
            "halo": self.halo,
            "edges": self.edges,
            "normalizer": self.normalizer,
        }
        return (
            lambda *maps, **more: ops.halo_attention(*maps, *embeddings, **options, **more),
            lambda *maps, **more: ops.halo_attention_matrix(*maps, *embeddings, **options, **more),
        )


class MsaConv(LocalMixer):
    """Attention evaluated like a convolution, with an optional cyclic shift before it.

    As in the authors' code there is no position term and keys outside the map are zeros. With
    `cyclic_shift` the heads fall into four groups (right, left, down, up) whose maps are rolled by
    that many pixels in their own direction, and back afterwards, so that distant pixels meet at the
    edges. The paper gives no code for its multi-directional shift: groups by head, four directions
    and the way back are this project's reading.

    Attributes:
      kernel_size: k, odd.
      dilation: distance of neighbouring keys.
      edges: "zero" or "masked" outside the map.
      cyclic_shift: pixels; 0 rolls nothing.
      normalizer: how logits become weights.
    """

    formula: ClassVar[str] = "y_p = sum_o softmax_o(q_p . k_(p + d o) / sqrt K) v_(p + d o)"
    cost: ClassVar[str] = "T k^2"
    papers: ClassVar[tuple[str, ...]] = ("tic-msa-conv",)

    kernel_size: Pair = 3
    dilation: Pair = 1
    edges: str = "zero"
    cyclic_shift: int = 0
    normalizer: str = "softmax"

    @nn.nowrap
    def pattern(self, grid, width):
        options = {
            "kernel_size": self.kernel_size,
            "dilation": self.dilation,
            "edges": self.edges,
            "normalizer": self.normalizer,
        }

        def roll(x, by):
            return ops.multi_directional_cyclic_shift(x, by) if self.cyclic_shift else x

        def attend(*maps, **more):
            maps = (roll(x, self.cyclic_shift) for x in maps)
            return roll(ops.msa_conv(*maps, **options, **more), -self.cyclic_shift)

        def matrix(query, key, global_key=None):
            def mixed(value, global_value):
                before = {"global_key": global_key, "global_value": global_value}
                return attend(query, key, value, **before)

            return matrix_of(mixed, query, key, global_key)

        return attend, matrix
