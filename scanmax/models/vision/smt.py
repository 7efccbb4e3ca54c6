"""SMT (Lin et al., 2023): scale-aware modulation on large maps, attention on the last.

Four stages of pre-norm blocks whose MLPs hold a convolution; in the third, modulation and attention
take turns. Names are the release's, `smt_t` to `smt_l`.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
from jaxtyping import Array, Float

from scanmax.errors import UserError
from scanmax.models.blocks import Block
from scanmax.models.layers import Conv, LayerNorm
from scanmax.models.mixers import with_defaults
from scanmax.models.parts.conv_mlp import ConvMlp
from scanmax.models.parts.conv_norm import ConvNorm, he_init
from scanmax.models.registry import Variant, register_family
from scanmax.models.statistics import averaging
from scanmax.models.vision.turns import TurnPyramid


class SkipConvBlock(Block):
    """The pre-norm block whose MLP adds to its hidden layer what a convolution makes of it."""

    @nn.nowrap
    def apply_mlp(self, x: Float[Array, "B T D"], grid, train: bool) -> Float[Array, "B T D"]:
        return ConvMlp(
            self.mlp_hidden,
            activation=self.activation,
            skip=True,
            use_bias=self.use_bias,
            dropout_rate=self.dropout_rate,
            name="mlp",
            **self.dtypes,
        )(x, grid, train)


class Smt(TurnPyramid):
    """The pyramid of scale-aware modulation, then attention.

    Attributes:
      stem_size: side of the first convolution.
      norm_momentum: weight of the old averages of batch norms at each training step.
      frozen_statistics: batch norms keep their averages, in training too: for fine-tuning.
    Others are those of `TurnPyramid` and `Pyramid`.

    Example:
      >>> import jax, scanmax
      >>> model = scanmax.create_model("smt_t", num_classes=10)
      >>> example = scanmax.model_info("smt_t").example()  # [1, 224, 224, 3]
      >>> jax.eval_shape(model.init_with_output, jax.random.key(0), example)[0].shape
      (1, 10)

    Reference: smt
    """

    dims: tuple[int, ...] = (64, 128, 256, 512)
    depths: tuple[int, ...] = (2, 2, 8, 1)
    heads: tuple[int, ...] = (1, 1, 8, 16)
    mlp_ratio: float | tuple[float, ...] = (4.0, 4.0, 4.0, 2.0)
    mixer: str | tuple[str, ...] = ("scale_aware",) * 3 + ("gated_attention",)
    second_mixer: tuple[str | None, ...] = (None, None, "gated_attention", None)
    position_conv: int = 0
    stem_size: int = 3
    norm_momentum: float = 0.9
    frozen_statistics: bool = False

    @property
    def layer_type(self) -> type[nn.Module]:
        return SkipConvBlock

    @property
    def statistics(self) -> dict[str, Any]:
        """Fields of every batch norm."""
        return averaging(self)

    @nn.nowrap
    def stem(self, images: Float[Array, "B Yi Xi C"], train: bool) -> Float[Array, "B Y X D"]:
        dim, size = self.dims[0], self.patch_size // 2
        if self.patch_size % 2 or not size:
            raise UserError(f"patch_size={self.patch_size}: the stem halves first")
        x = ConvNorm(dim, self.stem_size, stride=2, name="stem0", **self.statistics, **self.dtypes)(
            images, train
        )
        return self.cut(x, dim, size, size, "VALID", "patch_embed")

    @nn.nowrap
    def downsample(self, x: Float[Array, "B Y X C"], stage: int, train: bool):
        return self.cut(x, self.dims[stage], 3, 2, 1, f"downsample{stage}")

    @nn.nowrap
    def cut(self, x, dim: int, size: int, stride: int, padding: int | str, name: str):
        """A strided convolution and its layer norm."""
        fields = {"padding": padding, "kernel_init": he_init, **self.dtypes}
        x = Conv(dim, size, stride=stride, name=name, **fields)(x)
        return LayerNorm(1e-5, name=f"{name}_norm", **self.dtypes)(x)

    @nn.nowrap
    def end_stage(self, x: Float[Array, "B Y X C"], stage: int) -> Float[Array, "B Y X C"]:
        return self.create_norm(f"stage{stage}_norm")(x)

    @nn.nowrap
    def last_norm(self, x: Float[Array, "B Y X C"]) -> Float[Array, "B Y X C"]:
        # That of the last stage.
        return x

    @nn.nowrap
    def layer_fields(self, fields: Mapping[str, Any], stage: int) -> dict[str, Any]:
        own = {
            "scale_aware": self.statistics,
            # The same deviation as of all depthwise convolutions.
            "gated_attention": {
                "rotary_base": None,
                "gate": False,
                "lepe_size": 3,
                "lepe_deviation": 2**0.5 / 3,
            },
        }
        return {**fields, "mixer_options": with_defaults(own, self.mixer_options)}


def _variant(params: int, depths: tuple[int, ...], **fields: Any) -> Variant:
    return Variant(params, (224, 224, 3), "smt", {"depths": depths, **fields})


_LARGE = {"mlp_ratio": (8.0, 6.0, 4.0, 2.0), "stem_size": 7}

VARIANTS = {
    "smt_t": _variant(11_506_536, (2, 2, 8, 1)),
    "smt_s": _variant(22_550_952, (3, 4, 18, 2)),
    "smt_b": _variant(32_037_352, (4, 6, 28, 2), **_LARGE),
    "smt_l": _variant(80_589_544, (4, 6, 28, 4), dims=(96, 192, 384, 768), **_LARGE),
}

register_family("smt", Smt, VARIANTS)
