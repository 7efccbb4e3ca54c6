"""RMT (Fan et al., 2024): four stages of attention that decays with the Manhattan distance.

On large maps the attention runs along rows, then along columns. Names are those of the paper; the
authors' code calls the four RMT_T3, RMT_S, RMT_M2 and RMT_L6.
"""

from typing import Any

import flax.linen as nn

from scanmax.errors import UserError
from scanmax.models.layers import Initializer, fan_in_uniform
from scanmax.models.mixers import with_defaults
from scanmax.models.registry import Variant, register_family
from scanmax.models.vision.projected_pyramid import ProjectedPyramid


class Rmt(ProjectedPyramid):
    """The projected pyramid with Manhattan attention, decomposed in early stages.

    Attributes:
      spans: of the heads' decays, one per stage, see `ops.manhattan_log_decay`.
      mixer: a name of MIXERS, or one per stage; `spans` are of "rmt" and "rmt_decomposed".
    Others are those of `ProjectedPyramid`.

    Example:
      >>> import jax, scanmax
      >>> model = scanmax.create_model("rmt_t", num_classes=10)
      >>> example = scanmax.model_info("rmt_t").example()  # [1, 224, 224, 3]
      >>> jax.eval_shape(model.init_with_output, jax.random.key(0), example)[0].shape
      (1, 10)

    Reference: rmt-masa
    """

    depths: tuple[int, ...] = (3, 4, 18, 4)
    heads: tuple[int, ...] = (4, 4, 8, 16)
    mlp_ratio: float | tuple[float, ...] = (4.0, 4.0, 3.0, 3.0)
    mixer: str | tuple[str, ...] = ("rmt_decomposed",) * 3 + ("rmt",)
    stem_strides: tuple[int, ...] = (2, 1, 2, 1)
    spans: tuple[float, ...] = (4.0, 4.0, 6.0, 6.0)

    @property
    def conv_init(self) -> Initializer:
        return fan_in_uniform()

    @nn.nowrap
    def block_fields(self, stage: int) -> list[dict[str, Any]]:
        if len(self.spans) != len(self.dims):
            raise UserError(f"spans={self.spans}: expected {len(self.dims)} numbers")
        own = {"span": self.spans[stage]}
        options = with_defaults({"rmt": own, "rmt_decomposed": own}, self.mixer_options)
        return [fields | {"mixer_options": options} for fields in super().block_fields(stage)]


def _variant(params: int, **fields: Any) -> Variant:
    return Variant(params, (224, 224, 3), "rmt-masa", fields)


_LARGE = {"depths": (4, 8, 25, 8), "layer_scale": (None, None, 1e-6, 1e-6)}

VARIANTS = {
    "rmt_t": _variant(
        14_334_216,
        depths=(2, 2, 8, 2),
        mlp_ratio=3.0,
        mixer=("rmt_decomposed",) * 2 + ("rmt",) * 2,
    ),
    "rmt_s": _variant(26_967_240),
    "rmt_b": _variant(
        54_154_896,
        dims=(80, 160, 320, 512),
        heads=(5, 5, 10, 16),
        spans=(5.0, 5.0, 6.0, 6.0),
        **_LARGE,
    ),
    "rmt_l": _variant(
        95_464_864, dims=(112, 224, 448, 640), heads=(7, 7, 14, 20), spans=(6.0,) * 4, **_LARGE
    ),
}

register_family("rmt", Rmt, VARIANTS)
