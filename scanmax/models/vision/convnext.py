"""ConvNeXt (Liu et al., 2022): depthwise 7x7 blocks in four stages.

Stem and downsampling are patchify convolutions; a block is depthwise 7x7, LayerNorm, an inverted
bottleneck MLP and LayerScale, added to its input.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.models.blocks import apply_blocks
from scanmax.models.layers import (
    Conv,
    DropPath,
    LayerNorm,
    LayerScale,
    Mlp,
    constrain_last,
    drop_path_rates,
)
from scanmax.models.registry import Feature, Variant, register_family
from scanmax.models.taps import tap
from scanmax.models.vision.map_host import MapHost, stage_features


class ConvNextBlock(nn.Module):
    """x + scale * mlp(norm(depthwise(x)))."""

    kernel_size: int = 7
    mlp_ratio: float = 4.0
    layer_scale: float | None = 1e-6
    norm_epsilon: float = 1e-6
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
        channels = x.shape[-1]
        y = Conv(channels, self.kernel_size, groups=channels, name="conv", **dtypes)(x)
        y = LayerNorm(self.norm_epsilon, name="norm", **dtypes)(y)
        y = Mlp(round(self.mlp_ratio * channels), name="mlp", **dtypes)(y, train=train)
        if self.layer_scale is not None:
            y = LayerScale(self.layer_scale, name="layer_scale", **dtypes)(y)
        x = x + DropPath()(y, drop_path_rate, train)
        x = tap(self, "output", x)
        return x


class ConvNext(MapHost):
    """Four stages of ConvNeXt blocks, a pooled norm, a head.

    Attributes:
      num_classes: width of the head; 0 gives the pooled features [B, C].
      dims: channels of each stage.
      depths: blocks of each stage.
      patch_size: side and stride of the stem; every later stage halves the map.
      layer_scale: initial value of the scale of each block; None leaves it out.
      remat: recompute activations backwards; a string names a jax.checkpoint_policies entry.
      scan_layers: compile one block per stage; parameters are stacked (blocks.stack_blocks).
    """

    dims: tuple[int, ...] = (96, 192, 384, 768)
    depths: tuple[int, ...] = (3, 3, 9, 3)
    patch_size: int = 4
    kernel_size: int = 7
    mlp_ratio: float = 4.0
    layer_scale: float | None = 1e-6
    norm_epsilon: float = 1e-6

    @nn.compact
    def forward(self, images, train, as_maps=False):
        norm = {"epsilon": self.norm_epsilon, **self.dtypes}
        x = self.shrink(self.dims[0], self.patch_size, "patch_embed")(images)
        x = constrain_last(LayerNorm(name="patch_norm", **norm)(x))
        x = tap(self, "stem", x)
        rates = drop_path_rates(self.drop_path_rate, sum(self.depths))
        fields = {
            "kernel_size": self.kernel_size,
            "mlp_ratio": self.mlp_ratio,
            "layer_scale": self.layer_scale,
            "norm_epsilon": self.norm_epsilon,
            **self.dtypes,
        }
        maps = []
        for stage, (dim, depth) in enumerate(zip(self.dims, self.depths, strict=True)):
            if stage:
                x = LayerNorm(name=f"downsample{stage}_norm", **norm)(x)
                x = self.shrink(dim, 2, f"downsample{stage}")(x)
            first = sum(self.depths[:stage])
            x, _, _ = apply_blocks(
                [fields] * depth,
                x,
                rates[first : first + depth],
                train=train,
                remat=self.remat,
                scan_layers=self.scan_layers,
                block=ConvNextBlock,
                prefix=f"stage{stage}_block",
            )
            maps.append(x)
        if as_maps:
            return tuple(maps)
        x = LayerNorm(name="norm", **norm)(jnp.mean(x, axis=(1, 2)))
        return self.classify(x, train)

    @nn.nowrap
    def shrink(self, features: int, stride: int, name: str) -> Conv:
        """Patches of stride x stride become one place; a rest at the border is left out."""
        return Conv(features, stride, stride=stride, padding="VALID", name=name, **self.dtypes)

    @nn.nowrap
    def feature_info(self) -> tuple[Feature, ...]:
        """Name, stride and channels of the maps of `features`."""
        return stage_features(self.patch_size, self.dims)


def _variant(params: int, dim: int, depths: tuple[int, ...]) -> Variant:
    config = {"dims": tuple(dim * 2**stage for stage in range(4)), "depths": depths}
    return Variant(params, (224, 224, 3), "convnext", config)


VARIANTS = {
    "convnext_tiny": _variant(28_589_128, 96, (3, 3, 9, 3)),
    "convnext_small": _variant(50_223_688, 96, (3, 3, 27, 3)),
    "convnext_base": _variant(88_591_464, 128, (3, 3, 27, 3)),
    "convnext_large": _variant(197_767_336, 192, (3, 3, 27, 3)),
    "convnext_xlarge": _variant(350_196_968, 256, (3, 3, 27, 3)),
}

register_family("convnext", ConvNext, VARIANTS)
