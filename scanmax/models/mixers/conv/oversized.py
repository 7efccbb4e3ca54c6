"""ParCNetV2's mixer: a gate of oversized and of small kernels."""

from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax import ops
from scanmax.models.layers import Conv, Initializer, fan_in_uniform, gelu, partitioned
from scanmax.models.mixers.base import MapMixer


class Oversized(MapMixer):
    """ParC V2: pixels times what kernels of the whole map and of 7 by 7 make of the others.

    y = W (x_1 * (O(u) + DW(u))),  u = gelu(x_2),  [x_1, x_2] = V x. The oversized kernels are
    brought to twice the map by interpolation, so that the same parameters serve every size.

    Attributes:
      global_size: taps of the column and of the row; 111, 55, 27 and 13 in the paper's stages at
        224 pixels, twice the map less one.
      kernel_size: side of the small kernels.
      interpolate: whether the column and the row are brought to the size of the map; otherwise they
        keep their taps, as in the released code at the size that it is trained for.
      deviation: of the kernels at the start; None draws them as torch does.
    """

    formula: ClassVar[str] = "y = W (x_1 * (O(u) + DW_7x7(u))),  u = gelu(x_2),  [x_1, x_2] = V x"
    cost: ClassVar[str] = "T log T"
    papers: ClassVar[tuple[str, ...]] = ("parcnetv2",)

    global_size: int = 13
    kernel_size: int = 7
    interpolate: bool = True
    deviation: float | None = None

    @nn.nowrap
    def mixed(self, maps: Float[Array, "B Y X D"], train: bool) -> Float[Array, "B Y X D"]:
        dim = maps.shape[-1]
        x, gates = jnp.split(self.dense(2 * dim, ("embed", "mlp"), "in_proj")(maps), 2, -1)
        gates, taps = gelu(gates), []
        for name in ("column_kernel", "row_kernel"):
            init = partitioned(self.kernel_init(self.global_size), (None, "mlp"), (-2,))
            kernel = self.param(name, init, (self.global_size, dim), self.param_dtype)
            taps.append(kernel.astype(self.dtype))
        near = Conv(
            dim,
            self.kernel_size,
            groups=dim,
            use_bias=False,
            kernel_init=self.kernel_init(self.kernel_size**2),
            name="local",
            **self.dtypes,
        )(gates)
        far = ops.oversized_conv2d(gates, *taps, interpolate=self.interpolate)
        out = self.dense(dim, ("mlp", "embed"), "out_proj", use_bias=False)
        return out(x * (far + near))

    @nn.nowrap
    def kernel_init(self, taps: int) -> Initializer:
        """How kernels of so many taps start."""
        if self.deviation is None:
            return fan_in_uniform(fan_in=taps)
        return nn.initializers.normal(self.deviation)
