"""HorNet's recursive gated convolution as a mixer of maps."""

import itertools
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax import ops
from scanmax.errors import UserError
from scanmax.models.layers import (
    Conv,
    LayerNorm,
    fan_in_uniform,
    normal_init,
    partitioned,
    zeros_init,
)
from scanmax.models.mixers.base import MapMixer
from scanmax.models.statistics import at_least_float32

NEIGHBOURHOODS = ("conv", "global_local")


class GnConv(MapMixer):
    """Recursive gated convolution g^nConv: interactions of order n from n products of pixels.

    The gates are one depthwise filter over linear maps of the pixels, of widths D / 2^(n-1) up to
    D; each product is mapped to twice its width before it meets the next gate.

    Attributes:
      order: n; 2^(n-1) divides D.
      neighbourhood: the filter: "conv", a depthwise convolution, or "global_local", a 3 by 3
        convolution of every other channel and a global filter of the rest, between layer norms.
      kernel_size: side of the kernels of "conv".
      filter_grid: rows and columns of the map that the global filter has its weights for; it is
        brought to others by frequency, where the released code stretches its table.
      scale: of the gates.
    """

    formula: ClassVar[str] = "y = W p_n,  p_(k+1) = (W_k p_k) * g_k,  g = DW(V x) / 3,  p_0 = U x"
    cost: ClassVar[str] = "T"
    papers: ClassVar[tuple[str, ...]] = ("hornet",)

    order: int = 3
    neighbourhood: str = "conv"
    kernel_size: int = 7
    filter_grid: tuple[int, int] = (14, 14)
    scale: float = 1 / 3

    @nn.nowrap
    def mixed(self, maps: Float[Array, "B Y X D"], train: bool) -> Float[Array, "B Y X D"]:
        if self.neighbourhood not in NEIGHBOURHOODS:
            raise UserError(
                f"neighbourhood={self.neighbourhood!r} is not one of {', '.join(NEIGHBOURHOODS)}"
            )
        dim, first = maps.shape[-1], 2 ** (self.order - 1)
        if self.order < 1 or dim % first:
            raise UserError(f"order={self.order}: 2^(order - 1) must divide the width, {dim}")
        widths = [dim * 2**k // first for k in range(self.order)]
        projected = self.dense(2 * dim, ("embed", "mlp"), "in_proj")(maps)
        x, gates = projected[..., : widths[0]], projected[..., widths[0] :]
        if self.neighbourhood == "conv":
            gates = self.depthwise(gates.shape[-1], self.kernel_size, "filter")(gates)
        else:
            gates = GlobalLocalFilter(self.filter_grid, name="filter", **self.dtypes)(gates)
        kernels, biases = [], []
        for k, shape in enumerate(itertools.pairwise(widths), 1):
            init = partitioned(normal_init, ("embed", "mlp"), inputs=(-2,), outputs=(-1,))
            kernel = self.param(f"gate_kernel{k}", init, shape, self.param_dtype)
            kernels.append(kernel.astype(self.dtype))
            if self.use_bias:
                init = partitioned(zeros_init, ("mlp",))
                bias = self.param(f"gate_bias{k}", init, shape[1:], self.param_dtype)
                biases.append(bias.astype(self.dtype))
        y = ops.recursive_gate(x, gates * self.scale, kernels, biases if self.use_bias else None)
        return self.dense(dim, ("mlp", "embed"), "out_proj")(y)


class GlobalLocalFilter(nn.Module):
    """HorNet's global-local filter: channels by turns convolved 3 by 3 and filtered by frequency.

    The first half of the channels is convolved, the second filtered; what comes of them takes turns
    along the channels. Layer norms stand before and behind.

    Attributes:
      filter_grid: rows and columns of the map that the filter has its weights for.
    """

    filter_grid: tuple[int, int] = (14, 14)
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B Y X C"]) -> Float[Array, "B Y X C"]:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        (rows, columns), half = x.shape[1:3], x.shape[-1] // 2
        if x.shape[-1] % 2:
            raise UserError(f"the global-local filter halves its channels; x has shape {x.shape}")
        x = LayerNorm(axis="mlp", name="pre_norm", **dtypes)(x)
        near, far = jnp.split(x, 2, -1)
        near = Conv(
            half,
            3,
            groups=half,
            use_bias=False,
            kernel_init=fan_in_uniform(),
            name="local",
            **dtypes,
        )(near)
        own = tuple(self.filter_grid)
        init = partitioned(normal_init, (None, None, "mlp", None), inputs=(-4, -3))
        shape = (own[0], own[1] // 2 + 1, half, 2)
        weight = self.param("filter", init, shape, self.param_dtype)
        weight = weight.astype(at_least_float32(self.dtype))
        far = ops.global_filter(far, ops.resample_filter(weight, own, (rows, columns)))
        x = jnp.stack([near, far], -1).reshape(x.shape)
        return LayerNorm(axis="mlp", name="post_norm", **dtypes)(x)
