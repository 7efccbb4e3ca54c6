"""ViT-CoMer (Xia et al., 2024): a plain ViT beside convolutions at three scales.

In front of each quarter of the blocks the scales tell the tokens, behind it the tokens the scales.
Sizes are those of the release's segmentation, whose blocks scale their branches; large has the
interactions of its Large, which stands on BEiTv2, around the plain ViT-L.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.errors import UserError
from scanmax.models.blocks import apply_blocks, names_per_block, rematerialised
from scanmax.models.layers import (
    BatchNorm,
    Dense,
    PatchEmbed,
    constrain_last,
    drop_path_rates,
    partitioned,
)
from scanmax.models.parts.conv_norm import ConvNorm, halved, he_init
from scanmax.models.parts.enlarge import Enlarge
from scanmax.models.parts.levels import (
    LevelsToTokens,
    ReceptiveFields,
    TokensToLevels,
    enlarged,
    with_tokens,
)
from scanmax.models.parts.positions import learned_positions
from scanmax.models.registry import Feature, Variant, register_family
from scanmax.models.statistics import averaging
from scanmax.models.taps import tap
from scanmax.models.vision.map_host import MapHost, check_size

PATCH, COARSEST = 16, 32


class VitComer(MapHost):
    """A plain ViT in stages, and maps at an eighth, a sixteenth and a thirty-second beside it.

    `features` are four maps of one width, at a quarter too, each normalised by its batch; for whole
    images the head reads the mean of their means, where the release has none. Tables and weights
    are a plain ViT's: the table of positions has a row in front for a class token, which nothing
    reads here.

    Attributes:
      img_size: side of the images that the position table fits, or (Y, X); at other sizes,
        multiples of 32 too, the table is resampled.
      dim, heads, mlp_ratio: of the ViT, whose patches have 16 pixels a side.
      depths: blocks of the ViT in each stage.
      mixer: a name of MIXERS, or one per block.
      mixer_options: for any mixer's name, fields of its module.
      layer_scale: initial value of the scale of each branch of the ViT; None leaves it out.
      stem_dim: channels of the convolutions at a quarter; then twice and four times as many.
      pyramid_ratio: hidden channels of the convolutions between stages over the width.
      deform_heads: of the deformable attention, and
      points: that each reads of each scale, and
      deform_ratio: width of its values over the model's.
      deform_mlp_ratio: width of the MLPs behind it over the model's.
      extra: interactions more behind the last block.
      interaction_scale: initial value of the scale of what tokens are told.
      stage_maps: each map is given the tokens behind its own stage, in the release's detection
        (False) those behind the last; None gives none.
      norm_momentum: weight of the old averages of batch norms at each training step.
      frozen_statistics: batch norms keep their averages, in training too: for fine-tuning.
    Others are those of `MapHost`; interactions drop their paths at the last block's rate.

    Example:
      >>> import jax, scanmax
      >>> model = scanmax.create_model("vit_comer_tiny", num_classes=10)
      >>> example = scanmax.model_info("vit_comer_tiny").example()  # [1, 224, 224, 3]
      >>> jax.eval_shape(model.init_with_output, jax.random.key(0), example)[0].shape
      (1, 10)

    Reference: vit-comer
    """

    img_size: int | tuple[int, int] = 224
    dim: int = 192
    depths: tuple[int, ...] = (3, 3, 3, 3)
    heads: int = 3
    mlp_ratio: float = 4.0
    mixer: str | tuple[str, ...] = "attention"
    mixer_options: Mapping[str, Mapping[str, Any]] | None = None
    layer_scale: float | None = 1.0
    stem_dim: int = 64
    pyramid_ratio: float = 6.0
    deform_heads: int = 6
    points: int = 4
    deform_ratio: float = 1.0
    deform_mlp_ratio: float = 0.25
    extra: int = 4
    interaction_scale: float = 0.0
    stage_maps: bool | None = True
    norm_epsilon: float = 1e-6
    norm_momentum: float = 0.9
    frozen_statistics: bool = False

    @nn.compact
    def forward(self, images, train, as_maps=False):
        self.check_fields(images)
        grid = tuple(side // PATCH for side in images.shape[1:3])
        shapes = tuple(
            tuple(side // stride for side in images.shape[1:3]) for stride in (8, 16, 32)
        )
        quarter, levels = self.convolve(images, train)
        x = jax.lax.collapse(
            PatchEmbed(self.dim, PATCH, name="patch_embed", **self.dtypes)(images), 1, 3
        )
        table = learned_positions(self, self.dim, self.position_grid(), grid, prefix_tokens=1)
        x = tap(self, "stem", constrain_last(x + table[1:].astype(x.dtype)[None]))
        rates, told = drop_path_rates(self.drop_path_rate, sum(self.depths)), []
        pyramid, to_tokens, to_levels = (
            rematerialised(kind, self.remat, static=static)
            for kind, static in (
                (ReceptiveFields, (2, 3)),
                (LevelsToTokens, (3, 4)),
                (TokensToLevels, (3, 4)),
            )
        )
        hidden, first = int(self.dim * self.pyramid_ratio), 0
        for stage, depth in enumerate(self.depths):
            fields = {**averaging(self), **self.dtypes}
            levels = pyramid(hidden, name=f"pyramid{stage}", **fields)(levels, shapes, train)
            levels = with_tokens(levels, x, shapes)
            tell = to_tokens(self.mixing, self.interaction_scale, name=f"to_tokens{stage}")
            x = tell(x, levels, shapes, train)
            own, first = slice(first, first + depth), first + depth
            x, _, _ = apply_blocks(
                self.block_fields()[own],
                x,
                rates[own],
                grid=grid,
                train=train,
                remat=self.remat,
                scan_layers=self.scan_layers,
                prefix=f"stage{stage}_block",
            )
            told.append(x.reshape(x.shape[0], *grid, self.dim))
            levels = to_levels(self.mixing, name=f"to_levels{stage}")(levels, x, shapes, train)
        for index in range(self.extra):
            mix = to_levels(self.mixing, True, name=f"extra{index}")
            levels = mix(levels, x, shapes, train)
        maps = self.maps(quarter, levels, shapes, told, train)
        if as_maps:
            return maps
        return self.classify(sum(jnp.mean(y, axis=(1, 2)) for y in maps) / 4, train)

    @nn.nowrap
    def convolve(self, images: Float[Array, "B Yi Xi C"], train: bool):
        """The map at a quarter, and the others as one row, each with what tells it apart."""
        fields = {**averaging(self), **self.dtypes}
        x, width = images, self.stem_dim
        for index in range(3):
            stem = ConvNorm(width, stride=1 if index else 2, name=f"stem{index}", **fields)
            x = stem(x, train)
        x = nn.max_pool(x, window_shape=(3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        maps = [x]
        for index, times in enumerate((2, 4, 4)):
            shrink = ConvNorm(times * width, stride=2, name=f"shrink{index}", **fields)
            maps.append(shrink(maps[-1], train))
        quarter, *coarser = (
            Dense(
                self.dim,
                ("conv_in", "conv_out"),
                kernel_init=he_init,
                name=f"project{index}",
                **self.dtypes,
            )(x)
            for index, x in enumerate(maps)
        )
        init = partitioned(nn.initializers.normal(1.0), (None, "embed"))
        offsets = self.param("level_embed", init, (3, self.dim), self.param_dtype)
        rows = [
            jax.lax.collapse(y, 1, 3) + offset.astype(y.dtype)[None, None]
            for y, offset in zip(coarser, offsets)
        ]
        return quarter, jnp.concatenate(rows, 1)

    @nn.nowrap
    def maps(
        self, quarter, levels, shapes, told, train: bool
    ) -> tuple[Float[Array, "B _ _ D"], ...]:
        """The four maps, finest first."""
        maps, first = [], 0
        for rows, columns in shapes:
            size = rows * columns
            part = levels[:, first : first + size]
            maps.append(part.reshape(part.shape[0], rows, columns, self.dim))
            first += size
        fields = {"kernel_size": 2, "kernel_init": he_init, **self.dtypes}
        maps = [Enlarge(self.dim, name="enlarge", **fields)(maps[0]) + quarter, *maps]
        if self.stage_maps is not None:
            own = told if self.stage_maps else told[-1:] * 4
            scaled = (enlarged(own[0], 4), enlarged(own[1], 2), own[2], halved(own[3]))
            maps = [y + more for y, more in zip(maps, scaled, strict=True)]
        norms = [
            BatchNorm(
                momentum=self.norm_momentum,
                frozen_statistics=self.frozen_statistics,
                name=f"norm{index}",
                **self.dtypes,
            )
            for index in range(4)
        ]
        return tuple(norm(y, train) for norm, y in zip(norms, maps, strict=True))

    @property
    def mixing(self) -> dict[str, Any]:
        """Fields of what mixes the scales."""
        return {
            "heads": self.deform_heads,
            "points": self.points,
            "ratio": self.deform_ratio,
            "mlp_ratio": self.deform_mlp_ratio,
            "drop_path_rate": self.drop_path_rate,
            "norm_epsilon": self.norm_epsilon,
            **self.dtypes,
        }

    @nn.nowrap
    def position_grid(self, path: str = "pos_embed") -> tuple[int, int]:
        """Rows and columns of patches that the position table is made for."""
        size = self.img_size
        rows, columns = (size, size) if isinstance(size, int) else size
        return rows // PATCH, columns // PATCH

    @nn.nowrap
    def block_fields(self) -> list[dict[str, Any]]:
        """The fields of each block of the ViT."""
        return [
            {
                "mixer": mixer,
                "heads": self.heads,
                "mlp_hidden": round(self.dim * self.mlp_ratio),
                "mixer_options": self.mixer_options,
                "norm_epsilon": self.norm_epsilon,
                "layer_scale": self.layer_scale,
                **self.dtypes,
            }
            for mixer in names_per_block(self.mixer, sum(self.depths))
        ]

    @nn.nowrap
    def check_fields(self, images: Float[Array, "B Yi Xi C"]) -> None:
        check_size(images, COARSEST)
        if images.shape[1] % COARSEST or images.shape[2] % COARSEST:
            raise ValueError(
                f"images have shape {images.shape}; expected sides of multiples of 32."
            )
        if self.stage_maps and len(self.depths) != 4:
            raise UserError(
                f"depths={self.depths}: stage_maps=True gives each of four maps a stage of its own"
            )

    @nn.nowrap
    def feature_info(self) -> tuple[Feature, ...]:
        """Name, stride and channels of the maps of `features`."""
        return tuple(Feature(f"scale{index}", 4 * 2**index, self.dim) for index in range(4))


def _variant(params: int, dim: int, heads: int, pyramid_ratio: float, **config: Any) -> Variant:
    fields = {"dim": dim, "heads": heads, "pyramid_ratio": pyramid_ratio, **config}
    return Variant(params, (224, 224, 3), "vit-comer", fields)


VARIANTS = {
    "vit_comer_tiny": _variant(10_812_360, 192, 3, 6.0, deform_heads=6),
    "vit_comer_small": _variant(31_665_480, 384, 6, 1.5, deform_heads=6),
    "vit_comer_base": _variant(111_372_648, 768, 12, 1.0, deform_heads=12, deform_ratio=0.5),
    "vit_comer_large": _variant(
        342_918_184, 1024, 16, 0.5, deform_heads=16, deform_ratio=0.5, depths=(6, 6, 6, 6)
    ),
}

register_family("vit_comer", VitComer, VARIANTS)
