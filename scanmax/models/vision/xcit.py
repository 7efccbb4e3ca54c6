"""XCiT (El-Nouby et al., 2021): attention between channels, patches that meet by convolution.

A convolutional stem, a Fourier code of the grid, blocks that are linear in the number of patches,
and at the end a class token that reads them by class attention: any size of image serves.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.errors import UserError
from scanmax.models.blocks import Block
from scanmax.models.layers import (
    BatchNorm,
    Conv,
    DropPath,
    LayerNorm,
    LayerScale,
    Mlp,
    activation,
    fan_in_uniform,
)
from scanmax.models.parts.class_attention import ClassAttention
from scanmax.models.parts.conv_norm import ConvNorm
from scanmax.models.parts.positions import FourierPositions
from scanmax.models.registry import Variant, register_family
from scanmax.models.taps import tap
from scanmax.models.vision.late_class import LateClassHost


class LocalPatches(nn.Module):
    """Depthwise convolution, activation, batch norm, depthwise convolution, over the grid (LPI)."""

    kernel_size: int = 3
    activation: str = "gelu"
    norm_epsilon: float = 1e-5
    norm_momentum: float = 0.9
    frozen_statistics: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B Y X C"], train: bool = False) -> Float[Array, "B Y X C"]:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        channels = x.shape[-1]
        fields = {"groups": channels, "kernel_init": fan_in_uniform(), **dtypes}
        x = Conv(channels, self.kernel_size, name="conv1", **fields)(x)
        statistics = (self.norm_epsilon, self.norm_momentum, self.frozen_statistics)
        norm = BatchNorm(*statistics, name="norm", **dtypes)
        x = norm(activation(self.activation)(x), train)
        return Conv(channels, self.kernel_size, name="conv2", **fields)(x)


class XcitBlock(Block):
    """x + mixer(norm(x)), then x + local(norm(x)), then x + mlp(norm(x)), each branch scaled."""

    norm_momentum: float = 0.9
    frozen_statistics: bool = False

    @nn.nowrap
    def add_mlp(self, x: Float[Array, "B T D"], rate, grid, train: bool) -> Float[Array, "B T D"]:
        local = LocalPatches(
            activation=self.activation,
            norm_momentum=self.norm_momentum,
            frozen_statistics=self.frozen_statistics,
            name="local",
            **self.dtypes,
        )
        # The third norm and scale by their number, though the second in order: as released.
        y = self.create_norm(3)(x)
        maps = local(y.reshape(y.shape[0], *grid, y.shape[-1]), train)
        x = self.add_branch(x, maps.reshape(y.shape), 3, rate, train)
        return super().add_mlp(x, rate, grid, train)


class ClassBlock(nn.Module):
    """The class token reads all tokens, then passes through an MLP.

    As released: patches x become x + scale * norm(x) beside the attention, then 2 y of y, norm(x)
    where norm_tokens, else x.

    Attributes:
      norm_tokens: the second norm is of all tokens, not of the class token alone.
    """

    heads: int
    mlp_hidden: int
    norm_tokens: bool = True
    norm_epsilon: float = 1e-6
    activation: str = "gelu"
    layer_scale: float = 1.0
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        drop_path_rate: float | Float[Array, ""] = 0.0,
        state: None = None,
        grid: None = None,
        train: bool = False,
    ) -> Float[Array, "B T D"]:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}

        def scaled(index: int, y: Array) -> Array:
            y = LayerScale(self.layer_scale, name=f"layer_scale{index}", **dtypes)(y)
            return DropPath()(y, drop_path_rate, train)

        y = LayerNorm(self.norm_epsilon, name="norm1", **dtypes)(x)
        token = ClassAttention(self.heads, name="attention", **dtypes)(y)
        x = x + scaled(1, jnp.concatenate([token, y[:, 1:]], axis=1))
        norm = LayerNorm(self.norm_epsilon, name="norm2", **dtypes)
        x = norm(x) if self.norm_tokens else jnp.concatenate([norm(x[:, :1]), x[:, 1:]], axis=1)
        mlp = Mlp(self.mlp_hidden, activation=self.activation, name="mlp", **dtypes)
        token = x[:, :1] + scaled(2, mlp(x[:, :1], train=train))
        return tap(self, "output", jnp.concatenate([token, 2 * x[:, 1:]], axis=1))


class Xcit(LateClassHost):
    """Convolutions, Fourier positions, blocks of channel attention, then of class attention.

    Attributes:
      patch_size: stride of the stem, a power of two: as many convolutions of stride 2.
      norm_tokens: class blocks normalise the patches too; those of the nano models do not.
      layer_scale: initial value of the scale of each branch.
      norm_momentum: weight of the old averages of batch norms at each training step.
      frozen_statistics: batch norms keep their averages, in training too: for fine-tuning.
      drop_path_rate: of every block of channel attention.
    Others are those of `LateClassHost`.

    Example:
      >>> import jax, scanmax
      >>> model = scanmax.create_model("xcit_nano_12_p16_224", num_classes=10)
      >>> example = scanmax.model_info("xcit_nano_12_p16_224").example()  # [1, 224, 224, 3]
      >>> jax.eval_shape(model.init_with_output, jax.random.key(0), example)[0].shape
      (1, 10)

    Reference: xcit
    """

    mixer: str | tuple[str, ...] = "xca"
    norm_tokens: bool = True
    layer_scale: float = 1.0
    norm_momentum: float = 0.9
    frozen_statistics: bool = False

    @property
    def block_type(self) -> type[nn.Module]:
        return XcitBlock

    @property
    def class_block_type(self) -> type[nn.Module]:
        return ClassBlock

    @nn.nowrap
    def rates(self) -> tuple[float, ...]:
        return (self.drop_path_rate,) * self.depth + (0.0,) * self.class_depth

    @nn.nowrap
    def stem(self, images: Float[Array, "B Yi Xi C"], train: bool) -> Float[Array, "B Y X D"]:
        # Of twice the width each, up to the model's.
        steps = self.patch_size.bit_length() - 1
        if 2**steps != self.patch_size or steps < 1:
            raise UserError(f"patch_size={self.patch_size} is not a power of two above 1")
        x = images
        for index in range(steps):
            last = index == steps - 1
            x = ConvNorm(
                self.dim // 2 ** (steps - 1 - index),
                stride=2,
                activation=None if last else self.activation,
                norm_momentum=self.norm_momentum,
                frozen_statistics=self.frozen_statistics,
                kernel_init=fan_in_uniform(),
                name=f"stem{index}",
                **self.dtypes,
            )(x, train)
        return x

    @nn.nowrap
    def positions(self, grid: tuple[int, int]) -> Float[Array, "T D"]:
        fields = {"kernel_init": fan_in_uniform(), "name": "pos_projection", **self.dtypes}
        return FourierPositions(self.dim, (None, "embed"), **fields)(grid)

    @nn.nowrap
    def block_fields(self) -> dict[str, Any]:
        return super().block_fields() | {
            "layer_scale": self.layer_scale,
            "norm_momentum": self.norm_momentum,
            "frozen_statistics": self.frozen_statistics,
        }

    @nn.nowrap
    def class_block_fields(self) -> dict[str, Any]:
        return {
            "heads": self.heads,
            "mlp_hidden": round(self.dim * self.mlp_ratio),
            "norm_tokens": self.norm_tokens,
            "norm_epsilon": self.norm_epsilon,
            "activation": self.activation,
            "layer_scale": self.layer_scale,
            **self.dtypes,
        }


# Width, depth, heads, and the parameters at patches of 16 and of 8.
_SIZES = {
    "nano_12": (128, 12, 4, 3_053_224, 3_049_016),
    "tiny_12": (192, 12, 4, 6_716_272, 6_706_504),
    "small_12": (384, 12, 8, 26_253_304, 26_213_032),
    "tiny_24": (192, 24, 4, 12_116_896, 12_107_128),
    "small_24": (384, 24, 8, 47_671_384, 47_631_112),
    "medium_24": (512, 24, 8, 84_395_752, 84_323_624),
    "large_24": (768, 24, 16, 189_096_136, 188_932_648),
}


def _variant(size: str, patch: int, image: int) -> Variant:
    dim, depth, heads, *params = _SIZES[size]
    config = {
        "dim": dim,
        "depth": depth,
        "heads": heads,
        "patch_size": patch,
        "norm_tokens": not size.startswith("nano"),
        "layer_scale": 1.0 if depth == 12 else 1e-5,
    }
    return Variant(params[patch == 8], (image, image, 3), "xcit", config)


VARIANTS = {
    f"xcit_{size}_p{patch}_{image}": _variant(size, patch, image)
    for size in _SIZES
    for patch in (16, 8)
    for image in (224, 384)
}

register_family("xcit", Xcit, VARIANTS)
