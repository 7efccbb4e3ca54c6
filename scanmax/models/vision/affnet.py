"""AFFNet (Huang et al., 2023): MobileViT's plan with adaptive frequency filters for attention.

Inverted residuals, then three stages of one that halves the map and blocks whose filter is as large
as the map; what they make is projected and joined with what came in. `affnet_et`, `affnet_t` and
`affnet` are published, `affnet_base` and `affnet_large` are in the released code alone.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.errors import UserError
from scanmax.models.blocks import Block, apply_blocks, create_norm, names_per_block, rematerialised
from scanmax.models.layers import constrain_last, drop_path_rates
from scanmax.models.parts.conv_norm import ConvNorm
from scanmax.models.parts.inverted_residual import InvertedResidual
from scanmax.models.registry import Feature, Variant, register_family
from scanmax.models.taps import tap
from scanmax.models.vision.map_host import MapHost, stage_features

# Stages of inverted residuals alone.
CONV_STAGES = 2


class FilterBlock(Block):
    """x + mixer(norm(residual(norm(x)))): one sum around an inverted residual and the mixer.

    Attributes:
      two_sums: x is added behind the inverted residual too, as the paper draws it.
      norm_momentum: weight of the old averages of batch norms at each training step.
      frozen_statistics: batch norms keep their averages, in training too.
    """

    mlp_ratio: float = 2.0
    two_sums: bool = False
    norm_momentum: float = 0.9
    frozen_statistics: bool = False

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        drop_path_rate: float | Float[Array, ""] | None = None,
        state: None = None,
        grid: tuple[int, int] | None = None,
        train: bool = False,
    ) -> Float[Array, "B T D"]:
        y = self.normed(x, 1, train).reshape(x.shape[0], *grid, x.shape[-1])
        y = InvertedResidual(
            x.shape[-1],
            expansion=self.mlp_ratio,
            activation=self.activation,
            norm_momentum=self.norm_momentum,
            frozen_statistics=self.frozen_statistics,
            name="mlp",
            **self.dtypes,
        )(y, train).reshape(x.shape)
        if self.two_sums:
            y = x = x + y
        y = self.create_mixer(name="mixer")(self.normed(y, 2, train), grid=grid, train=train)
        return tap(self, "output", self.add_branch(x, y, "", drop_path_rate, train))


class AffNet(MapHost):
    """Inverted residuals, then stages of filters, a wider layer, pooling, a head; any image.

    Attributes:
      num_classes: width of the head; 0 gives the pooled features [B, C].
      dims: channels of each stage; the first two are of inverted residuals alone.
      depths: inverted residuals of the first two stages, blocks of the others.
      stem_dim: channels of the first convolution.
      expansion: of the inverted residuals.
      mlp_ratio: of those in blocks.
      heads: of mixers that have them, one per stage; "adaptive_filter" has none.
      mixer: a name of MIXERS, or one per stage of blocks.
      mixer_options: for any mixer's name, fields of its module.
      norm: of the blocks, a name of NORMS; "group_norm" is the released "layer_norm_2d".
      fuse: whether what blocks make is joined with what came in, one per stage of blocks.
      two_sums: a block adds its input twice, as the paper draws it; once, as released, by default.
      activation: of the convolutions; the release names its own in configurations outside the
        code, which is "relu" without them.
      head_ratio: channels behind the last stage over its own, at most head_limit.
      head_limit: as said.
      norm_momentum: weight of the old averages of batch norms at each training step.
      frozen_statistics: batch norms keep their averages, in training too: for fine-tuning.
      remat: recompute activations backwards; a string names a jax.checkpoint_policies entry.
      scan_layers: compile one block per stage; parameters are stacked (blocks.stack_blocks).

    Example:
      >>> import jax, scanmax
      >>> model = scanmax.create_model("affnet_et", num_classes=10)
      >>> example = scanmax.model_info("affnet_et").example()  # [1, 256, 256, 3]
      >>> jax.eval_shape(model.init_with_output, jax.random.key(0), example)[0].shape
      (1, 10)

    Reference: affnet
    """

    dims: tuple[int, ...] = (32, 64, 128, 256, 320)
    depths: tuple[int, ...] = (1, 3, 2, 4, 3)
    stem_dim: int = 16
    expansion: float = 4.0
    mlp_ratio: float = 2.0
    heads: tuple[int, ...] = (1, 1, 1, 1, 1)
    mixer: str | tuple[str, ...] = "adaptive_filter"
    mixer_options: Mapping[str, Mapping[str, Any]] | None = None
    norm: str = "group_norm"
    fuse: tuple[bool, ...] = (True, True, True)
    two_sums: bool = False
    activation: str = "relu"
    head_ratio: float = 4.0
    head_limit: int = 960
    norm_momentum: float = 0.9
    frozen_statistics: bool = False

    @property
    def statistics(self) -> dict[str, Any]:
        """Fields of every batch norm, and the dtypes."""
        return {
            "norm_momentum": self.norm_momentum,
            "frozen_statistics": self.frozen_statistics,
            **self.dtypes,
        }

    @nn.compact
    def forward(self, images, train, as_maps=False):
        lengths = {len(self.depths), len(self.heads), len(self.fuse) + CONV_STAGES}
        if lengths != {len(self.dims)}:
            raise UserError(
                f"depths={self.depths}, heads={self.heads} and dims={self.dims} name two stages of "
                f"convolutions and those of blocks, for each of which fuse={self.fuse} has an entry"
            )
        rates = drop_path_rates(self.drop_path_rate, sum(self.depths[CONV_STAGES:]))
        x = self.conv_norm(self.stem_dim, 3, "stem0", stride=2)(images, train)
        x, maps = tap(self, "stem", constrain_last(x)), []
        residual = rematerialised(InvertedResidual, self.remat)
        for stage, dim in enumerate(self.dims):
            count = self.depths[stage] if stage < CONV_STAGES else 1
            for index in range(count):
                x = residual(
                    dim,
                    2 if stage and not index else 1,
                    self.expansion,
                    activation=self.activation,
                    name=f"stage{stage}_conv{index}",
                    **self.statistics,
                )(x, train)
            if stage >= CONV_STAGES:
                first = sum(self.depths[CONV_STAGES:stage])
                own = rates[first : first + self.depths[stage]]
                x = self.filter(x, stage, own, train)
            maps.append(x)
        if as_maps:
            return tuple(maps)
        width = min(round(self.head_ratio * self.dims[-1]), self.head_limit)
        x = jnp.mean(self.conv_norm(width, 1, "last")(x, train), axis=(1, 2))
        return self.classify(x, train, kernel_init=nn.initializers.normal(0.01))

    @nn.nowrap
    def conv_norm(self, features: int, size: int, name: str, **fields: Any) -> ConvNorm:
        """A convolution, its batch norm and the activation."""
        fields = {"activation": self.activation, **fields, **self.statistics}
        return ConvNorm(features, size, name=name, **fields)

    @nn.nowrap
    def filter(self, x: Float[Array, "B Y X C"], stage: int, rates, train: bool):
        """The blocks of a stage, and what came in."""
        fields = self.block_fields(stage)
        y, _, _ = apply_blocks(
            [fields] * self.depths[stage],
            x.reshape(x.shape[0], -1, x.shape[-1]),
            rates,
            grid=x.shape[1:3],
            train=train,
            remat=self.remat,
            scan_layers=self.scan_layers,
            block=FilterBlock,
            prefix=f"stage{stage}_block",
        )
        norm = create_norm(self.norm, epsilon=1e-5, name=f"stage{stage}_norm", **self.dtypes)
        y, dim = norm(y).reshape(x.shape), x.shape[-1]
        y = self.conv_norm(dim, 1, f"stage{stage}_project", activation=None)(y, train)
        if not self.fuse[stage - CONV_STAGES]:
            return y
        joined = jnp.concatenate([x, y], axis=-1)
        return self.conv_norm(dim, 1, f"stage{stage}_fuse")(joined, train)

    @nn.nowrap
    def block_fields(self, stage: int) -> dict[str, Any]:
        """The fields of the blocks of a stage."""
        return {
            "mixer": names_per_block(self.mixer, len(self.fuse))[stage - CONV_STAGES],
            "heads": self.heads[stage],
            "mlp_hidden": 0,
            "mlp_ratio": self.mlp_ratio,
            "mixer_options": self.mixer_options,
            "norm": self.norm,
            "norm_epsilon": 1e-5,
            "activation": self.activation,
            "two_sums": self.two_sums,
            **self.statistics,
        }

    @nn.nowrap
    def feature_info(self) -> tuple[Feature, ...]:
        """Name, stride and channels of the maps of `features`."""
        return stage_features(2, self.dims)


def _variant(params: int, dims: tuple[int, ...], **fields: Any) -> Variant:
    return Variant(params, (256, 256, 3), "affnet", {"dims": dims, **fields})


_WIDE = {"fuse": (True, False, False)}
_DEEP = {"depths": (2, 6, 4, 18, 6), **_WIDE}

VARIANTS = {
    "affnet_et": _variant(1_436_264, (32, 48, 64, 104, 144), expansion=2.0),
    "affnet_t": _variant(2_654_232, (32, 48, 96, 160, 192)),
    "affnet": _variant(5_568_696, (32, 64, 128, 256, 320)),
    "affnet_base": _variant(17_178_104, (64, 128, 256, 512, 640), **_WIDE),
    "affnet_large": _variant(46_068_088, (64, 128, 256, 512, 768), **_DEEP),
}

register_family("affnet", AffNet, VARIANTS)
