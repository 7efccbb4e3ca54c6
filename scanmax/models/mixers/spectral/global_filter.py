"""The spectral gating of GFNet and SpectFormer."""

from typing import ClassVar

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from scanmax import ops
from scanmax.models.layers import at_least_float32, partitioned
from scanmax.models.mixers.base import Mixer


class GlobalFilter(Mixer):
    """Spectral gating: y = irfft2(rfft2(x) * w), a filter as large as the map; no other weights.

    The filter is kept for maps of `filter_grid` and brought to others by `ops.resample_filter`, so
    that the same parameters serve every size. SpectFormer has it in the first blocks and attention
    in the later ones: `mixer=("global_filter",) * 4 + ("attention",) * 8`. Prefix tokens have no
    place: `beside_prefix` says what they read.

    Attributes:
      filter_grid: rows and columns of the map that the filter has its weights for.
    """

    formula: ClassVar[str] = "y = irfft2(w rfft2(x))"
    cost: ClassVar[str] = "T log T"
    papers: ClassVar[tuple[str, ...]] = ("spectformer",)

    filter_grid: tuple[int, int] = (14, 14)

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        grid: tuple[int, int] | None = None,
        train: bool = False,
    ) -> Float[Array, "B T D"]:
        if self.is_causal:
            raise ValueError("GlobalFilter has no causal form: it reads whole maps.")
        x, (batch, _, dim) = x.astype(self.dtype), x.shape
        grid, own = self.grid_or_line(x, grid), tuple(self.filter_grid)
        init = partitioned(
            nn.initializers.normal(0.02), (None, None, "embed", None), inputs=(-4, -3)
        )
        shape = (own[0], own[1] // 2 + 1, dim, 2)
        weight = self.param("filter", init, shape, self.param_dtype)
        weight = ops.resample_filter(weight.astype(at_least_float32(self.dtype)), own, tuple(grid))
        maps = x[:, self.prefix_tokens :].reshape(batch, *grid, dim)
        return self.beside_prefix(x, jax.lax.collapse(ops.global_filter(maps, weight), 1, 3))
