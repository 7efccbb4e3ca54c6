"""SPANet (Yun et al., 2023): PoolFormer's pyramid with mixers that balance frequencies.

Overlapping convolutions shrink the map, with no norm behind them; a block normalises an example by
one mean and variance, mixes, and does so again before its MLP. In the last two stages what the
branches are added to has a scale.
"""

from typing import Any

import flax.linen as nn

from scanmax.errors import UserError
from scanmax.models.mixers import with_defaults
from scanmax.models.registry import Variant, register_family
from scanmax.models.vision.metaformer import MetaFormer


class SpaNet(MetaFormer):
    """The pyramid of spectral pooling.

    Attributes:
      radii: up to which a frequency is low, in periods over the map, one per stage.
      mixer: a name of MIXERS, or one per stage; the radii are of "spectral_pooling".
    Others are those of `MetaFormer`.

    Example:
      >>> import jax, scanmax
      >>> model = scanmax.create_model("spanet_small", num_classes=10)
      >>> example = scanmax.model_info("spanet_small").example()  # [1, 224, 224, 3]
      >>> jax.eval_shape(model.init_with_output, jax.random.key(0), example)[0].shape
      (1, 10)

    Reference: spanet
    """

    dims: tuple[int, ...] = (64, 128, 320, 512)
    depths: tuple[int, ...] = (4, 4, 12, 4)
    mixer: str | tuple[str, ...] = "spectral_pooling"
    norm: str = "group_norm"
    norm_epsilon: float = 1e-5
    radii: tuple[float, ...] = (2, 2, 1, 1)

    @nn.nowrap
    def block_fields(self, stage: int) -> list[dict[str, Any]]:
        if len(self.radii) < len(self.dims):
            raise UserError(f"radii={self.radii}: expected {len(self.dims)} entries")
        own = {"spectral_pooling": {"radius": self.radii[stage]}}
        options = {"mixer_options": with_defaults(own, self.mixer_options)}
        return [fields | options for fields in super().block_fields(stage)]


def _variant(params: int, depth: int, **fields: Any) -> Variant:
    return Variant(
        params,
        (224, 224, 3),
        "spanet",
        {"depths": (depth, depth, 3 * depth, depth), **fields},
    )


_WIDE = {"dims": (96, 192, 384, 768)}

VARIANTS = {
    "spanet_small": _variant(28_605_096, 4),
    "spanet_medium": _variant(41_686_952, 6),
    "spanet_mediumX": _variant(54_768_808, 8),
    "spanet_base": _variant(75_856_168, 6, **_WIDE),
    "spanet_baseX": _variant(99_718_312, 8, **_WIDE),
}

register_family("spanet", SpaNet, VARIANTS)
