"""ConvMixer (Trockman and Kolter, 2022): patches, then depthwise and pointwise convolutions.

Every convolution is followed by its activation, then by its batch norm; the depthwise one is added
to its input. Maps keep one size from the stem on, and there are no positions.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.models.blocks import apply_blocks
from scanmax.models.layers import (
    BatchNorm,
    Conv,
    Dense,
    DropPath,
    activation,
    constrain_last,
    drop_path_rates,
    fan_in_uniform,
)
from scanmax.models.registry import Feature, Variant, register_family
from scanmax.models.taps import tap
from scanmax.models.vision.map_host import MapHost


class ActNorm(nn.Module):
    """norm(activation(x))."""

    activation: str
    norm_epsilon: float = 1e-5
    norm_momentum: float = 0.9
    frozen_statistics: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B Y X C"], train: bool) -> Float[Array, "B Y X C"]:
        norm = BatchNorm(
            self.norm_epsilon,
            self.norm_momentum,
            self.frozen_statistics,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name="norm",
        )
        return norm(activation(self.activation)(x), train)


class ConvMixerBlock(nn.Module):
    """y = x + norm(act(depthwise(x))), then norm(act(pointwise(y))).

    Attributes:
      act_norm: fields of both `ActNorm`s.
    """

    act_norm: Any
    kernel_size: int = 9
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B Y X C"],
        drop_path_rate: float | Float[Array, ""] = 0.0,
        state: None = None,
        grid: None = None,
        train: bool = False,
    ) -> Float[Array, "B Y X C"]:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        fields, channels = {"kernel_init": fan_in_uniform(), **dtypes}, x.shape[-1]
        y = Conv(channels, self.kernel_size, groups=channels, name="depthwise", **fields)(x)
        y = ActNorm(**self.act_norm, name="act1", **dtypes)(y, train)
        x = x + DropPath()(y, drop_path_rate, train)
        x = Dense(channels, ("conv_in", "conv_out"), name="pointwise", **fields)(x)
        x = ActNorm(**self.act_norm, name="act2", **dtypes)(x, train)
        return tap(self, "output", x)


class ConvMixer(MapHost):
    """Patches, equal blocks, a pooled map, a head; any image of at least one patch.

    Attributes:
      num_classes: width of the head; 0 gives the pooled features [B, C].
      patch_size: side and stride of the stem; a rest at the border is left out.
      norm_momentum: weight of the old averages of batch norms at each training step.
      frozen_statistics: batch norms keep their averages, in training too: for fine-tuning.
      remat: recompute activations backwards; a string names a jax.checkpoint_policies entry.
      scan_layers: compile one block; parameters are stacked (blocks.stack_blocks).
    """

    dim: int = 768
    depth: int = 32
    kernel_size: int = 9
    patch_size: int = 7
    activation: str = "gelu"
    norm_epsilon: float = 1e-5
    norm_momentum: float = 0.9
    frozen_statistics: bool = False

    @nn.compact
    def forward(self, images, train, as_maps=False):
        init = {"kernel_init": fan_in_uniform()}
        act_norm = {
            "activation": self.activation,
            "norm_epsilon": self.norm_epsilon,
            "norm_momentum": self.norm_momentum,
            "frozen_statistics": self.frozen_statistics,
        }
        size = self.patch_size
        x = Conv(
            self.dim, size, stride=size, padding="VALID", name="patch_embed", **init, **self.dtypes
        )(images)
        x = constrain_last(ActNorm(**act_norm, name="stem_act", **self.dtypes)(x, train))
        x = tap(self, "stem", x)
        fields = {"act_norm": act_norm, "kernel_size": self.kernel_size, **self.dtypes}
        x, _, _ = apply_blocks(
            [fields] * self.depth,
            x,
            drop_path_rates(self.drop_path_rate, self.depth),
            train=train,
            remat=self.remat,
            scan_layers=self.scan_layers,
            block=ConvMixerBlock,
        )
        if as_maps:
            return (x,)
        return self.classify(jnp.mean(x, axis=(1, 2)), train, **init)

    @nn.nowrap
    def feature_info(self) -> tuple[Feature, ...]:
        """Name, stride and channels of the maps of `features`."""
        return (Feature(f"block_{self.depth - 1:02d}", self.patch_size, self.dim),)


def _variant(params: int, dim: int, depth: int, **fields: Any) -> Variant:
    config = {"dim": dim, "depth": depth, **fields}
    return Variant(params, (224, 224, 3), "convmixer", config)


VARIANTS = {
    "convmixer_1536_20": _variant(51_625_960, 1536, 20),
    "convmixer_768_32": _variant(21_110_248, 768, 32, kernel_size=7, activation="relu"),
    "convmixer_1024_20_ks9_p14": _variant(24_383_464, 1024, 20, patch_size=14),
}

register_family("convmixer", ConvMixer, VARIANTS)
