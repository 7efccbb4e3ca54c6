"""The four-stage vision host: maps that halve, mixers by name, one or one per stage.

An architecture with another stem, downsampling or block subclasses Pyramid and overrides `stem`,
`downsample` or `block_fields`.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.errors import UserError
from scanmax.models.blocks import Block, apply_blocks, create_norm, names_per_block
from scanmax.models.layers import Conv, activation, constrain_last, drop_path_rates
from scanmax.models.registry import Feature, Variant, register_family
from scanmax.models.taps import tap
from scanmax.models.vision.map_host import MapHost, stage_features


class Pyramid(MapHost):
    """Stem, stages of blocks with downsampling between them, a pooled norm, a head.

    Attributes:
      num_classes: width of the head; 0 gives the pooled features [B, C].
      dims: channels of each stage.
      depths: blocks of each stage.
      heads: heads of each stage.
      mlp_ratio: width of the MLPs over the stage's, one or one per stage.
      mixer: a name of MIXERS, or one per stage.
      mixer_options: for any mixer's name, fields of its module.
      patch_size: stride of the stem, a power of two where it overlaps.
      overlap: stem and downsampling by strided 3x3 convolutions instead of patches.
      position_conv: side of the depthwise convolutions of the blocks that carry positions; 0 leaves
        them out, and only mixers with an order of their own then know places.
      layer_scale: initial value of the scale of each branch; None leaves it out.
      channel_attention: a gate of each mixer's branch, "se", "eca" or "cbam"; None leaves it out.
      remat: recompute activations backwards; a string names a jax.checkpoint_policies entry.
      scan_layers: compile one block per stage; parameters are stacked (blocks.stack_blocks).
    """

    dims: tuple[int, ...] = (64, 128, 256, 512)
    depths: tuple[int, ...] = (2, 2, 6, 2)
    heads: tuple[int, ...] = (2, 4, 8, 16)
    mlp_ratio: float | tuple[float, ...] = 4.0
    mixer: str | tuple[str, ...] = "attention"
    mixer_options: Mapping[str, Mapping[str, Any]] | None = None
    patch_size: int = 4
    overlap: bool = True
    position_conv: int = 3
    norm: str = "layer_norm"
    norm_epsilon: float = 1e-6
    activation: str = "gelu"
    use_bias: bool = True
    layer_scale: float | None = None
    channel_attention: str | None = None

    @nn.compact
    def forward(self, images, train, as_maps=False):
        if len(self.depths) != len(self.dims) or len(self.heads) != len(self.dims):
            raise UserError(
                f"dims={self.dims}, depths={self.depths} and heads={self.heads} must name as many "
                "stages each"
            )
        x = constrain_last(self.stem(images, train))
        x = tap(self, "stem", x)
        rates = drop_path_rates(self.drop_path_rate, sum(self.depths))
        maps = []
        for stage, depth in enumerate(self.depths):
            if stage:
                x = self.downsample(x, stage, train)
            first, grid = sum(self.depths[:stage]), x.shape[1:3]
            blocks, own_rates = self.block_fields(stage), rates[first : first + depth]
            layers = depth // max(len(blocks), 1)
            if layers > 1:
                own_rates = [own_rates[i : i + layers] for i in range(0, depth, layers)]
            tokens, _, _ = apply_blocks(
                blocks,
                self.add_prefix(jax.lax.collapse(x, 1, 3), stage, grid),
                own_rates,
                grid=grid,
                train=train,
                remat=self.remat,
                scan_layers=self.scan_layers,
                block=self.block_type,
                prefix=f"stage{stage}_block",
            )
            prefix, tokens = jnp.split(tokens, [tokens.shape[1] - grid[0] * grid[1]], axis=1)
            x = self.end_stage(tokens.reshape(x.shape), stage)
            maps.append(x)
        if as_maps:
            return tuple(maps)
        return self.classify(self.pool(x, prefix, train), train)

    @property
    def block_type(self) -> type[nn.Module]:
        """Module of the blocks."""
        return Block

    @nn.nowrap
    def create_norm(self, name: str) -> nn.Module:
        """A norm of the model's kind."""
        return create_norm(self.norm, epsilon=self.norm_epsilon, name=name, **self.dtypes)

    @nn.nowrap
    def add_prefix(
        self, x: Float[Array, "B N D"], stage: int, grid: tuple[int, int]
    ) -> Float[Array, "B T D"]:
        """The pixels of a stage behind its prefix tokens, which its blocks must know of."""
        return x

    @nn.nowrap
    def pool(self, x: Float[Array, "B Y X C"], prefix: Float[Array, "B P C"], train: bool):
        """Features [B, C] of the last map and the prefix of its stage."""
        return jnp.mean(self.last_norm(x), axis=(1, 2))

    @nn.nowrap
    def end_stage(self, x: Float[Array, "B Y X C"], stage: int) -> Float[Array, "B Y X C"]:
        """What a stage hands on, the map of `features`."""
        return x

    @nn.nowrap
    def last_norm(self, x: Float[Array, "B Y X C"]) -> Float[Array, "B Y X C"]:
        """The norm in front of the pooling."""
        return self.create_norm("norm")(x)

    @nn.nowrap
    def stem(self, images: Float[Array, "B Yi Xi C"], train: bool) -> Float[Array, "B Y X D"]:
        """The map that the first stage mixes."""
        dim = self.dims[0]
        if not self.overlap:
            return self.create_norm("patch_norm")(
                self.shrink(dim, self.patch_size, "patch_embed")(images)
            )
        halvings = self.patch_size.bit_length() - 1
        if 2**halvings != self.patch_size:
            raise UserError(f"patch_size={self.patch_size} is not a power of two; overlap=False")
        x = images
        # Half the width until the last convolution, each followed by a norm.
        for index in range(halvings):
            last = index == halvings - 1
            x = self.shrink(dim if last else dim // 2, 2, f"stem{index}")(x)
            x = self.create_norm(f"stem{index}_norm")(x)
            x = x if last else activation(self.activation)(x)
        return x

    @nn.nowrap
    def downsample(self, x: Float[Array, "B Y X C"], stage: int, train: bool):
        """Halves the map before a stage."""
        if self.overlap:
            x = self.shrink(self.dims[stage], 2, f"downsample{stage}")(x)
            return self.create_norm(f"downsample{stage}_norm")(x)
        x = self.create_norm(f"downsample{stage}_norm")(x)
        return self.shrink(self.dims[stage], 2, f"downsample{stage}")(x)

    @nn.nowrap
    def shrink(self, features: int, stride: int, name: str) -> Conv:
        """A strided convolution: 3x3 where it overlaps, else patches."""
        size, padding = (3, 1) if self.overlap else (stride, "VALID")
        return Conv(features, size, stride=stride, padding=padding, name=name, **self.dtypes)

    @nn.nowrap
    def patches(
        self, x: Float[Array, "B Y X C"], dim: int, size: int, stride: int, name: str, **fields: Any
    ) -> Float[Array, "B Yo Xo D"]:
        """A strided convolution and its norm; `fields` are of the convolution."""
        fields = {"padding": size // 2, **fields}
        x = Conv(dim, size, stride=stride, name=name, **fields, **self.dtypes)(x)
        return self.create_norm(f"{name}_norm")(x)

    @nn.nowrap
    def block_fields(self, stage: int) -> list[dict[str, Any]]:
        """The fields of each block of a stage.

        Blocks may hold several layers, as many each; they then get a drop path rate for each.
        """
        ratio = self.mlp_ratio
        if isinstance(ratio, tuple):
            if len(ratio) != len(self.dims):
                raise UserError(f"mlp_ratio={ratio}: expected one or {len(self.dims)} numbers")
            ratio = ratio[stage]
        fields = {
            "mixer": names_per_block(self.mixer, len(self.dims))[stage],
            "heads": self.heads[stage],
            "mlp_hidden": round(self.dims[stage] * ratio),
            "mixer_options": self.mixer_options,
            "norm": self.norm,
            "norm_epsilon": self.norm_epsilon,
            "activation": self.activation,
            "use_bias": self.use_bias,
            "layer_scale": self.layer_scale,
            "channel_attention": self.channel_attention,
            "position_conv": self.position_conv,
            "dropout_rate": self.dropout_rate,
            **self.dtypes,
        }
        return [fields] * self.depths[stage]

    @nn.nowrap
    def feature_info(self) -> tuple[Feature, ...]:
        """Name, stride and channels of the maps of `features`."""
        return stage_features(self.patch_size, self.dims)


_MIXER = ("nc_ssd", "nc_ssd", "nc_ssd", "attention")

# Sizes of our own: linear mixers where maps are large, attention on the last.
VARIANTS = {
    "pyramid_tiny": Variant(
        3_960_152,
        (224, 224, 3),
        "",
        {
            "dims": (32, 64, 128, 256),
            "depths": (2, 2, 6, 2),
            "heads": (2, 4, 8, 8),
            "mixer": _MIXER,
        },
    ),
    "pyramid_small": Variant(
        23_646_008,
        (224, 224, 3),
        "",
        {
            "dims": (64, 128, 256, 512),
            "depths": (2, 4, 8, 4),
            "heads": (2, 4, 8, 16),
            "mixer": _MIXER,
        },
    ),
}

register_family("pyramid", Pyramid, VARIANTS)
