"""InLine-DeiT (Han et al., 2024): DeiT with injective linear attention, at larger images.

What attention saves is spent on pixels: the small one reads 288, the base one 448.
"""

from typing import Any

from scanmax.models.registry import Variant, register_family
from scanmax.models.vision.vit import VisionTransformer


class InlineDeit(VisionTransformer):
    """ViT whose mixer is injective linear attention with a convolution that the image chooses.

    Attributes:
      mixer: a name of MIXERS, or one per block.
    Others are those of `VisionTransformer`.

    Example:
      >>> import jax, scanmax
      >>> model = scanmax.create_model("inline_deit_tiny", num_classes=10)
      >>> example = scanmax.model_info("inline_deit_tiny").example()  # [1, 224, 224, 3]
      >>> jax.eval_shape(model.init_with_output, jax.random.key(0), example)[0].shape
      (1, 10)

    Reference: inline-attention
    """

    mixer: str | tuple[str, ...] = "inline"


def _variant(params: int, size: int, **fields: Any) -> Variant:
    return Variant(params, (size, size, 3), "inline-attention", {"img_size": size, **fields})


VARIANTS = {
    "inline_deit_tiny": _variant(6_477_736, 224, dim=192, heads=6),
    "inline_deit_small": _variant(16_734_760, 288, dim=320, heads=10),
    "inline_deit_base": _variant(23_797_096, 448, dim=384, heads=12),
}

register_family("inline_deit", InlineDeit, VARIANTS)
