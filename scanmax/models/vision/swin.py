"""Swin (Liu et al., 2021): a pyramid of attention within windows, shifted in every second layer.

Patches, four stages, and between them a linear map of each 2x2 places behind a norm. Layers come
in pairs, the second of which moves its windows by half a window; a table of each head over the
differences of places carries positions. Names, numbers and the order of norms are timm's.

    >>> import scanmax
    >>> model = scanmax.create_model("swin_tiny_patch4_window7_224", num_classes=10)
    >>> [(feature.stride, feature.channels) for feature in model.feature_info()]
    [(4, 96), (8, 192), (16, 384), (32, 768)]

Any image size: windows that the edge of a map cuts are smaller ones, and no padding takes part.
Where windows tile the map, as at the sizes of the variants, that is timm's result; elsewhere timm
pads with zeros, which its attention sees.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax import ops
from scanmax.errors import UserError
from scanmax.models.blocks import Block, apply_in_turn
from scanmax.models.layers import Dense
from scanmax.models.mixers import with_defaults
from scanmax.models.registry import Variant, register_family
from scanmax.models.vision.pyramid import Pyramid

# The mixer of a pair's second layer, where it is not that of the first.
_SECOND = {"window": "shifted_window"}


class BlockPair(nn.Module):
    """Two blocks, one after the other.

    Attributes:
      first: fields of its `Block`.
      second: fields of the other.
    """

    first: Mapping[str, Any]
    second: Mapping[str, Any]

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        drop_path_rate: float | tuple[float, float] | Float[Array, "2"] = 0.0,
        state: None = None,
        grid: tuple[int, int] | None = None,
        train: bool = False,
    ) -> Float[Array, "B T D"]:
        pair = {"first": self.first, "second": self.second}
        return apply_in_turn(Block, pair, x, drop_path_rate, grid, train)


class Swin(Pyramid):
    """The pyramid with windows that alternate with shifted ones, and patch merging.

    Attributes:
      depths: layers of each stage, an even number: they come in pairs.
      mixer: a name of MIXERS, or one per stage; the second layer of each pair has "shifted_window"
        where the first has "window".
      window_size: sides of the windows, one number or one per stage.
      scan_layers: compile one pair per stage; parameters are stacked (blocks.stack_blocks).
    """

    dims: tuple[int, ...] = (96, 192, 384, 768)
    heads: tuple[int, ...] = (3, 6, 12, 24)
    mixer: str | tuple[str, ...] = "window"
    window_size: int | tuple[int, ...] = 7
    overlap: bool = False
    position_conv: int = 0
    norm_epsilon: float = 1e-5

    @property
    def block_type(self) -> type[nn.Module]:
        """Module of the blocks."""
        return BlockPair

    @nn.nowrap
    def downsample(self, x: Float[Array, "B Y X C"], stage: int, train: bool):
        """Each 2x2 places become one, normalised and projected; an odd map gets zeros behind it."""
        x = jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)))
        x = self.create_norm(f"downsample{stage}_norm")(ops.space_to_depth(x))
        merge = {"axes": ("conv_in", "conv_out"), "use_bias": False, **self.dtypes}
        return Dense(self.dims[stage], name=f"downsample{stage}", **merge)(x)

    @nn.nowrap
    def block_fields(self, stage: int) -> list[dict[str, Any]]:
        """The fields of each pair of a stage."""
        if self.depths[stage] % 2:
            raise UserError(f"depths={self.depths}: layers come in pairs, the second one shifted")
        sizes = self.window_size
        if isinstance(sizes, int):
            sizes = (sizes,) * len(self.dims)
        if len(sizes) != len(self.dims):
            raise UserError(
                f"window_size={self.window_size} has {len(sizes)} sizes; expected one or "
                f"{len(self.dims)}."
            )
        own = {name: {"window_size": sizes[stage]} for name in ("window", "shifted_window")}
        fields, *_ = super().block_fields(stage)
        first = {**fields, "mixer_options": with_defaults(own, self.mixer_options)}
        second = {**first, "mixer": _SECOND.get(first["mixer"], first["mixer"])}
        return [{"first": first, "second": second}] * (self.depths[stage] // 2)


def _variant(params: int, dim: int, depth: int, window: Any = 7, size: int = 224) -> Variant:
    config = {
        "dims": tuple(dim * 2**stage for stage in range(4)),
        "depths": (2, 2, depth, 2),
        # A head of 32 channels everywhere.
        "heads": tuple(dim // 32 * 2**stage for stage in range(4)),
        "window_size": window,
    }
    return Variant(params, (size, size, 3), "", config)


VARIANTS = {
    "swin_tiny_patch4_window7_224": _variant(28_288_354, 96, 6),
    "swin_small_patch4_window7_224": _variant(49_606_258, 96, 18),
    "swin_base_patch4_window7_224": _variant(87_768_224, 128, 18),
    "swin_base_patch4_window12_384": _variant(87_903_584, 128, 18, 12, 384),
    "swin_large_patch4_window7_224": _variant(196_532_476, 192, 18),
    "swin_large_patch4_window12_384": _variant(196_735_516, 192, 18, 12, 384),
    # Sizes of windows and depths that a search found.
    "swin_s3_tiny_224": _variant(28_328_674, 96, 6, (7, 7, 14, 7)),
    "swin_s3_small_224": _variant(49_737_298, 96, 18, (14, 14, 14, 7)),
    "swin_s3_base_224": _variant(71_125_762, 96, 30, (7, 7, 14, 7)),
}

register_family("swin", Swin, VARIANTS)
