"""MLP-KAN (He et al., 2024): DeiT whose MLPs are mixtures of MLPs and KANs.

Trunks are those of the released code: no biases of queries, keys and values, norms in blocks with
another epsilon than the last, experts of width 192 in every size. That code also keeps the MLP of
each block that its experts replaced, unused, and centers of bumps that are not learned: it counts
295,872 (tiny), 1,181,568 (small) and 4,722,432 (base) parameters more a block, and 64 for the
centers; those that are learned are counted here.

    >>> import scanmax
    >>> scanmax.model_info("mlp_kan_tiny_patch16_224").paper
    'mlp-kan'

Reference: mlp-kan
"""

from typing import Any

import flax.linen as nn
from jaxtyping import Array, Float

from scanmax.errors import UserError
from scanmax.models.blocks import Block
from scanmax.models.parts.mixed_experts import MixedExperts
from scanmax.models.registry import Variant, register_family
from scanmax.models.vision.vit import VisionTransformer


class MixedBlock(Block):
    """The pre-norm block with experts of two kinds for an MLP."""

    @nn.nowrap
    def apply_mlp(
        self, x: Float[Array, "B T D"], grid, train: bool, name: str = "mlp"
    ) -> Float[Array, "B T D"]:
        experts = MixedExperts(
            self.mlp_hidden,
            activation=self.activation,
            use_bias=self.use_bias,
            dropout_rate=self.dropout_rate,
            name=name,
            **(self.moe or {}),
            **self.dtypes,
        )
        return experts(x, train=train)


class MlpKan(VisionTransformer):
    """ViT with a mixture of MLPs and KANs in the place of each MLP.

    Attributes:
      mlp_ratio: width of the MLPs among the experts over the model's; KANs have half of it.
      moe: other fields of `MixedExperts`, such as {"num_experts": 8, "top_k": 2}.
      block_norm_epsilon: of the norms of blocks; `norm_epsilon` is of the last.
    Others are those of `VisionTransformer`, without parallel and token_reduction.

    Example:
      >>> import jax, scanmax
      >>> model = scanmax.create_model("mlp_kan_tiny_patch16_224", num_classes=10)
      >>> example = scanmax.model_info("mlp_kan_tiny_patch16_224").example()  # [1, 224, 224, 3]
      >>> jax.eval_shape(model.init_with_output, jax.random.key(0), example)[0].shape
      (1, 10)

    Reference: mlp-kan
    """

    mlp_ratio: float = 1.0
    block_norm_epsilon: float = 1e-5

    @property
    def block_type(self) -> type[nn.Module]:
        if self.parallel > 1 or self.token_reduction is not None:
            raise UserError("experts of two kinds do without parallel and token_reduction")
        return MixedBlock

    @property
    def experts(self) -> MixedExperts:
        """Of one block, outside of it: how many are of which kind."""
        return MixedExperts(1, **(self.moe or {}), parent=None)

    @nn.nowrap
    def plain_block_fields(self) -> list[dict[str, Any]]:
        own = {"norm_epsilon": self.block_norm_epsilon}
        return [fields | own for fields in super().plain_block_fields()]


def _variant(params: int, dim: int, heads: int, side: int = 224) -> Variant:
    fields = {"dim": dim, "heads": heads, "mlp_ratio": 192 / dim, "img_size": side}
    fields["mixer_options"] = {"attention": {"qkv_bias": False}}
    return Variant(params, (side, side, 3), "mlp-kan", fields)


VARIANTS = {
    "mlp_kan_tiny_patch16_224": _variant(19_919_272, 192, 3),
    "mlp_kan_small_patch16_224": _variant(43_358_056, 384, 6),
    "mlp_kan_base_patch16_224": _variant(100_852_456, 768, 12),
    "mlp_kan_base_patch16_384": _variant(101_144_296, 768, 12, 384),
}

register_family("mlp_kan", MlpKan, VARIANTS)
