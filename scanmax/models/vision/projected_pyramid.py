"""The host of RMT, MAViT and RAVLT: a pyramid whose last map is widened before it is pooled.

Convolutions with batch norms shrink the map. A block adds a depthwise convolution to the stream,
then the mixer, then an MLP whose hidden layer is convolved; behind the last stage stand a linear
map, a batch norm, SiLU, and the mean.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.errors import UserError
from scanmax.models.blocks import Block
from scanmax.models.layers import BatchNorm, Dense, Initializer, normal_init
from scanmax.models.parts.conv_mlp import ConvMlp
from scanmax.models.parts.conv_norm import ConvNorm
from scanmax.models.vision.pyramid import Pyramid


class ConvolvedBlock(Block):
    """x + conv(x), then x + mixer(norm(x)), then x + mlp(norm(x)), its hidden layer convolved."""

    @nn.nowrap
    def apply_mlp(self, x: Float[Array, "B T D"], grid, train: bool) -> Float[Array, "B T D"]:
        return ConvMlp(
            self.mlp_hidden,
            activation=self.activation,
            order="activation, conv",
            skip=True,
            use_bias=self.use_bias,
            dropout_rate=self.dropout_rate,
            name="mlp",
            **self.dtypes,
        )(x, grid, train)


class ProjectedPyramid(Pyramid):
    """The pyramid with batch norms around its blocks and a projection in front of the pooling.

    Attributes:
      projection: channels that are pooled, and that the head reads.
      stem_strides: of the stem's 3x3 convolutions, whose product is patch_size. Those up to half
        of it have half the first stage's channels.
      layer_scale: as `Pyramid` has it, or one per stage.
      norm_momentum: weight of the old averages of batch norms at each training step.
      frozen_statistics: batch norms keep their averages, in training too: for fine-tuning.
    Others are those of `Pyramid`.
    """

    mlp_ratio: float | tuple[float, ...] = 3.5
    projection: int = 1024
    stem_strides: tuple[int, ...] = (2, 1, 1, 2)
    layer_scale: float | tuple[float | None, ...] | None = None
    norm_momentum: float = 0.9
    frozen_statistics: bool = False

    @property
    def block_type(self) -> type[nn.Module]:
        return ConvolvedBlock

    @property
    def conv_init(self) -> Initializer:
        """Where kernels of stem and downsampling start."""
        return normal_init

    @property
    def statistics(self) -> dict[str, Any]:
        """Fields of every layer with a batch norm."""
        return {"frozen_statistics": self.frozen_statistics, **self.dtypes}

    @nn.nowrap
    def stem(self, images: Float[Array, "B Yi Xi C"], train: bool) -> Float[Array, "B Y X D"]:
        strides = self.stem_strides
        if math.prod(strides) != self.patch_size:
            raise UserError(f"stem_strides={strides}: their product is not {self.patch_size}")
        x, last, reached = images, len(strides) - 1, 1
        for index, stride in enumerate(strides):
            reached *= stride
            dim = self.dims[0] if reached == self.patch_size else self.dims[0] // 2
            act = None if index == last else self.activation
            x = self.conv_norm(x, dim, stride, act, f"stem{index}", train)
        return x

    @nn.nowrap
    def downsample(self, x: Float[Array, "B Y X C"], stage: int, train: bool):
        return self.conv_norm(x, self.dims[stage], 2, None, f"downsample{stage}", train)

    @nn.nowrap
    def conv_norm(self, x, dim: int, stride: int, activation: str | None, name: str, train: bool):
        """A 3x3 convolution and its batch norm."""
        return ConvNorm(
            dim,
            stride=stride,
            use_bias=True,
            activation=activation,
            kernel_init=self.conv_init,
            norm_momentum=self.norm_momentum,
            name=name,
            **self.statistics,
        )(x, train)

    @nn.nowrap
    def pool(self, x: Float[Array, "B Y X C"], prefix: Float[Array, "B P C"], train: bool):
        x = Dense(self.projection, ("conv_in", "conv_out"), name="projection", **self.dtypes)(x)
        x = BatchNorm(momentum=self.norm_momentum, name="norm", **self.statistics)(x, train)
        return jnp.mean(jax.nn.silu(x), axis=(1, 2))

    @nn.nowrap
    def block_fields(self, stage: int) -> list[dict[str, Any]]:
        scale = self.layer_scale
        if isinstance(scale, tuple):
            if len(scale) != len(self.dims):
                raise UserError(f"layer_scale={scale}: expected one or {len(self.dims)} numbers")
            scale = scale[stage]
        own = {"layer_scale": scale, "position_convs": 1}
        return [fields | own for fields in super().block_fields(stage)]
