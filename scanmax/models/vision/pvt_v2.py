"""PVTv2 (Wang et al., 2022): four stages of attention over a reduced map, under timm's names.

Overlapping convolutions shrink the map, a depthwise convolution inside the MLP tells places apart,
and each stage ends in a norm. There is no table of positions: any size of image serves.
"""

from typing import Any

import flax.linen as nn
from jaxtyping import Array, Float

from scanmax.models.blocks import Block
from scanmax.models.layers import Conv, LayerNorm
from scanmax.models.mixers import with_defaults
from scanmax.models.parts.conv_mlp import ConvMlp
from scanmax.models.parts.conv_norm import he_init
from scanmax.models.registry import Variant, register_family
from scanmax.models.vision.pyramid import Pyramid


class PvtBlock(Block):
    """The pre-norm block with a convolution inside its MLP.

    Attributes:
      first_relu: a ReLU in front of that convolution.
    """

    first_relu: bool = False

    @nn.nowrap
    def apply_mlp(self, x: Float[Array, "B T D"], grid, train: bool) -> Float[Array, "B T D"]:
        return ConvMlp(
            self.mlp_hidden,
            activation=self.activation,
            first_relu=self.first_relu,
            use_bias=self.use_bias,
            dropout_rate=self.dropout_rate,
            name="mlp",
            **self.dtypes,
        )(x, grid, train)


class PvtV2(Pyramid):
    """The pyramid with overlapping patches, reduced keys and convolutions in its MLPs.

    Attributes:
      reductions: sides of the cells that keys and values are made of, one per stage.
      linear: keys and values are of 7 x 7 means whatever the map, as in "b2_li"; `reductions` are
        then not read.
      mixer: a name of MIXERS, or one per stage; the two fields above are of "spatial_reduction".
    Others are those of `Pyramid`.

    Example:
      >>> import jax, scanmax
      >>> model = scanmax.create_model("pvt_v2_b0", num_classes=10)
      >>> example = scanmax.model_info("pvt_v2_b0").example()  # [1, 224, 224, 3]
      >>> jax.eval_shape(model.init_with_output, jax.random.key(0), example)[0].shape
      (1, 10)

    Reference: stm-evaluation
    """

    dims: tuple[int, ...] = (64, 128, 320, 512)
    depths: tuple[int, ...] = (3, 4, 6, 3)
    heads: tuple[int, ...] = (1, 2, 5, 8)
    mlp_ratio: float | tuple[float, ...] = (8.0, 8.0, 4.0, 4.0)
    mixer: str | tuple[str, ...] = "spatial_reduction"
    position_conv: int = 0
    reductions: tuple[int, ...] = (8, 4, 2, 1)
    linear: bool = False

    @property
    def block_type(self) -> type[nn.Module]:
        return PvtBlock

    @nn.nowrap
    def stem(self, images: Float[Array, "B Yi Xi C"], train: bool) -> Float[Array, "B Y X D"]:
        # Patches of 7 for strides of 4: they overlap by three pixels.
        stride = self.patch_size
        return self.patches(images, self.dims[0], 2 * stride - 1, stride, "patch_embed")

    @nn.nowrap
    def downsample(self, x: Float[Array, "B Y X C"], stage: int, train: bool):
        return self.patches(x, self.dims[stage], 3, 2, f"downsample{stage}")

    @nn.nowrap
    def patches(self, x: Float[Array, "B Y X C"], dim: int, size: int, stride: int, name: str):
        """A strided convolution and its norm."""
        conv = Conv(
            dim,
            size,
            stride=stride,
            padding=size // 2,
            kernel_init=he_init,
            name=name,
            **self.dtypes,
        )
        return LayerNorm(1e-5, name=f"{name}_norm", **self.dtypes)(conv(x))

    @nn.nowrap
    def end_stage(self, x: Float[Array, "B Y X C"], stage: int) -> Float[Array, "B Y X C"]:
        return self.create_norm(f"stage{stage}_norm")(x)

    @nn.nowrap
    def last_norm(self, x: Float[Array, "B Y X C"]) -> Float[Array, "B Y X C"]:
        # That of the last stage.
        return x

    @nn.nowrap
    def block_fields(self, stage: int) -> list[dict[str, Any]]:
        own = {"reduction": "linear"} if self.linear else {"ratio": self.reductions[stage]}
        options = with_defaults({"spatial_reduction": own}, self.mixer_options)
        extra = {"mixer_options": options, "first_relu": self.linear}
        return [fields | extra for fields in super().block_fields(stage)]


def _variant(params: int, depths: tuple[int, ...], **fields: Any) -> Variant:
    return Variant(params, (224, 224, 3), "", {"depths": depths, **fields})


_WIDE = {"mlp_ratio": (4.0, 4.0, 4.0, 4.0)}

VARIANTS = {
    "pvt_v2_b0": _variant(3_666_760, (2, 2, 2, 2), dims=(32, 64, 160, 256)),
    "pvt_v2_b1": _variant(14_009_000, (2, 2, 2, 2)),
    "pvt_v2_b2": _variant(25_362_856, (3, 4, 6, 3)),
    "pvt_v2_b2_li": _variant(22_553_512, (3, 4, 6, 3), linear=True),
    "pvt_v2_b3": _variant(45_238_696, (3, 4, 18, 3)),
    "pvt_v2_b4": _variant(62_556_072, (3, 8, 27, 3)),
    "pvt_v2_b5": _variant(81_956_008, (3, 6, 40, 3), **_WIDE),
}

register_family("pvt_v2", PvtV2, VARIANTS)
