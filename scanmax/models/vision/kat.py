"""KAT (Yang and Wang, 2025): ViT whose MLPs are rational functions of groups of channels.

Names are those of the authors' code, which is timm's ViT elsewhere. `_gelu` and `_swish` say what
the second function of an MLP begins as; without either it is swish. The released attention starts
as something like the identity; here it starts as ViT's.
"""

from typing import Any

import flax.linen as nn
from jaxtyping import Array, Float

from scanmax.errors import UserError
from scanmax.models.blocks import Block
from scanmax.models.parts.kan import RationalMlp
from scanmax.models.registry import Variant, register_family
from scanmax.models.vision.vit import VisionTransformer


class KatBlock(Block):
    """The pre-norm block with an MLP of rational functions.

    Attributes:
      groups: of channels, each with a function of its own.
      sizes: how functions are kept from poles, as in `ops.group_rational`.
    """

    groups: int = 8
    sizes: str = "terms"

    @nn.nowrap
    def apply_mlp(
        self, x: Float[Array, "B T D"], grid, train: bool, name: str = "mlp"
    ) -> Float[Array, "B T D"]:
        mlp = RationalMlp(
            self.mlp_hidden,
            activation=self.activation,
            groups=self.groups,
            sizes=self.sizes,
            dropout_rate=self.dropout_rate,
            name=name,
            **self.dtypes,
        )
        return mlp(x, train)


class Kat(VisionTransformer):
    """ViT with rational functions in the place of each MLP's activation, and in front of it.

    Attributes:
      activation: what the second function begins as, "silu", "gelu" or "identity".
      groups: of channels, each with functions of its own.
      sizes: "terms" as the released kernels have it, or "sum" as the paper prints it.
    Others are those of `VisionTransformer`, without moe, parallel and token_reduction.

    Example:
      >>> import jax, scanmax
      >>> model = scanmax.create_model("kat_tiny_patch16_224", num_classes=10)
      >>> example = scanmax.model_info("kat_tiny_patch16_224").example()  # [1, 224, 224, 3]
      >>> jax.eval_shape(model.init_with_output, jax.random.key(0), example)[0].shape
      (1, 10)

    Reference: kat
    """

    activation: str = "silu"
    groups: int = 8
    sizes: str = "terms"

    @property
    def block_type(self) -> type[nn.Module]:
        if self.moe is not None or self.parallel > 1 or self.token_reduction is not None:
            raise UserError("rational MLPs do without moe, parallel and token_reduction")
        return KatBlock

    @nn.nowrap
    def plain_block_fields(self) -> list[dict[str, Any]]:
        own = {"groups": self.groups, "sizes": self.sizes}
        return [fields | own for fields in super().plain_block_fields()]


# Width, heads, parameters.
_SIZES = {
    "tiny": (192, 3, 5_718_328),
    "small": (384, 6, 22_051_576),
    "base": (768, 12, 86_568_568),
}


def _variant(size: str, start: str) -> Variant:
    dim, heads, params = _SIZES[size]
    fields = {"dim": dim, "heads": heads, "activation": start}
    return Variant(params, (224, 224, 3), "kat", fields)


VARIANTS = {
    f"kat_{size}{name}_patch16_224": _variant(size, start)
    for size in _SIZES
    for name, start in (("", "silu"), ("_gelu", "gelu"), ("_swish", "silu"))
}

register_family("kat", Kat, VARIANTS)
