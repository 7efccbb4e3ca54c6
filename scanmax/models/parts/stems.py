"""Stems of several layers in the place of one map of patches."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax import ops
from scanmax.errors import UserError
from scanmax.models.layers import (
    Affine,
    BatchNorm,
    Conv,
    Dense,
    LayerNorm,
    activation,
    check_patches,
    fan_in_uniform,
)
from scanmax.models.parts.conv_norm import ConvNorm

STEM_NORMS = ("batch_norm", "layer_norm")


class HmlpStem(nn.Module):
    """Convolutions whose stride is their size, so that no patch sees another (hMLP).

    One of 4 x 4 pixels, then halvings up to the patch, of a quarter of the width until the last;
    each is normalised, and followed by GELU but for the last. With "layer_norm" a patch is the same
    whatever its neighbours are, in training too: masking before the stem is masking behind it.

    Attributes:
      patch_size: side of a patch, a power of two from 4 on.
      norm: "batch_norm" or "layer_norm", that of each place.
      frozen_statistics: batch norms keep their averages, in training too.

    Reference: three-things-vit
    """

    features: int
    patch_size: int = 16
    norm: str = "batch_norm"
    frozen_statistics: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, images: Float[Array, "B Yi Xi C"], train: bool = False
    ) -> Float[Array, "B Y X D"]:
        size = self.patch_size
        if self.norm not in STEM_NORMS:
            raise UserError(f"norm={self.norm!r} is not one of {', '.join(STEM_NORMS)}")
        if size < 4 or size & (size - 1):
            raise UserError(f"patch_size={size}: this stem takes a power of two from 4 on")
        check_patches(images, size)
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x, steps = images, size.bit_length() - 2
        for index in range(steps):
            last, stride = index == steps - 1, 2 if index else 4
            x = Conv(
                self.features if last else self.features // 4,
                stride,
                stride=stride,
                padding="VALID",
                kernel_init=fan_in_uniform(),
                name=f"conv{index}",
                **dtypes,
            )(x)
            if self.norm == "batch_norm":
                fields = {"frozen_statistics": self.frozen_statistics, **dtypes}
                x = BatchNorm(name=f"norm{index}", **fields)(x, train)
            else:
                x = LayerNorm(name=f"norm{index}", **dtypes)(x)
            x = x if last else activation("gelu")(x)
        return x


class DualPatchNorm(nn.Module):
    """A layer norm of each patch's pixels, a linear map of them, a layer norm of what it gives.

    The first makes a patch forget how it was lit: brightness and contrast leave no trace but for
    epsilon. Behind a plain map of patches of P pixels a side they are 2 P^2 C + 2 D parameters.

    Attributes:
      patch_size: P.
      norm_epsilon: of both norms.

    Reference: dual-patchnorm
    """

    features: int
    patch_size: int = 16
    norm_epsilon: float = 1e-6
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: Float[Array, "B Yi Xi C"]) -> Float[Array, "B Y X D"]:
        check_patches(images, self.patch_size)
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        fields = {"epsilon": self.norm_epsilon, **dtypes}
        x = ops.patchify(images, self.patch_size)
        x = LayerNorm(axis="conv_in", name="pixel_norm", **fields)(x)
        x = Dense(self.features, ("conv_in", "embed"), name="proj", **dtypes)(x)
        return LayerNorm(name="norm", **fields)(x)


class OverlappingStem(nn.Module):
    """Halvings by 3x3 convolutions with batch norms, GELU between them: DHVT's patches (SOPE).

    Each is twice as wide as the one before; a scale and a bias of each channel stand in front of
    the first and behind the last. A single halving ends in GELU, as in the released code.

    Attributes:
      patch_size: what the map is smaller by, a power of two from 2 on.
      norm_momentum: weight of the old averages of batch norms at each training step.
      frozen_statistics: batch norms keep their averages, in training too.

    Reference: dhvt
    """

    features: int
    patch_size: int = 16
    norm_momentum: float = 0.9
    frozen_statistics: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, images: Float[Array, "B Yi Xi C"], train: bool = False
    ) -> Float[Array, "B Y X D"]:
        size = self.patch_size
        if size < 2 or size & (size - 1):
            raise UserError(f"patch_size={size}: this stem takes a power of two from 2 on")
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x, steps = Affine("conv_in", name="before", **dtypes)(images), size.bit_length() - 1
        for index in range(steps):
            left = steps - 1 - index
            x = ConvNorm(
                self.features // 2**left,
                stride=2,
                activation="gelu" if left or steps == 1 else None,
                kernel_init=fan_in_uniform(),
                norm_momentum=self.norm_momentum,
                frozen_statistics=self.frozen_statistics,
                name=f"conv{index}",
                **dtypes,
            )(x, train)
        return Affine(name="behind", **dtypes)(x)
