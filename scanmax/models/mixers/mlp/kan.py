"""Mixers of maps whose layers are convolutions of functions: attention, focal modulation."""

from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
from jaxtyping import Array, Float

from scanmax.models.mixers.base import MapMixer
from scanmax.models.parts.kan_mixing import KanAttention, KanFocalModulation


class _KanMixer(MapMixer):
    """What both share.

    Attributes:
      kind: of the layers, a name of `parts.kan_layers.KAN_LAYERS`.
      layer: other fields of `KanConvNorm`, such as {"reduction": 4}.
      norm_layer: a name of `parts.map_norms.MAP_NORMS`.
      norm_momentum: weight of the old averages of batch norms at each training step.
      frozen_statistics: batch norms keep their averages, in training too.
    """

    papers: ClassVar[tuple[str, ...]] = ("kan-conv",)

    kind: str = "kagn"
    layer: Mapping[str, Any] | None = None
    norm_layer: str = "instance"
    norm_momentum: float = 0.9
    frozen_statistics: bool = False

    @property
    def layers(self) -> dict[str, Any]:
        """Fields of every layer, and of the mixer that they are in."""
        names = ("kind", "norm_layer", "norm_momentum", "frozen_statistics")
        return {**{name: getattr(self, name) for name in names}, **(self.layer or {})}


class KanAttentionMixer(_KanMixer):
    """Attention of one head whose queries, keys and values are convolutions of functions.

    Scores are not scaled, and a learned share of the input, 0 at first, joins before the norm.

    Attributes:
      kernel_size: of the three layers.
      inner_dim: channels in which attention happens; None is D, without two linear maps.
      rotary, rotary_base: as in `KanAttention`.
    Others are those of `KanFocalMixer`.
    """

    formula: ClassVar[str] = "y = norm(g x + softmax(q k^T) v),  q, k, v = KAN convolutions of x"
    cost: ClassVar[str] = "T^2"

    kernel_size: int = 3
    inner_dim: int | None = None
    rotary: str | None = None
    rotary_base: float = 10.0

    @nn.nowrap
    def mixed(self, maps: Float[Array, "B Y X D"], train: bool) -> Float[Array, "B Y X D"]:
        names = ("kernel_size", "inner_dim", "rotary", "rotary_base")
        fields = {name: getattr(self, name) for name in names}
        return KanAttention(**fields, layer=self.layers, name="mix", **self.dtypes)(maps, train)


class KanFocalMixer(_KanMixer):
    """Focal modulation by convolutions of functions: contexts of growing reach, gated, times q.

    Attributes:
      focal_window, focal_level, focal_factor, full_kan: as in `KanFocalModulation`.
      kind: of the layers, a name of `parts.kan_layers.KAN_LAYERS`.
      layer: other fields of `KanConvNorm`, such as {"reduction": 4}.
      norm_layer: a name of `parts.map_norms.MAP_NORMS`.
      norm_momentum: weight of the old averages of batch norms at each training step.
      frozen_statistics: batch norms keep their averages, in training too.
    """

    formula: ClassVar[str] = "y = P norm(q h(s + g_L mean(s))),  s = sum_l g_l DW_l(... DW_1(c))"
    cost: ClassVar[str] = "T"

    focal_window: int = 3
    focal_level: int = 2
    focal_factor: int = 2
    full_kan: bool = True

    @nn.nowrap
    def mixed(self, maps: Float[Array, "B Y X D"], train: bool) -> Float[Array, "B Y X D"]:
        names = ("focal_window", "focal_level", "focal_factor", "full_kan")
        fields = {name: getattr(self, name) for name in names}
        mix = KanFocalModulation(**fields, layer=self.layers, name="mix", **self.dtypes)
        return mix(maps, train)
