"""ViT-Res and ViT-ResNAS (Liao et al., 2021): attention on three maps, each a quarter of the last.

Blocks of one width have heads and MLPs of their own, as a search found them; between stages a
convolution shrinks the map, and the map beside it. `vit_res_tiny` is what the search began from.
"""

import re
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.errors import UserError
from scanmax.models.blocks import apply_blocks, names_per_block
from scanmax.models.layers import (
    Conv,
    LayerNorm,
    constrain_last,
    drop_path_rates,
    fan_in_uniform,
    normal_init,
    partitioned,
)
from scanmax.models.mixers import with_defaults
from scanmax.models.parts.conv_norm import ConvNorm
from scanmax.models.parts.positions import learned_positions
from scanmax.models.parts.spatial_reduction import ResidualReduction
from scanmax.models.registry import Feature, Variant, register_family
from scanmax.models.statistics import averaging
from scanmax.models.taps import tap
from scanmax.models.vision.map_host import PlainHost, check_size, stage_features


class VitRes(PlainHost):
    """Convolutions inside patches, stages of blocks, a norm of the class token, a head.

    Attributes:
      img_size: side of the images that the position tables fit, or (Y, X); at other sizes they are
        resampled.
      patch_size: side of a patch, even: three convolutions see half the pixels.
      stem_dim: channels of these.
      dims: channels of each stage; they never become fewer.
      head_counts: heads of each block of each stage.
      head_dims: channels of a head in each stage, of the mixer "attention".
      hidden_dims: width of the MLP of each block of each stage.
      mixer: a name of MIXERS, or one per stage.
      mixer_options: for any mixer's name, fields of its module.
      drop_path_rate: of the last block; earlier ones have less.
      norm_momentum: weight of the old averages of batch norms at each training step.
      frozen_statistics: batch norms keep their averages, in training too: for fine-tuning.
    Others are those of `PlainHost`.

    Example:
      >>> import jax, scanmax
      >>> model = scanmax.create_model("vit_resnas_tiny", num_classes=10)
      >>> example = scanmax.model_info("vit_resnas_tiny").example()  # [1, 224, 224, 3]
      >>> jax.eval_shape(model.init_with_output, jax.random.key(0), example)[0].shape
      (1, 10)

    Reference: vit-resnas
    """

    img_size: int | tuple[int, int] = 224
    patch_size: int = 14
    stem_dim: int = 24
    dims: tuple[int, ...] = (192, 384, 768)
    head_counts: tuple[tuple[int, ...], ...] = ((3,) * 4, (6,) * 4, (12,) * 4)
    head_dims: tuple[int, ...] = (64, 64, 64)
    hidden_dims: tuple[tuple[int, ...], ...] = ((768,) * 4, (1536,) * 4, (3072,) * 4)
    mixer: str | tuple[str, ...] = "attention"
    mixer_options: Mapping[str, Mapping[str, Any]] | None = None
    drop_path_rate: float = 0.0
    norm_epsilon: float = 1e-6
    norm_momentum: float = 0.9
    frozen_statistics: bool = False

    @nn.compact
    def forward(self, images, train, as_maps=False):
        self.check_fields(images)
        x = self.embed(images, train)
        init = partitioned(normal_init, (None, "embed"))
        token = self.param("cls_token", init, (1, self.dims[0]), self.param_dtype)
        table = learned_positions(
            self, self.dims[0], self.position_grid("pos_embed"), x.shape[1:3], prefix_tokens=1
        ).astype(x.dtype)
        prefix = jnp.broadcast_to(token.astype(x.dtype) + table[:1], (x.shape[0], 1, self.dims[0]))
        x = tap(self, "stem", x + table[1:].reshape(1, *x.shape[1:]))
        rates = list(drop_path_rates(self.drop_path_rate, sum(map(len, self.head_counts))))
        maps = []
        for stage, dim in enumerate(self.dims):
            if stage:
                shrink = ResidualReduction(
                    dim,
                    self.position_grid(f"reduce{stage}/pos_embed"),
                    norm_epsilon=self.norm_epsilon,
                    name=f"reduce{stage}",
                    **self.dtypes,
                )
                prefix, x = shrink(prefix, x)
            blocks, grid = self.block_fields(stage), x.shape[1:3]
            own, rates = rates[: len(blocks)], rates[len(blocks) :]
            tokens, _, _ = apply_blocks(
                blocks,
                constrain_last(jnp.concatenate([prefix, jax.lax.collapse(x, 1, 3)], 1)),
                own,
                grid=grid,
                train=train,
                remat=self.remat,
                prefix=f"stage{stage}_block",
            )
            prefix, tokens = jnp.split(tokens, [1], 1)
            x = tokens.reshape(x.shape)
            maps.append(x)
        if as_maps:
            return tuple(maps)
        token = LayerNorm(epsilon=self.norm_epsilon, name="norm", **self.dtypes)(prefix[:, 0])
        return self.classify(token, train)

    @nn.nowrap
    def embed(self, images: Float[Array, "B Yi Xi C"], train: bool) -> Float[Array, "B Y X D"]:
        """The map of patches."""
        fields = {"kernel_init": fan_in_uniform(), **averaging(self), **self.dtypes}
        first = ConvNorm(self.stem_dim, stride=2, name="stem0", **fields)(images, train)
        x = first
        for index in (1, 2):
            x = ConvNorm(self.stem_dim, name=f"stem{index}", **fields)(x, train)
        half = self.patch_size // 2
        project = Conv(
            self.dims[0],
            half,
            stride=half,
            padding="VALID",
            kernel_init=fan_in_uniform(),
            name="patch_embed",
            **self.dtypes,
        )
        return project(x + first)

    @nn.nowrap
    def block_fields(self, stage: int) -> list[dict[str, Any]]:
        """The fields of each block of a stage."""
        mixer = names_per_block(self.mixer, len(self.dims))[stage]
        own = {"attention": {"head_width": self.head_dims[stage]}}
        return [
            {
                "mixer": mixer,
                "heads": heads,
                "mlp_hidden": hidden,
                "mixer_options": with_defaults(own, self.mixer_options),
                "norm_epsilon": self.norm_epsilon,
                "prefix_tokens": 1,
                **self.dtypes,
            }
            for heads, hidden in zip(self.head_counts[stage], self.hidden_dims[stage], strict=True)
        ]

    @nn.nowrap
    def position_grid(self, path: str) -> tuple[int, int]:
        """Rows and columns of the map that the position table at that path is made for."""
        size = self.img_size
        rows, columns = (size, size) if isinstance(size, int) else size
        found = re.search(r"reduce(\d)/", path)
        stage = int(found[1]) if found else 0
        return (rows // self.patch_size) >> stage, (columns // self.patch_size) >> stage

    @nn.nowrap
    def check_fields(self, images: Float[Array, "B Yi Xi C"]) -> None:
        stages = len(self.dims)
        counted = {len(self.head_counts), len(self.head_dims), len(self.hidden_dims)}
        if counted != {stages} or [*map(len, self.head_counts)] != [*map(len, self.hidden_dims)]:
            raise UserError(
                f"dims={self.dims} are of {stages} stages: head_counts={self.head_counts}, "
                f"head_dims={self.head_dims} and hidden_dims={self.hidden_dims} must be as many, "
                "and name as many blocks in each"
            )
        if self.patch_size % 2:
            raise UserError(f"patch_size={self.patch_size}: the stem halves, an even number")
        stride = self.patch_size << (stages - 1)
        check_size(images, stride)
        if images.shape[1] % stride or images.shape[2] % stride:
            raise ValueError(
                f"images have shape {images.shape}; expected sides of multiples of {stride}."
            )

    @nn.nowrap
    def feature_info(self) -> tuple[Feature, ...]:
        """Name, stride and channels of the maps of `features`."""
        return stage_features(self.patch_size, self.dims)


def _searched(params: int, dims: tuple[int, ...], *stages: tuple[tuple[int, int], ...]) -> Variant:
    """Of each block its heads and the width of its MLP."""
    config = {
        "dims": dims,
        "head_counts": tuple(tuple(heads for heads, _ in blocks) for blocks in stages),
        "head_dims": (32, 48, 64),
        "hidden_dims": tuple(tuple(hidden for _, hidden in blocks) for blocks in stages),
    }
    return Variant(params, (224, 224, 3), "vit-resnas", config)


VARIANTS = {
    "vit_res_tiny": Variant(42_012_736, (224, 224, 3), "vit-resnas", {}),
    "vit_resnas_tiny": _searched(
        40_793_552,
        (176, 352, 704),
        ((3, 704), (3, 576), (3, 640), (4, 576), (4, 704)),
        ((10, 1408), (8, 1408), (8, 1280), (8, 1408), (10, 1280), (10, 1024)),
        ((10, 2560), (10, 1792), (10, 2816), (8, 2816), (8, 2560)),
    ),
    "vit_resnas_small": _searched(
        63_724_108,
        (220, 440, 880),
        ((5, 880), (5, 880), (7, 800), (5, 720), (5, 720), (5, 720)),
        ((10, 1760), (10, 1440), (10, 1920), (10, 1600), (12, 1600), (12, 1440)),
        ((16, 3200), (12, 3200), (16, 2880), (12, 2240), (14, 2560)),
    ),
    "vit_resnas_medium": _searched(
        96_442_672,
        (240, 640, 880),
        ((7, 960), (6, 960), (7, 800), (8, 960), (7, 880), (8, 880), (6, 800)),
        ((10, 1120), (14, 1760), (14, 1920), (16, 1760), (14, 1440), (16, 1760), (16, 1920)),
        ((16, 3200), (10, 3840), (16, 3840), (12, 3200), (16, 3520), (14, 3520)),
    ),
}

register_family("vit_resnas", VitRes, VARIANTS)
