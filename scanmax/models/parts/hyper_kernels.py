"""Kernels and gates that a slow network makes of places, under the activations that they meet.

The parts of the Terminator: what makes a hyper-kernel, the local branch that convolves with one,
gates of channels and of places, and the unit that gates a gate. Everything but the kernels is the
fast network.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from scanmax import ops
from scanmax.models.layers import (
    Dense,
    Initializer,
    fan_in_uniform,
    gelu,
    ones_init,
    partitioned,
    zeros_init,
)
from scanmax.models.parts.kernels import MATRIX
from scanmax.models.parts.map_norms import InstanceBatchNorm, batch_or_running_statistics
from scanmax.models.statistics import at_least_float32

# torch's kaiming_uniform_ for a linear layer, and its kaiming_normal_ of mode fan_in.
flat_init = nn.initializers.variance_scaling(1.0, "fan_in", "uniform")
he_in_init = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


class HyperKernel(nn.Module):
    """A network of places that makes a kernel of any size: `ops.hyper_kernel` and a linear map.

    Filters are sines, g(x) = sin(V x + b) with x in [-1, 1], V within 2 pi omega gamma / sqrt(A)
    of 0 and gamma from the law Gamma(6 / (l + 1), 1) for the l-th. An activation map z that it is
    given is averaged to the size of the kernel and to one for the batch, and becomes the context.

    Attributes:
      features: channels of the kernel.
      hidden, layers: units, and linear maps between filters.
      omega: frequency. The released configuration that is public does not name it.
      base: size of the learned offsets of places; a kernel of another size interpolates them.
      momentum: weight of the old average of the context at each training step.
      frozen_statistics: in training too the running average is the context.
      batch_alone: there is no average: in evaluation too the context is of the batch at hand.

    Reference: hyperzzw-terminator
    """

    features: int
    base: Sequence[int]
    hidden: int = 64
    layers: int = 2
    omega: float = 1.0
    momentum: float = 0.9
    frozen_statistics: bool = False
    batch_alone: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, size: Sequence[int], z: Float[Array, "B Y X C"] | None = None, train: bool = False
    ) -> Float[Array, "*L features"]:
        """The kernel, one for the batch.

        Args:
          size: of the kernel, as many axes as `base`: one or two.
          z: what conditions it; two axes.
          train: whether the context is of the batch.
        """
        dtype, hidden = at_least_float32(self.dtype), self.hidden
        axes = [np.linspace(-1, 1, side) for side in size]
        places = jnp.asarray(np.stack(np.meshgrid(*axes, indexing="ij"), -1), dtype)
        # A line is a map of one row.
        places = places.reshape(-1, *places.shape[-2:])

        def get(name, init, shape, last=None, maps=()):
            init = partitioned(init, (*(None,) * (len(shape) - 1), last), *maps)
            return self.param(name, init, shape, self.param_dtype).astype(dtype)

        # All filters by one product and one sine.
        count = self.layers + 1
        shape = (len(size), hidden)
        inits = [gamma_waves(6 / (l + 1), self.omega) for l in range(count)]
        waves = [get(f"wave{l}", init, shape, maps=MATRIX) for l, init in enumerate(inits)]
        phases = [get(f"phase{l}", zeros_init, (hidden,)) for l in range(count)]
        angles = places @ jnp.concatenate(waves, -1) + jnp.concatenate(phases)[None, None]
        filters = jnp.stack(jnp.split(jnp.sin(angles), count, axis=-1))
        square, counted = (hidden, hidden), range(1, count)
        weights = jnp.stack([get(f"kernel{l}", flat_init, square, maps=MATRIX) for l in counted])
        bias = jnp.stack([get(f"bias{l}", ones_init, (hidden,)) for l in counted])
        offset = get("position_bias", zeros_init, tuple(self.base))
        if tuple(size) != tuple(self.base):
            offset = jax.image.resize(offset, tuple(size), "bilinear")
        context = None if z is None else self.condition(z, size, train)
        h = ops.hyper_kernel(filters, weights, bias, offset.reshape(places.shape[:-1]), context)
        scaled = nn.initializers.variance_scaling(1 / np.prod(size), "fan_in", "uniform")
        kernel = get("kernel_out", scaled, (hidden, self.features), "conv_out", MATRIX)
        y = h @ kernel + get("bias_out", zeros_init, (self.features,), "conv_out")[None, None]
        return y.reshape(*size, self.features)

    @nn.nowrap
    def condition(
        self, z: Float[Array, "B Y X C"], size: Sequence[int], train: bool
    ) -> Float[Array, "L y x H"]:
        """The context of each layer."""
        dtype = at_least_float32(self.dtype)

        def dense(name: str, **inits: Any) -> Dense:
            fields = {"dtype": dtype, "param_dtype": self.param_dtype, "name": name}
            return Dense(self.hidden, ("conv_in", None), **inits, **fields)

        pooled = jnp.mean(ops.adaptive_avg_pool2d(z.astype(dtype), tuple(size)), axis=0)
        if not self.batch_alone:
            running = self.variable("batch_stats", "context", jnp.zeros, pooled.shape, dtype)
            if not train or self.frozen_statistics:
                pooled = running.value
            elif not self.is_initializing():
                running.value = self.momentum * running.value + (1 - self.momentum) * pooled
        plain = {"kernel_init": fan_in_uniform()}
        own = dense("reduce", bias_init=fan_in_uniform(fan_in=z.shape[-1]), **plain)
        mean = own(pooled)
        own = dense("context0", bias_init=fan_in_uniform(fan_in=self.hidden), **plain)
        mean = gelu(own(mean))
        inits = {"kernel_init": flat_init, "bias_init": ones_init}
        layers = [dense(f"context{l}", **inits)(mean) for l in range(1, self.layers + 1)]
        return jnp.stack(layers)


class LocalBranch(nn.Module):
    """HyperZZW's local operator: x convolved channel by channel with a kernel that z conditions.

    y = gelu(standardised(W (x * k(z)) + b)) + b', k one kernel for the batch.

    Attributes:
      kernel_size: side of the kernel, odd.
      kernel: fields of the `HyperKernel`; those of averages are the batch norm's too.

    Reference: hyperzzw-terminator
    """

    kernel_size: int
    kernel: dict[str, Any]
    momentum: float = 0.9
    frozen_statistics: bool = False
    batch_alone: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "B Y X C"], z: Float[Array, "B Y X C"], train: bool = False
    ) -> Float[Array, "B Y X C"]:
        size, channels = (self.kernel_size,) * 2, x.shape[-1]
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        averages = {
            name: getattr(self, name) for name in ("momentum", "frozen_statistics", "batch_alone")
        }
        slow = HyperKernel(channels, size, name="slow", **self.kernel, **averages, **dtypes)
        taps = slow(size, z, train).astype(self.dtype)[:, :, None]
        x = ops.depthwise_conv2d(x.astype(self.dtype), taps)
        x = mixed(channels, "mixer", he_in_init, dtypes)(x)
        x = gelu(ops.batch_norm(x, *batch_or_running_statistics(self, x, train)))
        return x + shift(self)


class HyperGate(nn.Module):
    """x gated by what y says of its channels, and of its places: sigmoid((m w) m) each.

    m are the means of y over the places of a channel and, where spatial, over the channels of a
    place, whose scores are multiplied; w are hyper-kernels over channels and over places.

    Attributes:
      channels: fields of the `HyperKernel` over channels.
      places: fields of that over places; None gates by channels alone.
      base: side of the map whose offsets are learned.

    Reference: hyperzzw-terminator
    """

    channels: dict[str, Any]
    places: dict[str, Any] | None = None
    base: int = 32
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "B Y X C"], y: Float[Array, "B Y X C"]
    ) -> Float[Array, "B Y X C"]:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        width, grid = y.shape[-1], y.shape[1:3]
        kernel = HyperKernel(1, (width,), name="channels_slow", **self.channels, **dtypes)((width,))
        means = jnp.mean(y, axis=(1, 2), keepdims=True)
        score = ops.hyper_zzw(means, kernel.reshape(1, 1, width), interaction="elementwise")
        if self.places is not None:
            base = (self.base,) * 2
            kernel = HyperKernel(1, base, name="places_slow", **self.places, **dtypes)(grid)
            means = jnp.mean(y, axis=-1, keepdims=True)
            score = score * ops.hyper_zzw(means, kernel, interaction="elementwise")
        return x * nn.sigmoid(score)


class RecursiveGate(nn.Module):
    """The recursive gated unit: y = W_y (gelu(standardised(k (W_q v))) + p), k and v linear in x.

    The standardisation is of each image's channels, p an offset of each place.

    Attributes:
      base: side of the map whose offsets are learned.

    Reference: hyperzzw-terminator
    """

    base: int = 32
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B Y X C"]) -> Float[Array, "B Y X C"]:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        width, grid = x.shape[-1], x.shape[1:3]
        key, query = (mixed(width, name, flat_init, dtypes) for name in ("key", "query"))
        value, out = (mixed(width, name, flat_init, dtypes) for name in ("value", "out"))
        gated = gelu(standardised(key(x) * query(value(x))))
        init = partitioned(zeros_init, (None, None))
        offset = self.param("position_bias", init, (self.base,) * 2, self.param_dtype)
        if grid != (self.base,) * 2:
            offset = jax.image.resize(offset, grid, "bilinear")
        return out(gated + offset.astype(gated.dtype)[None, :, :, None])


def mixed(width: int, name: str, init: Any, dtypes: dict[str, Any]) -> Dense:
    """A linear map of the channels of each place."""
    return Dense(width, ("conv_in", "conv_out"), kernel_init=init, name=name, **dtypes)


def standardised(x: Float[Array, "B Y X C"]) -> Float[Array, "B Y X C"]:
    """Each channel of an image by its own mean and variance."""
    return ops.group_norm(x, groups=x.shape[-1])


def shift(module: nn.Module) -> Float[Array, "1 1 1 1"]:
    """One learned number that is added to a map, inside a compact method."""
    bias = module.param("bias", partitioned(zeros_init, (None,)), (1,), module.param_dtype)
    return bias.astype(module.dtype).reshape(1, 1, 1, 1)


def grouped_standardisation(groups: int, **fields: Any) -> InstanceBatchNorm:
    """G-IBS: groups of channels by the batch's and by the image's own statistics, by turns."""
    return InstanceBatchNorm(groups=groups, affine=False, **fields)


def slow_loss(kernels: Sequence[Float[Array, "Y X C"]]) -> Float[Array, ""]:
    """What the slow networks of blocks are taught beside the task: deeper kernels resemble others.

        sum over pairs i < j of the mean of (k_j - tiled k_i)^2

    Args:
      kernels: of the blocks in order; channels of one divide those of the next.
    """
    total = jnp.zeros((), kernels[0].dtype)
    for last, deeper in enumerate(kernels):
        for shallower in kernels[:last]:
            tiled = jnp.tile(shallower, (1, 1, deeper.shape[-1] // shallower.shape[-1]))
            total += jnp.mean(jnp.square(deeper - tiled))
    return total


def gamma_waves(alpha: float, omega: float) -> Initializer:
    """Uniform numbers in 2 pi omega g / sqrt(A) of 0, g from the law Gamma(alpha, 1), A inputs."""

    def init(key, shape, dtype):
        own, other = jax.random.split(key)
        if (2 * alpha).is_integer():
            # The same law as a sum of squares, which compiles sooner than its sampler.
            squares = jnp.square(jax.random.normal(own, (int(2 * alpha), *shape), dtype))
            gamma = jnp.sum(squares, 0) / 2
        else:
            gamma = jax.random.gamma(own, alpha, shape, dtype)
        bound = 2 * np.pi * omega * shape[0] ** -0.5
        return bound * gamma * jax.random.uniform(other, shape, dtype, -1.0, 1.0)

    return init
