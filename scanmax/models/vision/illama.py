"""iLLaMA (Wang et al., 2024): LLaMA's decoder as a vision transformer.

RMS norms, gated MLPs without biases, rotary positions along the row of tokens beside a learned
table, and causal attention: the class token stands last, where it reads every patch. In training
attention may start bidirectional, `mask_strength` going from 1 to 0
(`scanmax.train.schedules.soft_mask_strength`). As in the released code the mask multiplies weights
after the softmax. Parameters are counted by that code; its table leaves the learned positions out.

    >>> import scanmax
    >>> model = scanmax.create_model("illama_tiny", num_classes=10)
    >>> model.mlp_hidden
    512

Reference: illama
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
from jaxtyping import Array

from scanmax.models.mixers import with_defaults
from scanmax.models.registry import Variant, register_family
from scanmax.models.vision.vit import VisionTransformer


class Illama(VisionTransformer):
    """ViT with LLaMA's blocks and a class token behind the patches.

    Attributes:
      mixer: a name of MIXERS, or one per block; what lies ahead of a token is masked by the default
        alone.
      mask_strength: what later tokens count, 1 (bidirectional) to 0 (causal); a traced scalar too.
      mlp_ratio: width of the MLPs before two thirds of it are taken and rounded up.
      mlp_multiple: they are rounded up to a multiple of it.
    Others are those of `VisionTransformer`.

    Example:
      >>> import jax, scanmax
      >>> model = scanmax.create_model("illama_tiny", num_classes=10)
      >>> example = scanmax.model_info("illama_tiny").example()  # [1, 224, 224, 3]
      >>> jax.eval_shape(model.init_with_output, jax.random.key(0), example)[0].shape
      (1, 10)

    Reference: illama
    """

    mixer: str | tuple[str, ...] = "soft_causal"
    mask_strength: float | Array = 0.0
    mlp_multiple: int = 256
    norm: str = "rms_norm"
    activation: str = "silu"
    use_bias: bool = False

    @property
    def mlp_hidden(self) -> int:
        """Width of the MLPs."""
        width = int(2 * int(self.dim * self.mlp_ratio) / 3)
        return -(-width // self.mlp_multiple) * self.mlp_multiple

    @nn.nowrap
    def plain_block_fields(self) -> list[dict[str, Any]]:
        own: dict[str, Mapping[str, Any]] = {
            "soft_causal": {
                "rotary_base": 10000.0,
                "strength": self.mask_strength,
                "use_bias": True,
            }
        }
        options = with_defaults(own, self.mixer_options)
        own_fields = {"mixer_options": options, "mlp_hidden": self.mlp_hidden, "gated_mlp": True}
        return [{**fields, **own_fields} for fields in super().plain_block_fields()]


def _variant(params: int, dim: int, heads: int, depth: int = 12) -> Variant:
    return Variant(params, (224, 224, 3), "illama", {"dim": dim, "heads": heads, "depth": depth})


VARIANTS = {
    "illama_tiny": _variant(5_701_096, 192, 3),
    "illama_small": _variant(22_018_024, 384, 6),
    "illama_base": _variant(86_502_376, 768, 12),
    "illama_large": _variant(310_445_032, 1024, 16, 24),
}

register_family("illama", Illama, VARIANTS)
