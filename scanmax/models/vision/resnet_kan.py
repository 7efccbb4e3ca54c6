"""ResKANet: the stages of ResNet over convolutions of functions.

A block is a 3x3 and a 1x1 layer, or ResNet's bottleneck, each layer with its norm and what bends
it, shortcuts too; nothing bends the sum. Names and sizes are those of the released code, which
prints no counts; those here are of its modules. Those in 18x32p and 34x32p see images of 32 pixels
a side, by a 3x3 stem, and their norms have no scale, as the release calls them.

    >>> import scanmax
    >>> scanmax.model_info("reskagnet50").features[0].channels
    16

Reference: kan-conv
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
from jaxtyping import Array, Float

from scanmax.errors import UserError
from scanmax.models.parts.kan_layers import KanConvNorm
from scanmax.models.registry import Variant, register_family
from scanmax.models.vision.resnet import ResNet, ResNetBlock


class KanBlock(ResNetBlock):
    """shortcut(x) + gate(branch(x)), all of `KanConvNorm`.

    Attributes:
      kind, options, base, squash, affine, dropout_rate: as in `KanConvNorm`.
      experts: of 3x3 layers, as `KanConvNorm` has them; None has none.
      reductions: of 3x3 layers and of all others, which makes each a bottleneck; None leaves it.
    """

    kind: str = "kagn"
    options: Mapping[str, Any] | None = None
    base: str | None = None
    squash: str | None = None
    reductions: tuple[float, float] | None = None
    affine: bool = True
    experts: Mapping[str, Any] | None = None
    dropout_rate: float = 0.0

    @property
    def second_size(self) -> int:
        """Side of the second kernel of a block without bottleneck."""
        return 1

    @nn.nowrap
    def bend(self, x: Float[Array, "B Y X F"]) -> Float[Array, "B Y X F"]:
        """What follows the sum: nothing."""
        return x

    @nn.nowrap
    def conv(self, features: int, size: int, stride: int, name: str, **fields: Any) -> nn.Module:
        """A layer; its kind says what bends it."""
        own = {key: x for key, x in fields.items() if key not in ("activation", "scale_init")}
        names = ("kind", "options", "base", "squash", "affine", "dropout_rate")
        fields = {**self.layer, **{key: getattr(self, key) for key in names}, **own}
        if self.reductions is not None:
            fields["reduction"] = self.reductions[size == 1]
        if size > 1:
            fields["experts"] = self.experts
        return KanConvNorm(features, size, stride=stride, name=name, **fields)


class ResKanet(ResNet):
    """A stem, stages of `KanBlock`, a pooled map, a head.

    Attributes:
      kind, options, base, squash, reductions, affine, experts: as in `KanBlock`.
      stem_norm_layer: of the stem; None takes `norm_layer`.
      layer_dropout_rate: of every layer, as `KanConvNorm` has it.
    """

    dims: tuple[int, ...] = (8, 16, 32, 64)
    depths: tuple[int, ...] = (2, 2, 2, 2)
    bottleneck: bool = False
    stem_dims: tuple[int, ...] = (8,)
    kind: str = "kagn"
    options: Mapping[str, Any] | None = None
    base: str | None = None
    squash: str | None = None
    reductions: tuple[float, float] | None = None
    affine: bool = True
    experts: Mapping[str, Any] | None = None
    stem_norm_layer: str | None = None
    layer_dropout_rate: float = 0.0

    @property
    def block(self) -> type[ResNetBlock]:
        """What the stages are made of."""
        return KanBlock

    @property
    def kan(self) -> dict[str, Any]:
        """Fields of every layer."""
        names = ("kind", "options", "base", "squash", "affine")
        fields = {name: getattr(self, name) for name in names}
        return {**fields, "dropout_rate": self.layer_dropout_rate}

    @nn.nowrap
    def stem_conv(self, features: int, size: int, **fields: Any) -> nn.Module:
        """A layer of the stem."""
        fields |= {**self.kan, **self.dtypes}
        if self.stem_norm_layer is not None:
            fields["norm_layer"] = self.stem_norm_layer
        if self.reductions is not None:
            fields["reduction"] = self.reductions[1]
        return KanConvNorm(features, size, **fields)

    @nn.nowrap
    def block_fields(self, stage: int, channels: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """Fields of the first block of a stage, that gets so many channels, and of the others."""
        if self.selective_kernel is not None:
            raise UserError("selective_kernel= chooses among plain convolutions; leave it out here")
        more = {**self.kan, "reductions": self.reductions, "experts": self.experts}
        first, rest = super().block_fields(stage, channels)
        return {**first, **more}, {**rest, **more}


_DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}
_SMALL = {"num_classes": 10, "stem_size": 3, "stem_stride": 1, "stem_pool": False, "affine": False}
# The stems of all but Gram's keep the norm that their layer has by itself.
_ALONE = {"stem_norm_layer": "instance"}
# What the release trains on ImageNet.
_IMAGENET = {
    "dims": (16, 32, 64, 128),
    "stem_dims": (16,),
    "norm_layer": "instance",
    "options": {"degree": 5},
}
_BOTTLENECK = {"reductions": (8.0, 4.0)}


def _small(params: int, layers: int, *parts: Mapping[str, Any]) -> Variant:
    config: dict[str, Any] = {"depths": _DEPTHS[layers], **_SMALL}
    for fields in parts:
        config |= fields
    return Variant(params, (32, 32, 3), "kan-conv", config)


def _large(params: int, layers: int, *parts: Mapping[str, Any]) -> Variant:
    config: dict[str, Any] = {"depths": _DEPTHS[layers], "bottleneck": layers > 34, **_IMAGENET}
    for fields in parts:
        config |= fields
    return Variant(params, (224, 224, 3), "kan-conv", config)


VARIANTS = {
    "reskanet_18x32p": _small(788_278, 18, {"kind": "kan"}, _ALONE),
    "fast_reskanet_18x32p": _small(
        525_722,
        18,
        {"kind": "fastkan", "base": "gelu", "options": {"grid_size": 5, "grid_range": (-1.0, 1.0)}},
        _ALONE,
    ),
    "reskalnet_18x32p": _small(438_210, 18, {"kind": "kaln"}, _ALONE),
    "reskacnet_18x32p": _small(350_698, 18, {"kind": "kacn"}, _ALONE),
    "reskagnet_18x32p": _small(438_290, 18),
    "reskagnet_34x32p": _small(876_754, 34),
    "reskagnetbn_18x32p": _small(166_807, 18, _BOTTLENECK),
    "reskagnetbn_34x32p": _small(343_383, 34, _BOTTLENECK),
    "reskagnet18": _large(2_592_272, 18),
    "reskagnet50": _large(10_800_470, 50),
    "reskagnet_bn50": _large(4_065_477, 50, _BOTTLENECK),
}

register_family("resnet_kan", ResKanet, VARIANTS)
