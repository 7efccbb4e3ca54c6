"""VGG-KAGN: the stacks of VGG over convolutions of functions, pooled to one place.

The three networks whose ImageNet weights the authors of the KAN convolutions released: Gram's
polynomials of degree 5, with instance norms, or in a bottleneck with batch norms. The report gives
7.25 million parameters for the last; here and in the released code it has 7,252,115.

    >>> import scanmax
    >>> scanmax.model_info("vgg_kagn11_v2").features[-1].stride
    32

Reference: kan-conv
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
from jaxtyping import Array, Float

from scanmax.errors import UserError
from scanmax.models.blocks import rematerialised
from scanmax.models.layers import Initializer, fan_in_uniform
from scanmax.models.parts.kan_layers import KanConvNorm
from scanmax.models.parts.kan_mixing import KanAttention
from scanmax.models.registry import Variant, register_family
from scanmax.models.vision.vgg import Vgg


class VggKan(Vgg):
    """Stages of `KanConvNorm`, a pooled map, a head.

    Attributes:
      batch_norm: of stages; False takes instance norms.
      affine: norms have a scale and an offset.
      kind, options, base, squash, reduction, groups: as in `KanConvNorm`; the first has one group.
      layer_dropout_rate: of every layer but the first, as `KanConvNorm` has it.
      experts: of every layer but the first, as `KanConvNorm` has them; None has none.
      attention_stages: stages with a `KanAttention` behind their last layer, (2, 3) in the authors'
        "VGG11sa".
      last_attention: the last layer of all is attention, which keeps its channels.
      attention_reduction: what divides the channels in which attention happens; None leaves its two
        linear maps out.
    """

    dims: tuple[int, ...] = (32, 64, 128, 256, 256, 256)
    depths: tuple[int, ...] = (1, 1, 2, 2, 2, 2)
    hidden_dim: int = 0
    pools_last: bool = False
    affine: bool = True
    kind: str = "kagn"
    options: Mapping[str, Any] | None = None
    base: str | None = None
    squash: str | None = None
    reduction: float | None = None
    groups: int = 1
    layer_dropout_rate: float = 0.0
    experts: Mapping[str, Any] | None = None
    attention_stages: tuple[int, ...] = ()
    last_attention: bool = False
    attention_reduction: int | None = None

    @property
    def head_init(self) -> Initializer:
        return fan_in_uniform()

    @nn.nowrap
    def conv(self, dim: int, stage: int, index: int) -> nn.Module:
        """A layer of a stage."""
        is_first, name = stage == index == 0, f"stage{stage}_conv{index}"
        end = (len(self.dims) - 1, self.depths[-1] - 1)
        if self.last_attention and (stage, index) == end:
            return self.attention(dim if index else self.dims[stage - 1], name)
        own = {"groups": 1, "dropout_rate": 0.0} if is_first else {"experts": self.experts}
        return rematerialised(KanConvNorm, self.remat)(
            dim, name=name, **{**self.layer, **own}, **self.dtypes
        )

    @property
    def layer(self) -> dict[str, Any]:
        """Fields of every layer but the first."""
        names = ("kind", "options", "base", "squash", "reduction", "groups", "affine")
        names += ("norm_epsilon", "norm_momentum", "frozen_statistics")
        fields = {name: getattr(self, name) for name in names}
        norm_layer = "batch" if self.batch_norm else "instance"
        return {**fields, "dropout_rate": self.layer_dropout_rate, "norm_layer": norm_layer}

    @nn.nowrap
    def attention(self, dim: int, name: str) -> nn.Module:
        """Attention among so many channels."""
        inner = self.attention_reduction
        inner = None if inner is None else max(1, dim // inner)
        module = rematerialised(KanAttention, self.remat)
        return module(inner_dim=inner, layer=self.layer, name=name, **self.dtypes)

    @nn.nowrap
    def finish(
        self, x: Float[Array, "B Y X C"], stage: int, train: bool
    ) -> Float[Array, "B Y X C"]:
        """Attention behind some stages."""
        if any(not 0 <= place < len(self.dims) for place in self.attention_stages):
            raise UserError(
                f"attention_stages={self.attention_stages}; stages are 0 to {len(self.dims) - 1}"
            )
        if stage not in self.attention_stages:
            return x
        return self.attention(x.shape[-1], f"stage{stage}_attention")(x, train)


_V4 = {"dims": (32, 64, 128, 256, 256, 512)}
_BOTTLENECK = {"reduction": 8.0, "batch_norm": True}


def _variant(params: int, *parts: Mapping[str, Any]) -> Variant:
    config: dict[str, Any] = {"options": {"degree": 5}}
    for fields in parts:
        config |= fields
    return Variant(params, (224, 224, 3), "kan-conv", config)


VARIANTS = {
    "vgg_kagn11_v2": _variant(24_652_420),
    "vgg_kagn11_v4": _variant(41_424_516, _V4),
    "vgg_kagn_bn11_v4": _variant(7_252_115, _V4, _BOTTLENECK),
}

register_family("vgg_kan", VggKan, VARIANTS)
