"""SPANet (Yun et al., 2023): PoolFormer's pyramid with mixers that balance frequencies.

Overlapping convolutions shrink the map, with no norm behind them; a block normalises an example by
one mean and variance, mixes, and does so again before its MLP. In the last two stages what the
branches are added to has a scale.
"""

from typing import Any

import flax.linen as nn
from jaxtyping import Array, Float

from scanmax.errors import UserError
from scanmax.models.layers import Conv, fan_in_uniform
from scanmax.models.mixers import with_defaults
from scanmax.models.registry import Variant, register_family
from scanmax.models.vision.pyramid import Pyramid


class SpaNet(Pyramid):
    """The pyramid of spectral pooling.

    Attributes:
      radii: up to which a frequency is low, in periods over the map, one per stage.
      residual_scales: initial value of the scales of what branches are added to, one per stage;
        None leaves them out.
      mixer: a name of MIXERS, or one per stage; the radii are of "spectral_pooling".
    Others are those of `Pyramid`.

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
    heads: tuple[int, ...] = (1, 1, 1, 1)
    mixer: str | tuple[str, ...] = "spectral_pooling"
    position_conv: int = 0
    norm: str = "group_norm"
    norm_epsilon: float = 1e-5
    radii: tuple[float, ...] = (2, 2, 1, 1)
    residual_scales: tuple[float | None, ...] = (None, None, 1.0, 1.0)

    @nn.nowrap
    def stem(self, images: Float[Array, "B Yi Xi C"], train: bool) -> Float[Array, "B Y X D"]:
        # Three more pixels than the stride, two of them before the edge.
        stride = self.patch_size
        return self.reduced(images, self.dims[0], stride + 3, stride, 2, "patch_embed")

    @nn.nowrap
    def downsample(self, x: Float[Array, "B Y X C"], stage: int, train: bool):
        return self.reduced(x, self.dims[stage], 3, 2, 1, f"downsample{stage}")

    @nn.nowrap
    def reduced(self, x, dim: int, size: int, stride: int, padding: int, name: str):
        """A smaller map, by a strided convolution."""
        fields = {"padding": padding, "kernel_init": fan_in_uniform(), **self.dtypes}
        return Conv(dim, size, stride=stride, name=name, **fields)(x)

    @nn.nowrap
    def block_fields(self, stage: int) -> list[dict[str, Any]]:
        stages = len(self.dims)
        if len(self.radii) < stages or len(self.residual_scales) < stages:
            raise UserError(
                f"radii={self.radii} and residual_scales={self.residual_scales}: expected {stages} "
                "entries each"
            )
        own = {"spectral_pooling": {"radius": self.radii[stage]}}
        extra = {
            "mixer_options": with_defaults(own, self.mixer_options),
            "residual_scale": self.residual_scales[stage],
        }
        return [fields | extra for fields in super().block_fields(stage)]


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
