"""MoH-ViT (Jin et al., 2024): TransNeXt whose tokens pick and weigh the heads of their attention.

Names are those of the authors' code, with the percentage of heads that take part.
"""

from typing import Any

import flax.linen as nn

from scanmax.errors import UserError
from scanmax.models.mixers import with_defaults
from scanmax.models.registry import Variant, register_family
from scanmax.models.vision.transnext import VARIANTS as TRANSNEXT
from scanmax.models.vision.transnext import TransNext


class MohVit(TransNext):
    """TransNeXt with a gate for each head and token.

    Attributes:
      shared_heads: heads that every token uses, one number per stage.
      routed_heads: of the others, how many a token picks, one number per stage; 0 where all are
        shared.
      balance_weight: of the load-balance loss, the mean over the blocks that route, which training
        sows into the collection "losses".
    Others are those of `TransNext`; the three are of "aggregated" and "cosine".

    Example:
      >>> import jax, scanmax
      >>> model = scanmax.create_model("moh_transnext_small_75", num_classes=10)
      >>> example = scanmax.model_info("moh_transnext_small_75").example()  # [1, 224, 224, 3]
      >>> jax.eval_shape(model.init_with_output, jax.random.key(0), example)[0].shape
      (1, 10)

    Reference: moh
    """

    shared_heads: tuple[int, ...] = (3, 6, 3, 4)
    routed_heads: tuple[int, ...] = (0, 0, 6, 12)
    balance_weight: float = 0.01

    @nn.nowrap
    def block_fields(self, stage: int) -> list[dict[str, Any]]:
        stages = len(self.dims)
        if len(self.shared_heads) != stages or len(self.routed_heads) != stages:
            raise UserError(
                f"shared_heads={self.shared_heads} and routed_heads={self.routed_heads}: "
                f"expected {stages} numbers each"
            )
        routing = sum(depth for depth, routed in zip(self.depths, self.routed_heads) if routed)
        gates = {
            "shared_heads": self.shared_heads[stage],
            "routed_heads": self.routed_heads[stage],
            "balance_weight": self.balance_weight / max(routing, 1),
        }
        own = {"aggregated": {"head_gates": gates}, "cosine": {"head_gates": gates}}
        return [
            fields | {"mixer_options": with_defaults(own, fields["mixer_options"])}
            for fields in super().block_fields(stage)
        ]


def _variant(params: int, size: str, shared: tuple[int, ...], routed: tuple[int, ...]) -> Variant:
    own = {"shared_heads": shared, "routed_heads": routed}
    return Variant(params, (224, 224, 3), "moh", {**TRANSNEXT[f"transnext_{size}"].config, **own})


VARIANTS = {
    "moh_transnext_small_75": _variant(49_910_548, "small", (3, 6, 3, 4), (0, 0, 6, 12)),
    "moh_transnext_small_80": _variant(49_910_548, "small", (3, 6, 3, 8), (0, 0, 6, 12)),
    "moh_transnext_base_50": _variant(90_023_512, "base", (2, 2, 2, 4), (2, 4, 6, 8)),
    "moh_transnext_base_75": _variant(90_020_632, "base", (4, 8, 4, 5), (0, 0, 8, 16)),
}

register_family("moh_vit", MohVit, VARIANTS)
