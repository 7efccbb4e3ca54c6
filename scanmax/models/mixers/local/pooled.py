"""Attention over reduced keys: by a strided convolution, by plain means, or by means of a line."""

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from scanmax import ops
from scanmax.errors import UserError
from scanmax.models.layers import BatchNorm, Conv, LayerNorm, activation, fan_in_uniform
from scanmax.models.mixers.base import Mixer

REDUCTIONS = ("conv", "average", "linear")


class _Reduced(Mixer):
    """Queries of all tokens, keys and values of fewer: the projections and the sown matrix."""

    @nn.nowrap
    def attend(self, x: Float[Array, "B T D"], source: Float[Array, "B S D"], cells=None):
        """Attention of x over source; `cells` [S, T] are the means that source is, if it is."""
        if self.is_causal:
            raise ValueError(f"{type(self).__name__} has no causal form: its keys are pooled.")
        dim, width = x.shape[-1], self.head_dim(x.shape[-1])
        query = self.dense((self.heads, width), ("embed", "heads", "kv"), "query")(x)
        shape, axes = (2, self.heads, width), ("embed", None, "heads", "kv")
        key, value = self.dense(shape, axes, "key_value", apart=True)(source)
        if cells is not None:
            self.sow_attention(
                x.shape[1],
                lambda: jnp.einsum(
                    "bhts,sj->bhtj", ops.attention_matrix(query, key), cells.astype(query.dtype)
                ),
            )
        y = ops.dot_product_attention(query, key, value)
        return self.dense(dim, ("heads", "kv", "embed"), "out", contract=2)(y)

    @nn.nowrap
    def cells_of(self, pool, tokens: int) -> np.ndarray:
        """[S, T]: prefix tokens as they are, and the means that `pool` takes of the others."""
        prefix = self.prefix_tokens
        means = pool(jnp.eye(tokens - prefix, dtype=jnp.float32))
        cells = jnp.zeros((prefix + means.shape[0], tokens), means.dtype)
        cells = cells.at[:prefix, :prefix].set(jnp.eye(prefix, dtype=means.dtype))
        return cells.at[prefix:, prefix:].set(means)


class SpatialReduction(_Reduced):
    """Attention over keys and values of a reduced map.

    "conv" is PVT: a convolution whose kernel is its stride, LayerNorm, then keys and values.
    "linear" is PVTv2's: means of a fixed number of cells, a 1x1 convolution, LayerNorm, GELU.
    "average" is the mean of each cell alone, the one of the three that is a matrix over tokens.
    Prefix tokens are keys of their own, neither reduced nor normalised here.

    Attributes:
      ratio: sides of a cell; 1 leaves the reduction out. Not read by "linear".
      reduction: "conv", "average" or "linear".
      size: cells along each side, for "linear".
      remainder: rows and columns behind the last whole cell of "conv": "drop" leaves them out as
        the released code does, "keep" pads a cell with zeros. A map smaller than a cell is padded
        either way.
    """

    formula: ClassVar[str] = (
        "y_t = sum_c softmax_c(q_t . k_c / sqrt K) v_c,  k, v of norm(conv_r(x))"
    )
    cost: ClassVar[str] = "T^2 / r^2"
    papers: ClassVar[tuple[str, ...]] = ("stm-evaluation",)

    ratio: int = 2
    reduction: str = "conv"
    size: int = 7
    remainder: str = "drop"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        grid: tuple[int, int] | None = None,
        train: bool = False,
    ) -> Float[Array, "B T D"]:
        if self.reduction not in REDUCTIONS:
            raise UserError(f"reduction={self.reduction!r} is not one of {', '.join(REDUCTIONS)}")
        grid = self.grid_or_line(x, grid)
        prefix, tokens = x[:, : self.prefix_tokens], x[:, self.prefix_tokens :]
        maps = tokens.reshape(x.shape[0], *grid, x.shape[-1])
        if self.reduction == "linear" or self.ratio > 1:
            maps = self.reduce(maps)
        cells = None
        if self.reduction == "average" or (self.reduction == "conv" and self.ratio == 1):

            def pool(pixels):
                pooled = self.average(pixels.reshape(*grid, pixels.shape[-1]))
                return jax.lax.collapse(pooled, 0, 2)

            cells = self.cells_of(pool, x.shape[1])
        reduced = jax.lax.collapse(maps, 1, 3).astype(x.dtype)
        return self.attend(x, jnp.concatenate([prefix, reduced], axis=1), cells)

    @nn.nowrap
    def average(self, maps: Float[Array, "*B Y X C"]) -> Float[Array, "*B U V C"]:
        """The means of cells of `ratio` by `ratio`, those at the far edges smaller."""
        *batch, Y, X, C = maps.shape
        rows, columns = -(-Y // self.ratio), -(-X // self.ratio)
        y = ops.pool_tokens(jax.lax.collapse(maps, -2), min(self.ratio, Y), remainder="keep")
        y = jnp.swapaxes(y.reshape(*batch, rows, X, C), -3, -2)
        y = ops.pool_tokens(jax.lax.collapse(y, -2), min(self.ratio, X), remainder="keep")
        return jnp.swapaxes(y.reshape(*batch, columns, rows, C), -3, -2)

    @nn.nowrap
    def reduce(self, maps: Float[Array, "B Y X D"]) -> Float[Array, "B U V D"]:
        if self.reduction == "average":
            return self.average(maps)
        dtypes: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        norm = LayerNorm(epsilon=1e-5, name="norm", **dtypes)
        ratio = 1 if self.reduction == "linear" else self.ratio
        conv = Conv(
            maps.shape[-1],
            ratio,
            stride=ratio,
            padding="VALID",
            kernel_init=fan_in_uniform(),
            name="reduce",
            **dtypes,
        )
        if self.reduction == "linear":
            y = norm(conv(ops.adaptive_avg_pool2d(maps, (self.size, self.size))))
            return activation("gelu")(y)
        whole = [
            -(-n // ratio) * ratio if self.remainder == "keep" or n < ratio else n // ratio * ratio
            for n in maps.shape[1:3]
        ]
        pads = [(0, max(m - n, 0)) for m, n in zip(whole, maps.shape[1:3])]
        maps = jnp.pad(maps, ((0, 0), *pads, (0, 0)))[:, : whole[0], : whole[1]]
        return norm(conv(maps))


class Pooled(_Reduced):
    """E-MHSA of Next-ViT: keys and values of means over consecutive tokens, batch-normalised.

    The means run along the flattened rows, r^2 tokens each, not over r by r cells. Prefix tokens
    are keys of their own, neither averaged nor normalised.

    Attributes:
      ratio: r; 1 leaves means and norm out.
      remainder: tokens behind the last whole mean: "drop" leaves them out as the released code
        does, "keep" averages them. Fewer than r^2 tokens make one mean.
      norm_momentum: weight of the old averages of the batch norm at each training step.
      frozen_statistics: the batch norm keeps its averages, in training too.
    """

    formula: ClassVar[str] = (
        "y_t = sum_c softmax_c(q_t . k_c / sqrt K) v_c,  k, v of BN(mean of r^2 x)"
    )
    cost: ClassVar[str] = "T^2 / r^2"
    papers: ClassVar[tuple[str, ...]] = ("next-vit",)

    ratio: int = 2
    remainder: str = "drop"
    norm_momentum: float = 0.9
    frozen_statistics: bool = False

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        grid: tuple[int, int] | None = None,
        train: bool = False,
    ) -> Float[Array, "B T D"]:
        self.grid_or_line(x, grid)
        prefix, tokens = x[:, : self.prefix_tokens], x[:, self.prefix_tokens :]

        def pool(tokens):
            return ops.pool_tokens(tokens, self.ratio**2, remainder=self.remainder)

        if self.ratio > 1:
            norm = BatchNorm(
                momentum=self.norm_momentum,
                frozen_statistics=self.frozen_statistics,
                dtype=self.dtype,
                param_dtype=self.param_dtype,
                name="norm",
            )
            tokens = norm(pool(tokens), train).astype(x.dtype)
        cells = self.cells_of(pool, x.shape[1])
        return self.attend(x, jnp.concatenate([prefix, tokens], axis=1), cells)
