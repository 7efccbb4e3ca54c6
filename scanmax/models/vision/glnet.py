"""GLNet (Zhu et al., 2024): few slots attend to each other beside a convolution of all pixels.

Four stages: global-local mixers on large maps, attention on the last, in the third by turns. Blocks
have layer norms; stem, downsampling and head have batch norms. Names are those of the release;
`_stl` have Swin-T's layout, the others a convolution in front of each block and in each MLP.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.errors import UserError
from scanmax.models.blocks import Block
from scanmax.models.layers import BatchNorm, Conv, fan_in_uniform
from scanmax.models.mixers import Slots
from scanmax.models.parts.conv_mlp import ConvMlp
from scanmax.models.parts.conv_norm import ConvNorm
from scanmax.models.registry import Variant, register_family
from scanmax.models.statistics import averaging
from scanmax.models.vision.turns import TurnPyramid


class GlobalLocalBlock(Block):
    """The pre-norm block whose slots are means of what comes in, before its norm.

    Attributes:
      conv_mlp: the MLP adds to its hidden layer what a convolution makes of it.
    """

    conv_mlp: bool = True

    @nn.nowrap
    def beside(self, mixer: nn.Module, x: Float[Array, "B T D"]) -> dict[str, Array]:
        return {"origin": x} if isinstance(mixer, Slots) else {}

    @nn.nowrap
    def apply_mlp(
        self, x: Float[Array, "B T D"], grid, train: bool, name: str = "mlp"
    ) -> Float[Array, "B T D"]:
        if not self.conv_mlp:
            return super().apply_mlp(x, grid, train, name)
        return ConvMlp(
            self.mlp_hidden,
            activation=self.activation,
            skip=True,
            dense_init=fan_in_uniform(),
            conv_init=fan_in_uniform(),
            use_bias=self.use_bias,
            dropout_rate=self.dropout_rate,
            name=name,
            **self.dtypes,
        )(x, grid, train)


class GLNet(TurnPyramid):
    """The pyramid of global-local mixers, then attention.

    Attributes:
      overlap: stem and downsampling by strided 3x3 convolutions, their norms behind them; else by
        patches, the norm in front but for the stem.
      conv_mlp: MLPs hold a convolution.
      norm_momentum: weight of the old averages of batch norms at each training step.
      frozen_statistics: batch norms keep their averages, in training too: for fine-tuning.
      norm: of the blocks, as `Pyramid` has it.
    Others are those of `TurnPyramid` and `Pyramid`.

    Example:
      >>> import jax, scanmax
      >>> model = scanmax.create_model("glnet_4g", num_classes=10)
      >>> example = scanmax.model_info("glnet_4g").example()  # [1, 224, 224, 3]
      >>> jax.eval_shape(model.init_with_output, jax.random.key(0), example)[0].shape
      (1, 10)

    Reference: glmix
    """

    dims: tuple[int, ...] = (64, 128, 256, 512)
    depths: tuple[int, ...] = (4, 4, 18, 4)
    heads: tuple[int, ...] = (2, 4, 8, 16)
    mlp_ratio: float | tuple[float, ...] = 3.0
    mixer: str | tuple[str, ...] = ("slots",) * 3 + ("attention",)
    second_mixer: tuple[str | None, ...] = (None, None, "attention", None)
    conv_mlp: bool = True
    norm_momentum: float = 0.9
    frozen_statistics: bool = False

    @property
    def layer_type(self) -> type[nn.Module]:
        return GlobalLocalBlock

    @property
    def statistics(self) -> dict[str, Any]:
        """Fields of every layer with a batch norm."""
        return averaging(self)

    @nn.nowrap
    def stem(self, images: Float[Array, "B Yi Xi C"], train: bool) -> Float[Array, "B Y X D"]:
        if not self.overlap:
            x = self.cut(images, self.dims[0], self.patch_size, "patch_embed")
            return self.batch_norm("patch_norm")(x, train)
        if self.patch_size != 4:
            raise UserError(f"patch_size={self.patch_size}: overlap=True shrinks by 4")
        x = self.halve(images, self.dims[0] // 2, self.activation, "stem0", train)
        return self.halve(x, self.dims[0], None, "stem1", train)

    @nn.nowrap
    def downsample(self, x: Float[Array, "B Y X C"], stage: int, train: bool):
        name, dim = f"downsample{stage}", self.dims[stage]
        if self.overlap:
            return self.halve(x, dim, None, name, train)
        return self.cut(self.batch_norm(f"{name}_norm")(x, train), dim, 2, name)

    @nn.nowrap
    def halve(self, x, dim: int, activation: str | None, name: str, train: bool):
        """A strided convolution and its batch norm."""
        init = {"kernel_init": fan_in_uniform(), "use_bias": True}
        fields = {**init, **self.statistics, **self.dtypes}
        return ConvNorm(dim, stride=2, activation=activation, name=name, **fields)(x, train)

    @nn.nowrap
    def cut(self, x: Float[Array, "B Y X C"], dim: int, side: int, name: str):
        """Patches."""
        init = {"kernel_init": fan_in_uniform()}
        return Conv(dim, side, stride=side, padding="VALID", name=name, **init, **self.dtypes)(x)

    @nn.nowrap
    def batch_norm(self, name: str) -> BatchNorm:
        """A batch norm by the model's fields."""
        frozen = {"frozen_statistics": self.frozen_statistics}
        return BatchNorm(momentum=self.norm_momentum, name=name, **frozen, **self.dtypes)

    @nn.nowrap
    def pool(self, x: Float[Array, "B Y X C"], prefix: Float[Array, "B P C"], train: bool):
        return jnp.mean(self.batch_norm("norm")(x, train), axis=(1, 2))

    @nn.nowrap
    def layer_fields(self, fields: Mapping[str, Any], stage: int) -> dict[str, Any]:
        return {**fields, "position_convs": 1, "conv_mlp": self.conv_mlp}


def _variant(params: int, dim: int, **fields: Any) -> Variant:
    dims = tuple(dim * 2**stage for stage in range(4))
    own = {"dims": dims, "heads": tuple(width // 32 for width in dims)}
    return Variant(params, (224, 224, 3), "glmix", {**own, **fields})


# Swin-T's.
_STL = {
    "depths": (2, 2, 6, 2),
    "mlp_ratio": 4.0,
    "second_mixer": (None,) * 4,
    "overlap": False,
    "position_conv": 0,
    "conv_mlp": False,
}
_LEARNED = {"mixer_options": {"slots": {"slot_init": "param"}}}

VARIANTS = {
    "glnet_stl": _variant(30_296_786, 96, **_STL),
    "glnet_stl_paramslot": _variant(30_481_106, 96, **_STL, **_LEARNED),
    "glnet_4g": _variant(27_001_593, 64),
    "glnet_9g": _variant(60_010_617, 96),
    "glnet_16g": _variant(106_055_161, 128, layer_scale=1e-4),
}

register_family("glnet", GLNet, VARIANTS)
