"""CvT (Wu et al., 2021): three stages of attention over convolved projections.

Overlapping convolutions make the tokens of each stage, queries, keys and values are convolved
before they are projected, and a class token joins in the last stage. There is no table of
positions: any size of image serves.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.models.layers import normal_init, partitioned
from scanmax.models.mixers import with_defaults
from scanmax.models.registry import Variant, register_family
from scanmax.models.statistics import averaging
from scanmax.models.vision.pyramid import Pyramid


class Cvt(Pyramid):
    """The pyramid with overlapping patches, and a class token in its last stage.

    Attributes:
      class_token: what the head reads; without it the mean pixel.
      mixer: a name of MIXERS, or one per stage; the two fields below are of "conv_projection".
      norm_momentum: weight of the old averages of batch norms at each training step.
      frozen_statistics: batch norms keep their averages, in training too: for fine-tuning.
    Others are those of `Pyramid`.

    Example:
      >>> import jax, scanmax
      >>> model = scanmax.create_model("cvt_13", num_classes=10)
      >>> example = scanmax.model_info("cvt_13").example()  # [1, 224, 224, 3]
      >>> jax.eval_shape(model.init_with_output, jax.random.key(0), example)[0].shape
      (1, 10)

    Reference: cvt
    """

    dims: tuple[int, ...] = (64, 192, 384)
    depths: tuple[int, ...] = (1, 2, 10)
    heads: tuple[int, ...] = (1, 3, 6)
    mixer: str | tuple[str, ...] = "conv_projection"
    position_conv: int = 0
    norm_epsilon: float = 1e-5
    class_token: bool = True
    norm_momentum: float = 0.9
    frozen_statistics: bool = False

    @nn.nowrap
    def stem(self, images: Float[Array, "B Yi Xi C"], train: bool) -> Float[Array, "B Y X D"]:
        # Patches of 7 for strides of 4, two zeros on every side.
        size, padding = 2 * self.patch_size - 1, self.patch_size // 2
        options = {"padding": padding}
        return self.patches(images, self.dims[0], size, self.patch_size, "patch_embed", **options)

    @nn.nowrap
    def downsample(self, x: Float[Array, "B Y X C"], stage: int, train: bool):
        return self.patches(x, self.dims[stage], 3, 2, f"downsample{stage}")

    @nn.nowrap
    def prefix_tokens(self, stage: int) -> int:
        """How many tokens stand before the pixels of a stage."""
        return int(self.class_token and stage == len(self.dims) - 1)

    @nn.nowrap
    def add_prefix(
        self, x: Float[Array, "B N D"], stage: int, grid: tuple[int, int]
    ) -> Float[Array, "B T D"]:
        if not self.prefix_tokens(stage):
            return x
        init, dim = partitioned(normal_init, (None, "embed")), x.shape[-1]
        token = self.param("cls_token", init, (1, dim), self.param_dtype)
        token = jnp.broadcast_to(token.astype(x.dtype)[None], (x.shape[0], 1, dim))
        return jnp.concatenate([token, x], axis=1)

    @nn.nowrap
    def pool(self, x: Float[Array, "B Y X C"], prefix: Float[Array, "B P C"], train: bool):
        if self.class_token:
            return self.last_norm(prefix)[:, 0]
        return super().pool(x, prefix, train)

    @nn.nowrap
    def block_fields(self, stage: int) -> list[dict[str, Any]]:
        statistics = averaging(self)
        options = with_defaults({"conv_projection": statistics}, self.mixer_options)
        extra = {"mixer_options": options, "prefix_tokens": self.prefix_tokens(stage)}
        return [fields | extra for fields in super().block_fields(stage)]


def _variant(params: int, size: int, **fields: Any) -> Variant:
    return Variant(params, (size, size, 3), "cvt", fields)


_DEEP = {"depths": (1, 4, 16)}
_WIDE = {"dims": (192, 768, 1024), "depths": (2, 2, 20), "heads": (3, 12, 16)}

VARIANTS = {
    "cvt_13": _variant(19_997_480, 224),
    "cvt_13_384": _variant(19_997_480, 384),
    "cvt_21": _variant(31_622_696, 224, **_DEEP),
    "cvt_21_384": _variant(31_622_696, 384, **_DEEP),
    "cvt_w24": _variant(277_196_392, 384, **_WIDE),
}

register_family("cvt", Cvt, VARIANTS)
