"""The spectral gating of GFNet and SpectFormer."""

from typing import ClassVar

import flax.linen as nn
from jaxtyping import Array, Float

from scanmax import ops
from scanmax.models.layers import partitioned
from scanmax.models.mixers.base import MapMixer
from scanmax.models.statistics import at_least_float32


class GlobalFilter(MapMixer):
    """Spectral gating: y = irfft2(rfft2(x) * w), a filter as large as the map; no other weights.

    The filter is kept for maps of `filter_grid` and brought to others by `ops.resample_filter`, so
    that the same parameters serve every size. SpectFormer has it in the first blocks and attention
    in the later ones: `mixer=("global_filter",) * 4 + ("attention",) * 8`.

    Attributes:
      filter_grid: rows and columns of the map that the filter has its weights for.
    """

    formula: ClassVar[str] = "y = irfft2(w rfft2(x))"
    cost: ClassVar[str] = "T log T"
    papers: ClassVar[tuple[str, ...]] = ("spectformer",)

    filter_grid: tuple[int, int] = (14, 14)

    @nn.nowrap
    def mixed(self, maps: Float[Array, "B Y X D"], train: bool) -> Float[Array, "B Y X D"]:
        *_, rows, columns, dim = maps.shape
        own = tuple(self.filter_grid)
        init = partitioned(
            nn.initializers.normal(0.02), (None, None, "embed", None), inputs=(-4, -3)
        )
        shape = (own[0], own[1] // 2 + 1, dim, 2)
        weight = self.param("filter", init, shape, self.param_dtype)
        weight = weight.astype(at_least_float32(self.dtype))
        return ops.global_filter(maps, ops.resample_filter(weight, own, (rows, columns)))
