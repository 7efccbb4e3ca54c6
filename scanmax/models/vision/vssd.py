"""VSSD (Shi et al., 2024): non-causal state-space duality in three stages of a pyramid.

The last stage has attention.

Widths, depths, heads, state widths and the last stage's plain attention are those of the authors'
public configurations; stem, downsampling, block, order of norms and gate, and the positive sign of
the token weights those of their public code, with which parameter counts (their own, in torch) and
outputs were compared.
"""

from typing import Any

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from scanmax.models.layers import BatchNorm, Conv, fan_in_uniform
from scanmax.models.mixers import with_defaults
from scanmax.models.registry import Variant, register_family
from scanmax.models.vision.pyramid import Pyramid

# Width inside the downsampling, over the width it gives.
_DOWNSAMPLE_RATIO = 4


class Vssd(Pyramid):
    """The pyramid with a convolutional stem, inverted-bottleneck downsampling and `nc_ssd` mixers.

    Attributes:
      state_size: N, width of the states of the nc_ssd stages.
      expand: inner width of the nc_ssd mixers over the stage's.
    """

    mixer: str | tuple[str, ...] = ("nc_ssd", "nc_ssd", "nc_ssd", "attention")
    norm_epsilon: float = 1e-5
    state_size: int = 64
    expand: float = 2.0

    @nn.nowrap
    def stem(self, images: Float[Array, "B Yi Xi C"], train: bool) -> Float[Array, "B Y X D"]:
        """Five convolutions, each with a batch norm; the second and third are a residual branch."""
        dim = self.dims[0]
        x = jax.nn.relu(self.conv_norm(dim // 2, 3, 2, "stem0", images, train))
        y = jax.nn.relu(self.conv_norm(dim // 2, 3, 1, "stem1", x, train))
        x = x + self.conv_norm(dim // 2, 3, 1, "stem2", y, train)
        x = jax.nn.relu(self.conv_norm(4 * dim, 3, 2, "stem3", x, train))
        return self.conv_norm(dim, 1, 1, "stem4", x, train)

    @nn.nowrap
    def downsample(self, x: Float[Array, "B Y X C"], stage: int, train: bool):
        """Widens, halves the map by a depthwise convolution, narrows."""
        dim, name = self.dims[stage], f"downsample{stage}"
        wide = _DOWNSAMPLE_RATIO * dim
        x = jax.nn.relu(self.conv(wide, 1, 1, f"{name}_expand", x))
        x = jax.nn.relu(self.conv(wide, 3, 2, f"{name}_depthwise", x, groups=wide))
        x = self.conv(dim, 1, 1, f"{name}_project", x)
        return BatchNorm(name=f"{name}_norm", **self.dtypes)(x, train)

    @nn.nowrap
    def conv(self, features: int, size: int, stride: int, name: str, x: Array, **options: Any):
        """A convolution with torch's padding, size // 2 on every side, and initial values."""
        fan_in = size * size * x.shape[-1] // options.get("groups", 1)
        pad = size // 2
        return Conv(
            features,
            size,
            stride=stride,
            padding=((pad, pad), (pad, pad)),
            kernel_init=fan_in_uniform(),
            bias_init=fan_in_uniform(fan_in=fan_in),
            name=name,
            **options,
            **self.dtypes,
        )(x)

    @nn.nowrap
    def conv_norm(self, features: int, size: int, stride: int, name: str, x: Array, train: bool):
        """A convolution without bias, and its batch norm."""
        x = self.conv(features, size, stride, name, x, use_bias=False)
        return BatchNorm(name=f"{name}_norm", **self.dtypes)(x, train)

    @nn.nowrap
    def block_fields(self, stage: int) -> list[dict[str, Any]]:
        """The fields of each block of a stage."""
        own = {
            "nc_ssd": {"state_size": self.state_size, "expand": self.expand, "use_bias": False},
            "attention": {"qkv_bias": False},
        }
        options = with_defaults(own, self.mixer_options)
        return [{**fields, "mixer_options": options} for fields in super().block_fields(stage)]


def _variant(params: int, dim: int, depths: tuple[int, ...], heads: int = 2, **config) -> Variant:
    config = {
        "dims": tuple(dim * 2**stage for stage in range(4)),
        "depths": depths,
        "heads": tuple(heads * 2**stage for stage in range(4)),
        **config,
    }
    return Variant(params, (224, 224, 3), "vssd", config)


VARIANTS = {
    "vssd_micro": _variant(13_512_964, 48, (2, 2, 8, 4), state_size=48),
    "vssd_tiny": _variant(24_270_724, 64, (2, 4, 8, 4)),
    "vssd_small": _variant(40_075_650, 64, (3, 4, 21, 5)),
    "vssd_base": _variant(88_823_151, 96, (3, 4, 21, 5), heads=3),
}

register_family("vssd", Vssd, VARIANTS)
