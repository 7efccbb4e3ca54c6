"""Next-ViT (Li et al., 2022): convolutional blocks, and attention at the end of each group of them.

All norms are batch norms. A convolutional block is a grouped convolution and an MLP; a block with
attention has most of its channels from attention over means of tokens, the others by convolution.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.errors import UserError
from scanmax.models.blocks import apply_blocks
from scanmax.models.layers import (
    BatchNorm,
    Dense,
    DropPath,
    Mlp,
    constrain_last,
    drop_path_rates,
    normal_init,
)
from scanmax.models.mixers import create_mixer, options_of, with_defaults
from scanmax.models.parts.conv_norm import ConvNorm, halved
from scanmax.models.registry import Feature, Variant, register_family
from scanmax.models.statistics import averaging
from scanmax.models.taps import tap
from scanmax.models.vision.map_host import MapHost, stage_features


class _NextBlock(nn.Module):
    """What both blocks share.

    Attributes:
      dim: channels that come out.
      stride: 2 halves the map first.
      statistics: fields of every batch norm, norm_momentum and frozen_statistics.
      head_dim: channels of a head, of attention and of the grouped convolution.
    """

    dim: int
    statistics: Mapping[str, Any]
    stride: int = 1
    head_dim: int = 32
    mlp_ratio: float = 3.0
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @property
    def dtypes(self) -> dict[str, Any]:
        """Dtypes that every layer takes."""
        return {"dtype": self.dtype, "param_dtype": self.param_dtype}

    @nn.nowrap
    def to_patches(self, x, dim: int, stride: int, name: str, train: bool):
        """Means of 2 x 2 pixels, another width: whichever is needed."""
        if stride == 1 and x.shape[-1] == dim:
            return x
        x = halved(x) if stride == 2 else x
        return self.conv_norm(dim, 1, None, name)(x, train)

    @nn.nowrap
    def conv_norm(self, dim: int, size: int, activation: str | None, name: str, groups: int = 1):
        """A convolution and its batch norm."""
        fields = {"kernel_init": normal_init, **self.statistics, **self.dtypes}
        return ConvNorm(dim, size, groups=groups, activation=activation, name=name, **fields)

    @nn.nowrap
    def convolve(self, x, rate, train: bool):
        """x plus its grouped convolution, heads of which are mixed by a linear map (MHCA)."""
        dim = x.shape[-1]
        if dim % self.head_dim:
            raise ValueError(f"head_dim={self.head_dim} does not divide {dim} channels.")
        y = self.conv_norm(dim, 3, "relu", "heads", dim // self.head_dim)(x, train)
        axes = ("conv_in", "conv_out")
        y = Dense(dim, axes, use_bias=False, name="heads_out", **self.dtypes)(y)
        return x + DropPath()(y, rate, train)

    @nn.nowrap
    def batch_norm(self, name: str) -> BatchNorm:
        """A batch norm in front of a branch."""
        momentum, frozen = self.statistics["norm_momentum"], self.statistics["frozen_statistics"]
        return BatchNorm(momentum=momentum, frozen_statistics=frozen, name=name, **self.dtypes)

    @nn.nowrap
    def add_mlp(self, x, name: str, rate, train: bool):
        """x + mlp(norm(x))."""
        hidden = round(x.shape[-1] * self.mlp_ratio)
        mlp = Mlp(hidden, activation="relu", name="mlp", **self.dtypes)
        y = mlp(self.batch_norm(name)(x, train), train=train)
        return tap(self, "output", x + DropPath()(y, rate, train))


class NextConvBlock(_NextBlock):
    """Patches where needed, x + conv(x), x + mlp(norm(x))."""

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B Y X C"],
        drop_path_rate: float | Float[Array, ""] = 0.0,
        state: None = None,
        grid: None = None,
        train: bool = False,
    ) -> Float[Array, "B Y X D"]:
        x = self.to_patches(x, self.dim, self.stride, "patches", train)
        x = self.convolve(x, drop_path_rate, train)
        return self.add_mlp(x, "norm", drop_path_rate, train)


class NextMixBlock(_NextBlock):
    """Attention on a share of the channels, the others by convolution of those, then the MLP.

    Attributes:
      share: of the channels, what attention gives, in whole heads.
    """

    mlp_ratio: float = 2.0
    share: float = 0.75
    mixer: str = "pooled"
    mixer_options: Mapping[str, Mapping[str, Any]] | None = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B Y X C"],
        drop_path_rate: float | Float[Array, ""] = 0.0,
        state: None = None,
        grid: None = None,
        train: bool = False,
    ) -> Float[Array, "B Y X D"]:
        attended = max(1, round(self.dim * self.share / self.head_dim)) * self.head_dim
        x = self.to_patches(x, attended, self.stride, "patches", train)
        mixer = create_mixer(
            self.mixer,
            heads=attended // self.head_dim,
            options=options_of(self.mixer, self.mixer_options),
            name="mixer",
            **self.dtypes,
        )
        y = jax.lax.collapse(self.batch_norm("norm1")(x, train), 1, 3)
        y = mixer(y, grid=x.shape[1:3], train=train).reshape(x.shape)
        rate = 0.0 if drop_path_rate is None else drop_path_rate
        x = x + DropPath()(y, rate * self.share, train)
        z = self.to_patches(x, self.dim - attended, 1, "projection", train)
        z = self.convolve(z, rate * (1 - self.share), train)
        x = jnp.concatenate([x, z], axis=-1)
        return self.add_mlp(x, "norm2", drop_path_rate, train)


class NextVit(MapHost):
    """A stem of four convolutions, four stages of groups of blocks, a norm, a mean, a head.

    Attributes:
      dims: channels of each stage.
      conv_dims: channels of its convolutional blocks.
      depths: blocks of each stage.
      group_sizes: blocks of a group in each stage, of which the last has attention; 0: none has.
      stem_dims: channels of the stem's first three convolutions; the fourth is as the third.
      ratios: of each stage, r^2 tokens make one key, of the mixer "pooled".
      head_dim: channels of a head, of attention and of grouped convolutions.
      share: of the channels of a block with attention, those that it gives.
      mixer: a name of MIXERS.
      mixer_options: for any mixer's name, fields of its module.
      norm_momentum: weight of the old averages of batch norms at each training step.
      frozen_statistics: batch norms keep their averages, in training too: for fine-tuning.
      scan_layers: compile one of the equal blocks of a group; their parameters are stacked
        (blocks.stack_blocks).
    Others are those of `MapHost`.

    Example:
      >>> import jax, scanmax
      >>> model = scanmax.create_model("nextvit_small", num_classes=10)
      >>> example = scanmax.model_info("nextvit_small").example()  # [1, 224, 224, 3]
      >>> jax.eval_shape(model.init_with_output, jax.random.key(0), example)[0].shape
      (1, 10)

    Reference: next-vit
    """

    dims: tuple[int, ...] = (96, 256, 512, 1024)
    conv_dims: tuple[int, ...] = (96, 192, 384, 768)
    depths: tuple[int, ...] = (3, 4, 10, 3)
    group_sizes: tuple[int, ...] = (0, 4, 5, 3)
    stem_dims: tuple[int, int, int] = (64, 32, 64)
    ratios: tuple[int, ...] = (8, 4, 2, 1)
    head_dim: int = 32
    share: float = 0.75
    mixer: str = "pooled"
    mixer_options: Mapping[str, Mapping[str, Any]] | None = None
    norm_momentum: float = 0.9
    frozen_statistics: bool = False

    @nn.compact
    def forward(self, images, train, as_maps=False):
        x = images
        for index, dim in enumerate((*self.stem_dims, self.stem_dims[-1])):
            stride = 2 if index in (0, 3) else 1
            fields = {"kernel_init": normal_init, **self.statistics, **self.dtypes}
            x = ConvNorm(dim, 3, stride=stride, name=f"stem{index}", **fields)(x, train)
        x = tap(self, "stem", constrain_last(x))
        rates = iter(drop_path_rates(self.drop_path_rate, sum(self.depths)))
        maps = []
        for stage in range(len(self.depths)):
            for prefix, kind, fields, count in self.runs(stage):
                x, _, _ = apply_blocks(
                    [fields] * count,
                    x,
                    [next(rates) for _ in range(count)],
                    train=train,
                    remat=self.remat,
                    scan_layers=self.scan_layers and prefix.endswith("block"),
                    block=kind,
                    prefix=prefix,
                )
            maps.append(x)
        if as_maps:
            return tuple(maps)
        norm = BatchNorm(
            momentum=self.norm_momentum,
            frozen_statistics=self.frozen_statistics,
            name="norm",
            **self.dtypes,
        )
        return self.classify(jnp.mean(norm(x, train), axis=(1, 2)), train)

    @property
    def statistics(self) -> dict[str, Any]:
        """What every batch norm is told."""
        return averaging(self)

    @nn.nowrap
    def runs(self, stage: int) -> Iterator[tuple[str, type[nn.Module], dict[str, Any], int]]:
        """Prefix, module, fields and number of the equal blocks that follow each other."""
        depth, size = self.depths[stage], self.group_sizes[stage]
        if size and (size < 2 or depth % size):
            raise UserError(
                f"group_sizes={self.group_sizes}: {size} does not cut the {depth} blocks"
            )
        convs = size - 1 if size else depth
        common = {"statistics": self.statistics, "head_dim": self.head_dim, **self.dtypes}
        own = {"ratio": self.ratios[stage], **self.statistics}
        options = with_defaults({"pooled": own}, self.mixer_options)
        for group in range(depth // size if size else 1):
            fields = {"dim": self.conv_dims[stage], **common}
            first = {**fields, "stride": 2 if stage and not group else 1}
            yield f"stage{stage}_first{group}", NextConvBlock, first, 1
            if convs > 1:
                yield f"stage{stage}_group{group}_block", NextConvBlock, fields, convs - 1
            if size:
                mixing = {
                    **common,
                    "dim": self.dims[stage],
                    "share": self.share,
                    "mixer": self.mixer,
                    "mixer_options": options,
                }
                yield f"stage{stage}_mix{group}", NextMixBlock, mixing, 1

    @nn.nowrap
    def block_names(self, stage: int) -> list[str]:
        """Names of the blocks of a stage in their order, none of them stacked."""
        return [
            f"{prefix}_{index:02d}"
            for prefix, _, _, count in self.runs(stage)
            for index in range(count)
        ]

    @nn.nowrap
    def feature_info(self) -> tuple[Feature, ...]:
        """Name, stride and channels of the maps of `features`."""
        return stage_features(4, self.dims)


def _variant(params: int, depth: int) -> Variant:
    return Variant(params, (224, 224, 3), "next-vit", {"depths": (3, 4, depth, 3)})


VARIANTS = {
    "nextvit_small": _variant(31_763_368, 10),
    "nextvit_base": _variant(44_818_856, 20),
    "nextvit_large": _variant(57_874_344, 30),
}

register_family("nextvit", NextVit, VARIANTS)
