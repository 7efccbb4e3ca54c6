"""What CKCNN, FlexNet and CCNN share: layers with generated kernels, and a network without strides.

The image is read as a map or, `sequential`, as one long sequence of pixels. Nothing is downsampled:
kernels are as long as their input or of a given size, whatever the depth.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from scanmax import ops
from scanmax.errors import UserError
from scanmax.models.blocks import apply_blocks
from scanmax.models.layers import (
    BatchNorm,
    Dense,
    fan_in_uniform,
    ones_init,
    partitioned,
    zeros_init,
)
from scanmax.models.parts.kernels import SampledKernel, centred_coordinates, past_coordinates
from scanmax.models.registry import Feature
from scanmax.models.taps import tap

NORMS = ("batch", "group")


class KernelConv(nn.Module):
    """A convolution whose kernel is a `kernels.SampledKernel`: dense, or depthwise and linear.

    Sequences are convolved with the past where is_causal; they and maps on both sides otherwise.

    Attributes:
      features: output channels.
      separable: one kernel per input channel and a linear map behind it, instead of a kernel for
        each pair of channels.
      kernel_size: taps per axis; None reaches over the input, whose length is then 2 in the
        coordinates of the kernel.
      kernel: further fields of SampledKernel.
    """

    features: int
    separable: bool = False
    is_causal: bool = False
    kernel_size: int | None = None
    kernel: Mapping[str, Any] | None = None
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B *T C"]) -> Float[Array, "B *T F"]:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x, channels, grid = x.astype(self.dtype), x.shape[-1], x.shape[1:-1]
        options = dict(self.kernel or {})
        if self.is_causal:
            taps = round(((self.kernel_size or grid[0]) - 1) * options.get("resolution", 1.0)) + 1
            mode, places = "causal", (past_coordinates(min(grid[0], taps), taps), (taps,))
        else:
            resolution = options.get("resolution", 1.0)
            mode, places = "bidirectional", centred_coordinates(grid, self.kernel_size, resolution)
        kernel = SampledKernel(
            channels if self.separable else channels * self.features,
            fan_in=1 if self.separable else channels,
            is_causal=self.is_causal,
            name="kernel",
            **options,
            **dtypes,
        )(*places)
        if self.separable:
            y = ops.fft_conv(x, kernel, mode=mode)
        else:
            kernel = kernel.reshape(*kernel.shape[:-1], channels, self.features)
            y = ops.fft_conv_dense(x, kernel, mode=mode)
        bias = self.param(
            "bias", partitioned(zeros_init, ("conv_out",)), y.shape[-1:], self.param_dtype
        )
        y = y + bias.astype(self.dtype).reshape((1,) * (y.ndim - 1) + (-1,))
        if self.separable:
            start = nn.initializers.he_normal()
            y = Dense(self.features, ("conv_in", "conv_out"), kernel_init=start, **dtypes)(y)
        return y


class Norm(nn.Module):
    """Batch norm, or "group": one mean and variance for all channels and places of an example.

    The second is what the released CKCNN calls layer norm; on a sequence it reads the future.
    """

    kind: str = "batch"
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B *T C"], train: bool = False) -> Float[Array, "B *T C"]:
        if self.kind not in NORMS:
            raise UserError(f"norm={self.kind!r} is not one of {', '.join(NORMS)}")
        if self.kind == "batch":
            dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
            return BatchNorm(name="norm", **dtypes)(x, train)
        scale, bias = (
            self.param(name, partitioned(init, ("conv_out",)), x.shape[-1:], self.param_dtype)
            for name, init in (("scale", ones_init), ("bias", zeros_init))
        )
        axes = tuple(range(1 - x.ndim, -1))
        scale, bias = scale.astype(self.dtype), bias.astype(self.dtype)
        return ops.group_norm(x.astype(self.dtype), scale, bias, groups=1, axes=axes, epsilon=1e-12)


class ContinuousNet(nn.Module):
    """Stem, blocks, a head behind the last place or the mean; subclasses say which blocks.

    Attributes:
      num_classes: width of the head; 0 gives the pooled features [B, C].
      dims: channels of each block.
      sequential: read the pixels row by row as one sequence; series [B, T, C] are one already.
      permuted: in an order drawn once for all, from seed 0.
      is_causal: sequences are convolved with the past.
      kernel_size, kernel: of every `KernelConv`.
      norm: "batch" or "group".
      pool: "last" or "mean" place.
      dropout_rate: behind the activations of the blocks.
      remat: recompute activations backwards; a string names a jax.checkpoint_policies entry.
    """

    block: ClassVar[type[nn.Module]]
    separable: ClassVar[bool] = False

    num_classes: int = 10
    dims: tuple[int, ...] = (30, 30)
    sequential: bool = False
    permuted: bool = False
    is_causal: bool = False
    kernel_size: int | None = None
    kernel: Mapping[str, Any] | None = None
    norm: str = "batch"
    pool: str = "mean"
    dropout_rate: float = 0.0
    drop_path_rate: float = 0.0
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32
    remat: bool | str = False

    def __call__(self, images: Float[Array, "B Y X C"], train: bool = False):
        """Logits [B, classes], or pooled features [B, C] without a head."""
        return self.forward(images, train)

    def features(
        self, images: Float[Array, "B Y X C"], train: bool = False
    ) -> tuple[Float[Array, "B Y X C"]]:
        """The map behind the last block, as a tuple of one."""
        return self.forward(images, train, as_maps=True)

    @nn.compact
    def forward(self, images, train, as_maps=False):
        x = images.astype(self.dtype)
        if self.sequential:
            x = jax.lax.collapse(x, 1, -1)
            if self.permuted:
                x = x[:, np.random.default_rng(0).permutation(x.shape[1])]
        x = self.stem(x, train)
        x = tap(self, "stem", x)
        fields = [{"features": dim, **self.block_fields()} for dim in self.dims]
        rates = np.linspace(0, self.drop_path_rate, len(fields)).tolist()
        x, _, _ = apply_blocks(
            fields, x, rates, train=train, remat=self.remat, block=type(self).block
        )
        x = self.final(x, train)
        if as_maps:
            return (x.reshape(*images.shape[:-1], x.shape[-1]),)
        x = x[:, -1] if self.pool == "last" else jnp.mean(x, axis=tuple(range(1, x.ndim - 1)))
        x = tap(self, "pre_logits", x)
        if not self.num_classes:
            return x
        init = nn.initializers.normal(0.01)
        return Dense(
            self.num_classes, ("embed", "classes"), kernel_init=init, name="head", **self.dtypes
        )(x)

    @property
    def dtypes(self) -> dict[str, Any]:
        """Dtypes that every layer takes."""
        return {"dtype": self.dtype, "param_dtype": self.param_dtype}

    @nn.nowrap
    def conv_fields(self) -> dict[str, Any]:
        """Fields of every convolution."""
        return {
            "separable": self.separable,
            "is_causal": self.is_causal,
            "kernel_size": self.kernel_size,
            "kernel": self.kernel,
            **self.dtypes,
        }

    @nn.nowrap
    def block_fields(self) -> dict[str, Any]:
        """Fields of every block beside its features."""
        return {
            "conv": self.conv_fields(),
            "norm": self.norm,
            "dropout_rate": self.dropout_rate,
            **self.dtypes,
        }

    @nn.nowrap
    def stem(self, x: Array, train: bool) -> Array:
        """What the first block reads: the pixels."""
        return x

    @nn.nowrap
    def stem_of(self, features: int, act, x: Array, train: bool) -> Array:
        """Convolution, norm, activation."""
        x = KernelConv(features, name="stem_conv", **self.conv_fields())(x)
        return act(Norm(self.norm, name="stem_norm", **self.dtypes)(x, train))

    @nn.nowrap
    def final(self, x: Array, train: bool) -> Array:
        return x

    @nn.nowrap
    def feature_info(self) -> tuple[Feature, ...]:
        """Name, stride and channels of the maps of `features`."""
        return (Feature("blocks", 1, self.dims[-1]),)


class KernelBlock(nn.Module):
    """What the blocks share: fields, layers by name, the shortcut."""

    features: int
    conv: Mapping[str, Any]
    norm: str = "batch"
    dropout_rate: float = 0.0
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @property
    def dtypes(self) -> dict[str, Any]:
        return {"dtype": self.dtype, "param_dtype": self.param_dtype}

    @nn.nowrap
    def convolved(self, x, name, train):
        """Convolution and norm."""
        y = KernelConv(self.features, name=f"{name}", **self.conv)(x)
        return Norm(self.norm, name=f"{name}_norm", **self.dtypes)(y, train)

    @nn.nowrap
    def shortcut(self, x):
        """x, through a linear map where the channels change."""
        if x.shape[-1] == self.features:
            return x
        init = fan_in_uniform()
        axes = ("conv_in", "conv_out")
        return Dense(self.features, axes, kernel_init=init, name="shortcut", **self.dtypes)(x)

    @nn.nowrap
    def dropped(self, x, train):
        return nn.Dropout(self.dropout_rate, deterministic=not train)(x)
