"""ConViT (d'Ascoli et al., 2021): attention that starts as a convolution, under timm's names.

Ten blocks of gated positional attention mix the patches; then the class token joins, for two blocks
of plain attention.
"""

from typing import Any

from flax import linen as nn
from jaxtyping import Array, Float

from scanmax.models.layers import PatchEmbed, drop_path_rates
from scanmax.models.mixers import with_defaults
from scanmax.models.parts.positions import learned_positions
from scanmax.models.registry import Variant, register_family
from scanmax.models.vision.late_class import LateClassHost


class ConVit(LateClassHost):
    """Patches, learned positions, blocks of gated positional attention, then of attention.

    Attributes:
      img_size: side of the images that the position table fits, or (Y, X); at other sizes the table
        is resampled.
      locality_strength: how sharply heads look at their taps at first.
      drop_path_rate: of the last block; earlier ones have less.
      mixer: a name of MIXERS for the blocks without the class token, or one per block.
    Others are those of `LateClassHost`.

    Example:
      >>> import jax, scanmax
      >>> model = scanmax.create_model("convit_tiny", num_classes=10)
      >>> example = scanmax.model_info("convit_tiny").example()  # [1, 224, 224, 3]
      >>> jax.eval_shape(model.init_with_output, jax.random.key(0), example)[0].shape
      (1, 10)

    Reference: convit-gpsa
    """

    img_size: int | tuple[int, int] = 224
    dim: int = 192
    depth: int = 10
    heads: int = 4
    mixer: str | tuple[str, ...] = "gpsa"
    locality_strength: float = 1.0

    @nn.nowrap
    def rates(self) -> tuple[float, ...]:
        return drop_path_rates(self.drop_path_rate, self.depth + self.class_depth)

    @nn.nowrap
    def stem(self, images: Float[Array, "B Yi Xi C"], train: bool) -> Float[Array, "B Y X D"]:
        return PatchEmbed(self.dim, self.patch_size, name="patch_embed", **self.dtypes)(images)

    @nn.nowrap
    def positions(self, grid: tuple[int, int]) -> Float[Array, "T D"]:
        size, patch = self.img_size, self.patch_size
        rows, columns = (size, size) if isinstance(size, int) else size
        return learned_positions(self, self.dim, (rows // patch, columns // patch), grid)

    @nn.nowrap
    def block_fields(self) -> dict[str, Any]:
        own = {
            "qkv_bias": False,
            "position_bias": True,
            "locality_strength": self.locality_strength,
        }
        return super().block_fields() | {
            "mixer_options": with_defaults({"gpsa": own}, self.mixer_options)
        }

    @nn.nowrap
    def class_block_fields(self) -> dict[str, Any]:
        return super().block_fields() | {
            "mixer": "attention",
            "mixer_options": with_defaults({"attention": {"qkv_bias": False}}, self.mixer_options),
            "prefix_tokens": 1,
        }


def _variant(params: int, dim: int, heads: int) -> Variant:
    return Variant(params, (224, 224, 3), "convit-gpsa", {"dim": dim, "heads": heads})


# The wider models of the paper are not timm's.
VARIANTS = {
    "convit_tiny": _variant(5_710_512, 192, 4),
    "convit_small": _variant(27_777_322, 432, 9),
    "convit_base": _variant(86_540_040, 768, 16),
    "convit_tiny_plus": _variant(9_972_912, 256, 4),
    "convit_small_plus": _variant(48_979_882, 576, 9),
    "convit_base_plus": _variant(153_134_856, 1024, 16),
}

register_family("convit", ConVit, VARIANTS)
