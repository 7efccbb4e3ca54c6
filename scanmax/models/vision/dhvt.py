"""DHVT (Lu et al., 2022): ViT for small data, with head tokens and convolutions in stem and MLPs.

There are no positions but what convolutions know. Names are those of the release; its networks for
CIFAR-100 have 100 classes, those for DomainNet 345.
"""

from typing import Any

import flax.linen as nn
from jaxtyping import Array, Float

from scanmax.errors import UserError
from scanmax.models.blocks import Block
from scanmax.models.parts.aggregation_mlp import AggregationMlp
from scanmax.models.registry import Variant, register_family
from scanmax.models.vision.vit import VisionTransformer


class AggregationBlock(Block):
    """The pre-norm block with a dynamic aggregation MLP.

    Attributes:
      frozen_statistics: batch norms keep their averages, in training too.
    """

    frozen_statistics: bool = False

    @nn.nowrap
    def apply_mlp(self, x: Float[Array, "B T D"], grid, train: bool) -> Float[Array, "B T D"]:
        return AggregationMlp(
            self.mlp_hidden,
            prefix_tokens=self.prefix_tokens,
            activation=self.activation,
            use_bias=self.use_bias,
            frozen_statistics=self.frozen_statistics,
            name="mlp",
            **self.dtypes,
        )(x, grid, train)


class Dhvt(VisionTransformer):
    """ViT whose heads make tokens, whose MLPs convolve, and whose patches overlap.

    Attributes:
      stem: "overlapping", or as `VisionTransformer` has it.
      frozen_statistics: all batch norms keep their averages, in training too: for fine-tuning.
      dropout_rate: before the blocks and behind the mixers; the MLPs have none.
    Others are those of `VisionTransformer`, without moe, parallel and token_reduction.

    Example:
      >>> import jax, scanmax
      >>> model = scanmax.create_model("dhvt_tiny_cifar_patch4", num_classes=10)
      >>> example = scanmax.model_info("dhvt_tiny_cifar_patch4").example()  # [1, 32, 32, 3]
      >>> jax.eval_shape(model.init_with_output, jax.random.key(0), example)[0].shape
      (1, 10)

    Reference: dhvt
    """

    dim: int = 192
    heads: int = 4
    stem: str = "overlapping"
    mixer: str | tuple[str, ...] = "head_tokens"
    positions: str = "none"

    @property
    def block_type(self) -> type[nn.Module]:
        if self.moe is not None or self.parallel > 1 or self.token_reduction is not None:
            raise UserError("aggregation MLPs do without moe, parallel and token_reduction")
        return AggregationBlock

    @nn.nowrap
    def plain_block_fields(self) -> list[dict[str, Any]]:
        own = {"frozen_statistics": self.frozen_statistics}
        return [fields | own for fields in super().plain_block_fields()]


def _variant(params: int, dim: int, heads: int, patch: int, image: int, classes: int) -> Variant:
    fields = {
        "dim": dim,
        "heads": heads,
        "patch_size": patch,
        "img_size": image,
        "num_classes": classes,
    }
    return Variant(params, (image, image, 3), "dhvt", fields)


VARIANTS = {
    "dhvt_tiny_cifar_patch4": _variant(6_008_650, 192, 4, 4, 32, 100),
    "dhvt_small_cifar_patch4": _variant(23_425_450, 384, 8, 4, 32, 100),
    "dhvt_tiny_cifar_patch2": _variant(5_845_162, 192, 4, 2, 32, 100),
    "dhvt_small_cifar_patch2": _variant(22_766_698, 384, 8, 2, 32, 100),
    "dhvt_tiny_domain_patch16": _variant(6_105_975, 192, 4, 16, 224, 345),
    "dhvt_small_domain_patch16": _variant(23_788_431, 384, 6, 16, 224, 345),
    "dhvt_tiny_imagenet_patch16": _variant(6_267_334, 192, 3, 16, 224, 1000),
    "dhvt_small_imagenet_patch16": _variant(24_040_606, 384, 6, 16, 224, 1000),
}

register_family("dhvt", Dhvt, VARIANTS)
