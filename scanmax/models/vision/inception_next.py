"""InceptionNeXt (Yu et al., 2024): ConvNeXt's stages with split depthwise convolutions.

A block mixes tokens, normalises them by batch statistics, and passes them through an MLP; what
comes out is scaled and added to its input. The mixer is the split convolution, or any by its name.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.models.blocks import apply_blocks
from scanmax.models.layers import (
    BatchNorm,
    Conv,
    Dense,
    DropPath,
    LayerNorm,
    LayerScale,
    Mlp,
    activation,
    constrain_last,
    drop_path_rates,
)
from scanmax.models.mixers import create_mixer, options_of
from scanmax.models.registry import Feature, Variant, register_family
from scanmax.models.taps import tap
from scanmax.models.vision.map_host import MapHost, stage_features


class MetaNextBlock(nn.Module):
    """x + scale * mlp(norm(mixer(x)))."""

    mixer: str = "inception"
    mixer_options: Mapping[str, Mapping[str, Any]] | None = None
    heads: int = 1
    mlp_ratio: float = 4.0
    layer_scale: float | None = 1e-6
    norm_epsilon: float = 1e-5
    norm_momentum: float = 0.9
    frozen_statistics: bool = False
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
        mixer = create_mixer(
            self.mixer,
            heads=self.heads,
            options=options_of(self.mixer, self.mixer_options),
            name="mixer",
            **dtypes,
        )
        y = mixer(jax.lax.collapse(x, 1, 3), grid=x.shape[1:3], train=train).reshape(x.shape)
        norm = BatchNorm(
            self.norm_epsilon, self.norm_momentum, self.frozen_statistics, name="norm", **dtypes
        )
        hidden = round(self.mlp_ratio * x.shape[-1])
        y = Mlp(hidden, name="mlp", **dtypes)(norm(y, train), train=train)
        if self.layer_scale is not None:
            y = LayerScale(self.layer_scale, name="layer_scale", **dtypes)(y)
        x = x + DropPath()(y, drop_path_rate, train)
        return tap(self, "output", x)


class InceptionNext(MapHost):
    """Four stages of blocks, a pooled map, a head of two layers.

    Attributes:
      num_classes: width of the head; 0 gives the pooled features [B, C], without either layer.
      dims: channels of each stage.
      depths: blocks of each stage.
      mlp_ratios: width of the MLP over the stage's, of each stage.
      head_ratio: width of the head's hidden layer over the last stage's.
      mixer: a name of MIXERS.
      mixer_options: for any mixer's name, fields of its module.
      heads: of mixers that have some.
      patch_size: side and stride of the stem; every later stage halves the map.
      layer_scale: initial value of the scale of each block; None leaves it out.
      norm_momentum: weight of the old averages of batch norms at each training step.
      frozen_statistics: batch norms keep their averages, in training too: for fine-tuning.
      remat: recompute activations backwards; a string names a jax.checkpoint_policies entry.
      scan_layers: compile one block per stage; parameters are stacked (blocks.stack_blocks).
    """

    dims: tuple[int, ...] = (96, 192, 384, 768)
    depths: tuple[int, ...] = (3, 3, 9, 3)
    mlp_ratios: tuple[float, ...] = (4.0, 4.0, 4.0, 3.0)
    head_ratio: float = 3.0
    mixer: str = "inception"
    mixer_options: Mapping[str, Mapping[str, Any]] | None = None
    heads: int = 1
    patch_size: int = 4
    layer_scale: float | None = 1e-6
    norm_epsilon: float = 1e-5
    norm_momentum: float = 0.9
    frozen_statistics: bool = False

    @nn.compact
    def forward(self, images, train, as_maps=False):
        x = self.shrink(images, self.dims[0], self.patch_size, "patch_embed")
        x = constrain_last(self.norm("patch_norm")(x, train))
        x = tap(self, "stem", x)
        rates = drop_path_rates(self.drop_path_rate, sum(self.depths))
        maps = []
        stages = zip(self.dims, self.depths, self.mlp_ratios, strict=True)
        for stage, (dim, depth, mlp_ratio) in enumerate(stages):
            if stage:
                x = self.norm(f"downsample{stage}_norm")(x, train)
                x = self.shrink(x, dim, 2, f"downsample{stage}")
            fields = {
                "mixer": self.mixer,
                "mixer_options": self.mixer_options,
                "heads": self.heads,
                "mlp_ratio": mlp_ratio,
                "layer_scale": self.layer_scale,
                "norm_epsilon": self.norm_epsilon,
                "norm_momentum": self.norm_momentum,
                "frozen_statistics": self.frozen_statistics,
                **self.dtypes,
            }
            first = sum(self.depths[:stage])
            x, _, _ = apply_blocks(
                [fields] * depth,
                x,
                rates[first : first + depth],
                train=train,
                remat=self.remat,
                scan_layers=self.scan_layers,
                block=MetaNextBlock,
                prefix=f"stage{stage}_block",
            )
            maps.append(x)
        if as_maps:
            return tuple(maps)
        x = tap(self, "pre_logits", jnp.mean(x, axis=(1, 2)))
        if not self.num_classes:
            return nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        hidden = round(self.head_ratio * x.shape[-1])
        x = Dense(hidden, ("embed", "mlp"), name="head_fc", **self.dtypes)(x)
        x = LayerNorm(1e-6, axis="mlp", name="head_norm", **self.dtypes)(activation("gelu")(x))
        x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        return Dense(self.num_classes, ("mlp", "classes"), name="head", **self.dtypes)(x)

    @nn.nowrap
    def norm(self, name: str) -> BatchNorm:
        """A batch norm between stages."""
        statistics = (self.norm_epsilon, self.norm_momentum, self.frozen_statistics)
        return BatchNorm(*statistics, name=name, **self.dtypes)

    @nn.nowrap
    def shrink(self, x: Float[Array, "B Yi Xi C"], features: int, stride: int, name: str):
        """Patches of stride x stride become one place; a rest at the border is left out."""
        conv = Conv(features, stride, stride=stride, padding="VALID", name=name, **self.dtypes)
        return conv(x)

    @nn.nowrap
    def feature_info(self) -> tuple[Feature, ...]:
        """Name, stride and channels of the maps of `features`."""
        return stage_features(self.patch_size, self.dims)


def _variant(params: int, dim: int, depths: tuple[int, ...], **fields: Any) -> Variant:
    dims = tuple(dim * 2**stage for stage in range(4))
    return Variant(
        params, (224, 224, 3), "inceptionnext", {"dims": dims, "depths": depths, **fields}
    )


_ATTO = {"mixer_options": {"inception": {"band_size": 9, "share": 0.25}}}

VARIANTS = {
    "inception_next_atto": _variant(4_156_520, 40, (2, 2, 6, 2), **_ATTO),
    "inception_next_tiny": _variant(28_055_680, 96, (3, 3, 9, 3)),
    "inception_next_small": _variant(49_374_016, 96, (3, 3, 27, 3)),
    "inception_next_base": _variant(86_672_136, 128, (3, 3, 27, 3)),
}

register_family("inception_next", InceptionNext, VARIANTS)
