"""WaveMix (Jeevan et al., 2022): a stem of convolutions, then blocks over the bands of wavelets.

Maps keep one size from the stem on, and there are no positions. `wavemix` and `wavemix_lite` are
the sizes that the release calls so, of three levels and of one. The others of its classifiers are
`wavemix_[lite_]DIM_DEPTH[_lLEVELS][_DATASET]`: lite has one level, no data set is ImageNet.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.errors import UserError
from scanmax.models.blocks import Block, apply_blocks, names_per_block
from scanmax.models.layers import (
    BatchNorm,
    Conv,
    Dense,
    constrain_last,
    drop_path_rates,
    fan_in_uniform,
    gelu,
)
from scanmax.models.mixers import with_defaults
from scanmax.models.registry import Feature, Variant, register_family
from scanmax.models.taps import tap
from scanmax.models.vision.map_host import MapHost

STEMS = ("patches", "strided")


class WaveBlock(Block):
    """x + mixer(x): the mixer ends in a norm of its own, and there is no MLP."""

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        drop_path_rate: float | Float[Array, ""] | None = None,
        state: None = None,
        grid: tuple[int, int] | None = None,
        train: bool = False,
    ) -> Float[Array, "B T D"]:
        y = self.create_mixer(name="mixer")(x, grid=grid, train=train)
        return tap(self, "output", self.add_branch(x, y, 1, drop_path_rate, train))


class WaveMix(MapHost):
    """A stem, equal blocks, a pooled map, a head; any image of at least one patch.

    Attributes:
      num_classes: width of the head; 0 gives the pooled features [B, C].
      heads: of mixers that have them; "wavemix" has none.
      levels: of the wavelet transform, and
      mlp_ratio: width of the hidden layers over `dim`, and
      dropout_rate: of the hidden layers, all three of mixer "wavemix"; the head has none.
      stem: "patches", two convolutions, then patches and their norm, or "strided", two
        convolutions alone.
      patch_size: side and stride of the patches; a rest at the border is left out.
      stem_stride: of each convolution of stem "strided".
      mixer: a name of MIXERS, or one per block; nothing is normed before it.
      mixer_options: for any mixer's name, fields of its module.
      norm_momentum: weight of the old averages of batch norms at each training step.
      frozen_statistics: batch norms keep their averages, in training too: for fine-tuning.
      remat: recompute activations backwards; a string names a jax.checkpoint_policies entry.
      scan_layers: compile one block; parameters are stacked (blocks.stack_blocks).

    Example:
      >>> import jax, scanmax
      >>> model = scanmax.create_model("wavemix_lite", num_classes=10, depth=2)
      >>> example = scanmax.model_info("wavemix_lite").example()  # [1, 224, 224, 3]
      >>> jax.eval_shape(model.init_with_output, jax.random.key(0), example)[0].shape
      (1, 10)

    Reference: wavemix
    """

    dim: int = 192
    depth: int = 16
    heads: int = 4
    levels: int = 3
    mlp_ratio: float = 2.0
    dropout_rate: float = 0.5
    stem: str = "patches"
    patch_size: int = 4
    stem_stride: int = 2
    mixer: str | tuple[str, ...] = "wavemix"
    mixer_options: Mapping[str, Mapping[str, Any]] | None = None
    norm_momentum: float = 0.9
    frozen_statistics: bool = False

    @nn.compact
    def forward(self, images, train, as_maps=False):
        x = tap(self, "stem", constrain_last(self.apply_stem(images, train)))
        batch, *grid, dim = x.shape
        x, _, _ = apply_blocks(
            self.block_fields(),
            x.reshape(batch, -1, dim),
            drop_path_rates(self.drop_path_rate, self.depth),
            grid=tuple(grid),
            train=train,
            remat=self.remat,
            scan_layers=self.scan_layers,
            block=WaveBlock,
        )
        if as_maps:
            return (x.reshape(batch, *grid, dim),)
        x = tap(self, "pre_logits", jnp.mean(x, axis=1))
        if not self.num_classes:
            return x
        fields = {"kernel_init": fan_in_uniform(), "name": "head", **self.dtypes}
        return Dense(self.num_classes, ("embed", "classes"), **fields)(x)

    @nn.nowrap
    def apply_stem(self, images: Float[Array, "B Yi Xi C"], train: bool):
        """The map that the blocks read."""
        if self.stem not in STEMS:
            raise UserError(f"stem={self.stem!r} is not one of {', '.join(STEMS)}")
        patches = self.stem == "patches"
        widths = (self.dim // 4, self.dim // 2) if patches else (self.dim // 2, self.dim)
        stride = 1 if patches else self.stem_stride
        fields = {"kernel_init": fan_in_uniform(), **self.dtypes}
        x = images
        for index, width in enumerate(widths):
            x = Conv(width, 3, stride=stride, padding=1, name=f"stem{index}", **fields)(x)
        if not patches:
            return x
        size = self.patch_size
        x = Conv(self.dim, size, stride=size, padding="VALID", name="stem2", **fields)(x)
        norm = BatchNorm(
            momentum=self.norm_momentum,
            frozen_statistics=self.frozen_statistics,
            name="stem_norm",
            **self.dtypes,
        )
        return norm(gelu(x), train)

    @nn.nowrap
    def block_fields(self) -> list[dict[str, Any]]:
        """The fields of each block."""
        own = {
            "levels": self.levels,
            "mlp_ratio": self.mlp_ratio,
            "dropout_rate": self.dropout_rate,
            "norm_momentum": self.norm_momentum,
            "frozen_statistics": self.frozen_statistics,
        }
        fields = {
            "heads": self.heads,
            "mlp_hidden": 0,
            "mixer_options": with_defaults({"wavemix": own}, self.mixer_options),
            **self.dtypes,
        }
        return [fields | {"mixer": name} for name in names_per_block(self.mixer, self.depth)]

    @nn.nowrap
    def feature_info(self) -> tuple[Feature, ...]:
        """Name, stride and channels of the maps of `features`."""
        stride = self.patch_size if self.stem == "patches" else self.stem_stride**2
        return (Feature(f"block_{self.depth - 1:02d}", stride, self.dim),)


def _variant(params: int, dim: int, depth: int, levels: int, image: int, **more: Any) -> Variant:
    fields = {"dim": dim, "depth": depth, "levels": levels, **more}
    return Variant(params, (image, image, 3), "wavemix", fields)


def _small(params: int, dim: int, depth: int, image: int, classes: int) -> Variant:
    """Of one level, its map as large as the image."""
    fields = {"stem": "strided", "stem_stride": 1, "num_classes": classes}
    return _variant(params, dim, depth, 1, image, **fields)


VARIANTS = {
    "wavemix": _variant(27_857_608, 192, 16, 3, 224),
    "wavemix_lite": _variant(12_494_536, 192, 16, 1, 224),
    "wavemix_256_16_l3": _variant(49_416_808, 256, 16, 3, 224),
    # The release does not say of which size; its code takes none that four levels do not halve.
    "wavemix_256_16_l4": _variant(62_764_776, 256, 16, 4, 256, stem="strided"),
    "wavemix_256_12_l2_places365": _variant(
        28_449_261, 256, 12, 2, 224, patch_size=8, num_classes=365
    ),
    "wavemix_lite_144_7_cifar10": _small(3_042_550, 144, 7, 32, 10),
    "wavemix_lite_320_8_cifar10": _small(17_073_610, 320, 8, 32, 10),
    "wavemix_lite_256_8_cifar100": _small(10_954_084, 256, 8, 32, 100),
    "wavemix_lite_256_10_cifar100": _small(13_611_492, 256, 10, 32, 100),
    "wavemix_lite_256_12_tinyimagenet": _small(16_294_600, 256, 12, 64, 200),
}

register_family("wavemix", WaveMix, VARIANTS)
