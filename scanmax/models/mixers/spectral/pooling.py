"""SPANet's mixer: convolved pixels times a context of low and high frequencies."""

from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from scanmax import ops
from scanmax.models.mixers.base import MapMixer
from scanmax.models.statistics import at_least_float32


class SpectralPooling(MapMixer):
    """Spectral pooling aggregation: y = W (u * sum_i V_i filter_i(u_i)), u convolved values.

    u is a linear map of x, convolved by a row and then a column of taps; part i of its channels has
    low frequencies weighted by the i-th of `low_weights` and high ones by the rest to one.

    Attributes:
      radius: up to which a frequency is low, in periods over the map.
      kernel_size: taps of the row and of the column.
      low_weights: of low frequencies, one for each part of the channels; the first parts are the
        larger ones where they do not divide D.
    """

    formula: ClassVar[str] = "y = W (u * sum_i V_i F_i(u_i)),  u = DW_7x1(DW_1x7(U x))"
    cost: ClassVar[str] = "T log T"
    papers: ClassVar[tuple[str, ...]] = ("spanet",)

    radius: float = 2
    kernel_size: int = 7
    low_weights: tuple[float, ...] = (0.7, 0.8, 0.9)

    @nn.nowrap
    def mixed(self, maps: Float[Array, "B Y X D"], train: bool) -> Float[Array, "B Y X D"]:
        dim, size = maps.shape[-1], self.kernel_size
        u = self.dense(dim, ("embed", "embed"), "in_proj")(maps)
        u = self.depthwise(dim, (1, size), "row")(u)
        u = self.depthwise(dim, (size, 1), "column")(u)
        width = -(-dim // len(self.low_weights))
        part = np.arange(dim) // width
        weights = np.array(self.low_weights)[part]
        pooled = ops.spectral_pooling(
            u, jnp.asarray(weights, at_least_float32(self.dtype)), radius=self.radius
        )
        context = 0
        for i in sorted(set(part.tolist())):
            chunk = pooled[..., i * width : (i + 1) * width]
            context = context + self.dense(dim, ("embed", "embed"), f"context{i}")(chunk)
        return self.dense(dim, ("embed", "embed"), "out_proj")(u * context)
