"""MAViT (Fan et al., 2025): magnitude-aware linear attention on large maps, softmax on small ones.

Four stages; every mixer turns queries and keys by their place, adds a depthwise convolution of the
values and multiplies by a gate. The authors' code calls the four MALA_T, MALA_S, MALA_B and MALA_L.
"""

from typing import Any

from scanmax.models.registry import Variant, register_family
from scanmax.models.vision.projected_pyramid import ProjectedPyramid


class MaVit(ProjectedPyramid):
    """The projected pyramid with magnitude-aware linear attention, then softmax attention.

    Attributes:
      mixer: a name of MIXERS, or one per stage.
    Others are those of `ProjectedPyramid`.

    Example:
      >>> import jax, scanmax
      >>> model = scanmax.create_model("mavit_t", num_classes=10)
      >>> example = scanmax.model_info("mavit_t").example()  # [1, 224, 224, 3]
      >>> jax.eval_shape(model.init_with_output, jax.random.key(0), example)[0].shape
      (1, 10)

    Reference: mala-magnitude-aware-linear-attention
    """

    heads: tuple[int, ...] = (1, 2, 4, 8)
    mixer: str | tuple[str, ...] = ("mala",) * 2 + ("gated_attention",) * 2
    projection: int = 2048
    layer_scale: float | tuple[float | None, ...] | None = 1.0


def _variant(params: int, **fields: Any) -> Variant:
    return Variant(params, (224, 224, 3), "mala-magnitude-aware-linear-attention", fields)


# Fields of each size; RAVLT has the same.
SIZES = {
    "t": {"dims": (64, 128, 256, 512), "depths": (2, 2, 6, 2), "heads": (1, 2, 4, 8)},
    "s": {"dims": (64, 128, 320, 512), "depths": (3, 5, 9, 3), "heads": (1, 2, 5, 8)},
    "b": {
        "dims": (96, 192, 384, 512),
        "depths": (4, 6, 12, 6),
        "heads": (1, 2, 6, 8),
        "layer_scale": (1.0, 1.0, 1e-6, 1e-6),
    },
    "l": {
        "dims": (96, 192, 448, 640),
        "depths": (4, 7, 19, 8),
        "heads": (1, 2, 7, 10),
        "layer_scale": 1e-6,
    },
}

VARIANTS = {
    "mavit_t": _variant(16_449_128, **SIZES["t"]),
    "mavit_s": _variant(27_142_568, **SIZES["s"]),
    "mavit_b": _variant(49_792_648, **SIZES["b"]),
    "mavit_l": _variant(97_766_088, projection=2560, **SIZES["l"]),
}

register_family("mavit", MaVit, VARIANTS)
