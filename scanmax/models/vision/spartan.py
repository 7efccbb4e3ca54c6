"""SpaRTAN (Pay et al., 2025): convolutions of several reaches, then waves of channels.

Four stages of pre-norm blocks with one mean and variance an example; batch norms everywhere else.
The name is the release's: its one configuration.
"""

from typing import Any

import flax.linen as nn
from jaxtyping import Array, Float

from scanmax.models.blocks import Block
from scanmax.models.mixers import with_defaults
from scanmax.models.parts.conv_norm import ConvNorm
from scanmax.models.parts.wave_mlp import WaveMlp
from scanmax.models.registry import Variant, register_family
from scanmax.models.statistics import averaging
from scanmax.models.vision.pyramid import Pyramid


class WaveBlock(Block):
    """The pre-norm block whose MLP is one of waves.

    Attributes:
      grouped: whether channels of a group meet in the MLP's convolution.
      norm_momentum: weight of the old averages of batch norms at each training step.
      frozen_statistics: batch norms keep their averages, in training too.
    """

    grouped: bool = False
    norm_momentum: float = 0.9
    frozen_statistics: bool = False

    @nn.nowrap
    def apply_mlp(self, x: Float[Array, "B T D"], grid, train: bool) -> Float[Array, "B T D"]:
        return WaveMlp(
            self.mlp_hidden // x.shape[-1],
            grouped=self.grouped,
            norm_momentum=self.norm_momentum,
            frozen_statistics=self.frozen_statistics,
            name="mlp",
            **self.dtypes,
        )(x, grid, train)


class Spartan(Pyramid):
    """The pyramid of two reaches and of waves.

    Attributes:
      dense_stages: the first, in whose mixers all channels meet in the convolutions, and in whose
        MLPs none do; behind them it is the other way round, by groups.
      mlp_ratio: whole numbers.
      norm_momentum: weight of the old averages of batch norms at each training step.
      frozen_statistics: batch norms keep their averages, in training too: for fine-tuning.
    Others are those of `Pyramid`.

    Example:
      >>> import jax, scanmax
      >>> model = scanmax.create_model("spartan_t", num_classes=10)
      >>> example = scanmax.model_info("spartan_t").example()  # [1, 224, 224, 3]
      >>> jax.eval_shape(model.init_with_output, jax.random.key(0), example)[0].shape
      (1, 10)

    Reference: spartan
    """

    dims: tuple[int, ...] = (32, 64, 128, 256)
    depths: tuple[int, ...] = (3, 3, 12, 2)
    heads: tuple[int, ...] = (1, 1, 1, 1)
    mlp_ratio: float | tuple[float, ...] = (4, 4, 2, 2)
    mixer: str | tuple[str, ...] = "multi_order"
    position_conv: int = 0
    norm: str = "group_norm"
    layer_scale: float | None = 1e-5
    dense_stages: int = 2
    norm_momentum: float = 0.9
    frozen_statistics: bool = False

    @property
    def block_type(self) -> type[nn.Module]:
        return WaveBlock

    @property
    def statistics(self) -> dict[str, Any]:
        """Fields of every batch norm."""
        return averaging(self)

    @nn.nowrap
    def stem(self, images: Float[Array, "B Yi Xi C"], train: bool) -> Float[Array, "B Y X D"]:
        x = self.halve(images, self.dims[0] // 2, "stem0", train)
        return self.halve(x, self.dims[0], "stem1", train)

    @nn.nowrap
    def downsample(self, x: Float[Array, "B Y X C"], stage: int, train: bool):
        fields = {"kernel_size": 2, "padding": "VALID", "activation": "silu"}
        return self.halve(x, self.dims[stage], f"downsample{stage}", train, **fields)

    @nn.nowrap
    def halve(self, x, dim: int, name: str, train: bool, **fields: Any):
        """A strided convolution, its batch norm and an activation."""
        own = {"norm_epsilon": 1e-6, **self.statistics, **self.dtypes}
        fields = {"activation": "gelu", **fields}
        return ConvNorm(dim, stride=2, name=name, **fields, **own)(x, train)

    @nn.nowrap
    def last_norm(self, x: Float[Array, "B Y X C"]) -> Float[Array, "B Y X C"]:
        return x

    @nn.nowrap
    def block_fields(self, stage: int) -> list[dict[str, Any]]:
        dense = stage < self.dense_stages
        own = {"dense_convs": dense, **self.statistics}
        options = with_defaults({"multi_order": own}, self.mixer_options)
        extra = {"mixer_options": options, "grouped": not dense, **self.statistics}
        return [fields | extra for fields in super().block_fields(stage)]


VARIANTS = {"spartan_t": Variant(3_820_296, (224, 224, 3), "spartan", {})}

register_family("spartan", Spartan, VARIANTS)
