"""RAVLT (Fan et al., 2025): rank-augmented linear attention on large maps, softmax on small ones.

MAViT's four stages with another linear attention, and fewer channels in front of the head.
"""

from scanmax.models.registry import Variant, register_family
from scanmax.models.vision.mavit import SIZES
from scanmax.models.vision.projected_pyramid import ProjectedPyramid


class Ravlt(ProjectedPyramid):
    """The projected pyramid with rank-augmented linear attention, then softmax attention.

    Attributes:
      mixer: a name of MIXERS, or one per stage.
    Others are those of `ProjectedPyramid`.

    Example:
      >>> import jax, scanmax
      >>> model = scanmax.create_model("ravlt_t", num_classes=10)
      >>> example = scanmax.model_info("ravlt_t").example()  # [1, 224, 224, 3]
      >>> jax.eval_shape(model.init_with_output, jax.random.key(0), example)[0].shape
      (1, 10)

    Reference: rala-ravlt
    """

    heads: tuple[int, ...] = (1, 2, 4, 8)
    mixer: str | tuple[str, ...] = ("rala",) * 2 + ("gated_attention",) * 2
    layer_scale: float | tuple[float | None, ...] | None = 1.0


def _variant(params: int, size: str) -> Variant:
    return Variant(params, (224, 224, 3), "rala-ravlt", SIZES[size])


VARIANTS = {
    "ravlt_t": _variant(14_897_768, "t"),
    "ravlt_s": _variant(25_591_208, "s"),
    "ravlt_b": _variant(48_241_288, "b"),
    "ravlt_l": _variant(95_242_440, "l"),
}

register_family("ravlt", Ravlt, VARIANTS)
