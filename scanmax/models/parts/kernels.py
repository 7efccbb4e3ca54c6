"""Networks that generate convolution kernels: functions of a coordinate, sampled where needed.

Every generator maps coordinates [*L, A] in A dimensions to kernel values [*L, features]; mixers and
models choose one by its name in KERNELS. `ImplicitFilter` alone is a function of a lag.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from scanmax import ops
from scanmax.errors import UserError, suggest
from scanmax.models.layers import (
    Dense,
    fan_in_uniform,
    ones_init,
    partitioned,
    zeros_init,
)
from scanmax.models.statistics import at_least_float32

SIREN_INITS = ("siren", "released")
MAGNET_INITS = ("ccnn", "flexconv")
CROPS = ("released", "threshold")
# Of a Gaussian of width 1 / gamma this many times gamma / 2 pi counts as its highest frequency.
DEVIATIONS = 2.0
# Inputs and outputs of a matrix, as `layers.Parameter` has them.
MATRIX = ((-2,), (-1,))


class ImplicitFilter(nn.Module):
    """Hyena's filter: sines of the lag through a small network, decaying at each channel's rate.

    h_s = exp(-rate |s|) W sin(f (... sin(f (W z_s + b)) ...)), z_s = (s, cos, sin), s in units of
    max_length - 1. Rates run over the channels so that the filter falls to 1 % within 0.3 to 1.5
    lengths. It is evaluated in at least float32, at any lag, also beyond max_length.

    Attributes:
      features: channels, of all ways together.
      ways: how many filters a channel has (two for both directions), each with the channel's rate.
      hidden, layers: width of the network and number of its inner layers.
      frequency: f, which is trained and shared by the layers, at the start.
      position_features: numbers in z_s, odd.
    """

    features: int
    ways: int = 1
    hidden: int = 16
    layers: int = 2
    frequency: float = 1.0
    position_features: int = 3
    max_length: int = 1024
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, lags: int) -> Float[Array, "L D"]:
        if self.position_features < 3 or self.position_features % 2 == 0:
            raise ValueError(f"position_features={self.position_features} must be odd, at least 3.")
        dtype = at_least_float32(self.dtype)
        index = np.arange(lags)
        time = (index / max(self.max_length - 1, 1))[:, None]
        bands = (self.position_features - 1) // 2
        angle = 2 * np.pi * index[:, None] / self.max_length * np.linspace(1e-4, bands - 1, bands)
        places = np.concatenate([time, np.cos(angle), -np.sin(angle)], axis=1)
        init = partitioned(nn.initializers.constant(self.frequency), (None,))
        frequency = self.param("frequency", init, (self.hidden,), self.param_dtype).astype(dtype)
        y = jnp.asarray(places, dtype)
        for layer in range(self.layers + 1):
            bound = fan_in_uniform(fan_in=y.shape[-1])
            y = Dense(
                self.hidden,
                (None, None),
                kernel_init=fan_in_uniform(),
                bias_init=bound,
                dtype=dtype,
                param_dtype=self.param_dtype,
                name=f"fc{layer}",
            )(y)
            y = jnp.sin(frequency[None] * y)
        y = Dense(
            self.features,
            (None, "embed"),
            use_bias=False,
            kernel_init=fan_in_uniform(),
            dtype=dtype,
            param_dtype=self.param_dtype,
            name="out",
        )(y)
        channels = self.features // self.ways
        rates = np.abs(np.linspace(np.log(1e-2) / 1.5, np.log(1e-2) / 0.3, channels))
        rates = np.tile(rates, self.ways)
        return y * jnp.asarray(np.exp(-time * rates[None]), dtype)


class Siren(nn.Module):
    """CKConv's generator: a network of linear maps with weight norm and sines between them.

    k(x) = W3 sin(omega (W2 sin(omega (W1 x + b1)) + b2)) + b3

    Attributes:
      features: channels of the kernel.
      hidden, layers: width, and number of linear maps.
      omega: frequency of the sines, the hyper-parameter that matters.
      weight_norm: each row of W is a length times a direction.
      init: of the weights: "siren" as printed, +- 1 and then +- sqrt(6 / fan_in) / omega;
        "released", what the authors' code does: their values are set after weight norm has been
        put on, which draws from +- 1 / sqrt(fan_in) and replaces them at the first call. Biases are
        within +- 1 in both.
      output_scale: factor on the last weights at the start.

    Reference: ckconv
    """

    features: int
    hidden: int = 32
    layers: int = 3
    omega: float = 30.0
    weight_norm: bool = True
    init: str = "siren"
    output_scale: float = 1.0
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, coordinates: Float[Array, "*L A"]):
        """(values [*L, features], None)."""
        if self.init not in SIREN_INITS:
            raise UserError(f"init={self.init!r} is not one of {', '.join(SIREN_INITS)}")
        dtype = at_least_float32(self.dtype)
        y = coordinates.astype(dtype)
        for layer in range(self.layers):
            last = layer == self.layers - 1
            features = self.features if last else self.hidden
            fan_in = y.shape[-1]
            if self.init == "released":
                bound = fan_in**-0.5
            else:
                bound = 1.0 if layer == 0 else (6 / fan_in) ** 0.5 / self.omega
            scale = self.output_scale if last else 1.0
            axes = (None, "embed" if last else None)
            kernel, bias = (
                self.param(
                    f"{name}{layer}", partitioned(init, own, *maps), shape, self.param_dtype
                ).astype(dtype)
                for name, init, own, maps, shape in (
                    ("kernel", _uniform(scale * bound), axes, MATRIX, (fan_in, features)),
                    ("bias", _uniform(scale), axes[1:], (), (features,)),
                )
            )
            if self.weight_norm:
                # a length of its own for each row, that of the kernel at the start
                own = partitioned(_constant(_norms(kernel)), axes[1:])
                length = self.param(f"length{layer}", own, (features,), self.param_dtype)
                kernel = kernel * (length.astype(dtype) / _norms(kernel))[None]
            y = y.reshape(-1, fan_in) @ kernel + bias[None]
            if not last:
                y = jnp.sin(self.omega * y)
        return y.reshape(*coordinates.shape[:-1], self.features), None


class Magnet(nn.Module):
    """FlexConv's generator: a product of anisotropic Gabor filters, mixed linearly in between.

    h_1 = g_1(x), h_(l+1) = (W_l h_l + b_l) * g_(l+1)(x), k(x) = W h + b, with
    g(x) = exp(-0.5 sum_a (gamma_a (x_a - mu_a))^2) sin(V x + c), gamma and mu per unit and axis.

    Attributes:
      features: channels of the kernel.
      hidden, layers: units of each filter, and linear maps between the filters (one more filter).
      omega: frequency: V starts within +- omega gamma / sqrt A times 2 pi (init "ccnn"), or divided
        by the root of the number of filters (init "flexconv", where it is called input scale).
      init: the two released codes differ. "ccnn": c = 0, b = 1, W within +- sqrt(3 / hidden);
        "flexconv": c within +- pi, b = 0, W within +- 1 / sqrt(hidden).
      radius: of the box in which mu starts, around 0, or in front of 1 where is_causal.
      output_scale: factor on the last weights at the start.

    Reference: flexconv, ccnn-nd
    """

    features: int
    hidden: int = 32
    layers: int = 3
    omega: float = 1.0
    init: str = "ccnn"
    radius: float = 1.0
    is_causal: bool = False
    output_scale: float = 1.0
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, coordinates: Float[Array, "*L A"]):
        """(values [*L, features], the highest frequency of each filter)."""
        if self.init not in MAGNET_INITS:
            raise UserError(f"init={self.init!r} is not one of {', '.join(MAGNET_INITS)}")
        later = self.init == "ccnn"
        dtype, dims = at_least_float32(self.dtype), coordinates.shape[-1]
        x = coordinates.reshape(-1, dims).astype(dtype)

        def get(name, init, shape, last=None, maps=()):
            init = partitioned(init, (*(None,) * (len(shape) - 1), last), *maps)
            return self.param(name, init, shape, self.param_dtype).astype(dtype)

        def centre(key, shape, dtype):
            if self.is_causal and self.radius != 1.0:
                return 1 - self.radius * jax.random.uniform(key, shape, dtype)
            return self.radius * jax.random.uniform(key, shape, dtype, -1.0, 1.0)

        factor = 2 * np.pi * self.omega if later else self.omega / np.sqrt(self.layers + 1)
        bound = (3 / self.hidden) ** 0.5 if later else self.hidden**-0.5
        h, frequencies = None, []
        for l in range(self.layers + 1):
            shape = (dims, self.hidden)

            def gammas(key, shape, dtype, l=l):
                return jax.random.gamma(key, 6.0 / (l + 1), shape, dtype)

            gamma = get(f"gamma{l}", gammas, shape)
            init = _scaled(gamma, factor / np.sqrt(dims))
            wave = get(f"wave{l}", init, shape, maps=MATRIX)
            phase = get(f"phase{l}", zeros_init if later else _uniform(np.pi), (self.hidden,))
            mu = get(f"centre{l}", centre, shape)
            window = sum((gamma[a][None] * (x[:, a, None] - mu[a][None])) ** 2 for a in range(dims))
            g = jnp.exp(-0.5 * window) * jnp.sin(x @ wave + phase[None])
            spread = jnp.abs(wave) + DEVIATIONS * jnp.abs(gamma)
            frequencies.append(jnp.max(spread) / (2 * np.pi))
            if h is None:
                h = g
            else:
                shape = (self.hidden, self.hidden)
                kernel = get(f"kernel{l}", _uniform(bound), shape, maps=MATRIX)
                bias = get(f"bias{l}", ones_init if later else zeros_init, (self.hidden,))
                h = (h @ kernel + bias[None]) * g
        out = _uniform(self.output_scale * bound)
        kernel = get("kernel_out", out, (self.hidden, self.features), "embed", MATRIX)
        bias = get("bias_out", zeros_init, (self.features,), "embed")
        y = h @ kernel + bias[None]
        return y.reshape(*coordinates.shape[:-1], self.features), jnp.stack(frequencies)


class MovingPoints(nn.Module):
    """SMPConv's generator: points that lie anywhere, with weights and radii, `ops.point_kernel`.

    Attributes:
      features: channels of the kernel.
      points: how many; the released image networks take a quarter of the taps.
      radius: at the start, of every point; it is kept within 0.001 and 1, as the released code
        does after every step (here where it is used; the gradient passes).
      deviation: of the positions at the start, truncated to the box; a causal kernel's lie on the
        side of the past, twice as wide.
      per_channel: points of its own for every channel, as the released sequence networks have.
      averaged: divide by the number of points in reach, as those do.

    Reference: smpconv
    """

    features: int
    points: int = 64
    radius: float = 0.1
    deviation: float = 0.2
    per_channel: bool = False
    averaged: bool = False
    is_causal: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, coordinates: Float[Array, "*L A"]):
        """(values [*L, features], None)."""
        dtype, dims = at_least_float32(self.dtype), coordinates.shape[-1]
        group = (self.features,) if self.per_channel else ()
        own = ("embed",) if self.per_channel else ()

        def places(key, shape, dtype):
            low, high = (-1.0, 0.0) if self.is_causal else (-1.0, 1.0)
            low, high = low / self.deviation, high / self.deviation
            value = self.deviation * jax.random.truncated_normal(key, low, high, shape, dtype)
            return 2 * value + 1 if self.is_causal else value

        def get(name, init, axes, shape, maps=()):
            init = partitioned(init, axes, *maps)
            return self.param(name, init, shape, self.param_dtype).astype(dtype)

        positions = get("positions", places, (*own, None, None), (*group, self.points, dims))
        constant = nn.initializers.constant(self.radius)
        radius = get("radius", constant, (*own, None), (*group, self.points))
        radius = radius + jax.lax.stop_gradient(jnp.clip(radius, 1e-3, 1.0) - radius)
        init = nn.initializers.truncated_normal(0.02)
        weights = get("weights", init, (None, "embed"), (self.points, self.features), MATRIX)
        kernel = ops.point_kernel(
            coordinates.astype(dtype), positions, radius, weights, averaged=self.averaged
        )
        return kernel, None


class GaussianMask(nn.Module):
    """FlexConv's mask: a Gaussian of learned width and mean per axis, which sizes the kernel.

    m(x) = prod_a exp(-0.5 ((x_a - mean_a) / sigma_a)^2), 0 where the kernel is cropped: a crop that
    cut the array would change its shape. Where the mean has not moved the two crops are one.

    Attributes:
      crop: "released": the kernel stays centred and loses, on both sides of an axis alike, what
        lies further out than any factor above the threshold; a causal one loses what lies before
        the first. "threshold": every factor below the threshold is 0, as the paper says.
      is_causal: the last coordinate is the token itself.
      sigma: at the start.
      mean: at the start: 0, or 1 for causal kernels.
      learn_mean: whether it moves; it does in FlexConv's code, by default not in CCNN's.
      threshold: 0 keeps everything.

    Reference: flexconv
    """

    sigma: float = 0.075
    mean: float = 0.0
    learn_mean: bool = True
    threshold: float = 0.1
    crop: str = "released"
    is_causal: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, coordinates: Float[Array, "*L A"]):
        """(factors [*L, 1], the highest frequency that they add)."""
        dtype, dims = at_least_float32(self.dtype), coordinates.shape[-1]

        def get(name, value):
            init = partitioned(nn.initializers.constant(value), (None,))
            return self.param(name, init, (dims,), self.param_dtype).astype(dtype)

        sigma = get("sigma", self.sigma)
        mean = get("mean", self.mean) if self.learn_mean else jnp.full((dims,), self.mean, dtype)
        x = coordinates.reshape(-1, dims).astype(dtype)
        factors = jnp.exp(-0.5 * ((x - mean[None]) / sigma[None]) ** 2)
        if self.crop not in CROPS:
            raise UserError(f"crop={self.crop!r} is not one of {', '.join(CROPS)}")
        if self.crop == "threshold":
            kept = factors >= self.threshold
        elif self.threshold > 0:
            reach = jnp.abs(sigma) * np.sqrt(max(-2 * np.log(self.threshold), 0))
            first, last = mean - reach, mean + reach
            if self.is_causal:
                kept = (x > first[None]) | (jnp.abs(first) >= 1)[None]
            else:
                furthest = jnp.maximum(jnp.abs(first), jnp.abs(last))
                kept = (jnp.abs(x) < furthest[None]) | (furthest >= 1)[None]
        else:
            kept = jnp.ones_like(factors, bool)
        factors = jnp.where(kept, factors, jnp.zeros((), dtype))
        mask = jnp.prod(factors, axis=-1).reshape(*coordinates.shape[:-1], 1)
        return mask, DEVIATIONS / (2 * np.pi * jnp.min(jnp.abs(sigma)))


def nyquist_penalty(frequencies: Float[Array, " L"], taps: int, mask_frequency=0.0):
    """What the filters of a Magnet exceed the Nyquist frequency of a kernel of `taps` by, squared.

    Each of the L filters may have an L-th of (taps - 1) / 4 periods per unit, half of its samples;
    the mask's own frequency is shared out among them. As in the released code a filter's frequency
    is the largest of |V| / 2 pi + 2 gamma / 2 pi, unit by unit and axis by axis: two deviations, as
    the released commands say (the code's own default is one).

    Reference: flexconv
    """
    count = len(frequencies)
    excess = frequencies + mask_frequency / count - (taps - 1) / 4 / count
    return jnp.sum(jax.nn.relu(excess) ** 2)


KERNELS: dict[str, type[nn.Module]] = {"siren": Siren, "magnet": Magnet, "points": MovingPoints}


class SampledKernel(nn.Module):
    """A generator at given coordinates, under a mask, with the penalty of its frequencies.

    Attributes:
      features: channels of the kernel.
      generator: a name of KERNELS. generator_options: fields of its module.
      mask: multiply by a GaussianMask. mask_options: its fields.
      nyquist: weight of nyquist_penalty, sown into "losses"; of generator "magnet" alone.
      resolution: sampling rate over that of training; values are divided by it per axis.
      fan_in: channels that are summed with the taps.
    """

    features: int
    generator: str = "siren"
    generator_options: Mapping[str, Any] | None = None
    mask: bool = False
    mask_options: Mapping[str, Any] | None = None
    nyquist: float = 0.0
    resolution: float = 1.0
    fan_in: int = 1
    is_causal: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, coordinates, sizes: tuple[int, ...]) -> Float[Array, "*L D"]:
        """The kernel, of sizes[a] taps along axis a (coordinates may be fewer)."""
        if self.generator not in KERNELS:
            raise UserError(f"generator={self.generator!r}; {suggest(self.generator, KERNELS)}")
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        coordinates = jnp.asarray(coordinates, at_least_float32(self.dtype))
        # the mask starts no narrower than one tap
        sigma = max(GaussianMask.sigma, 2 / max(sizes))
        mask_fields = {"mean": 1.0 if self.is_causal else 0.0, "sigma": sigma}
        mask_fields["is_causal"] = self.is_causal
        mask_fields.update(self.mask_options or {})
        fields: dict[str, Any] = {}
        if self.generator == "points":
            fields = {"is_causal": self.is_causal, "radius": min(1.0, 4 / max(sizes))}
        else:
            # sums of all taps and channels keep the variance
            fields["output_scale"] = float(self.fan_in * np.prod(sizes)) ** -0.5
        if self.generator == "magnet":
            fields["is_causal"] = self.is_causal
            if self.mask:
                # the released codes start the filters where the mask leaves something
                fields["radius"] = min(1.0, 1.667 * mask_fields["sigma"])
        fields.update(self.generator_options or {})
        generator = KERNELS[self.generator](self.features, name=self.generator, **fields, **dtypes)
        kernel, frequencies = generator(coordinates)
        mask_frequency = 0.0
        if self.mask:
            mask = GaussianMask(name="mask", **mask_fields, **dtypes)
            factors, mask_frequency = mask(coordinates)
            kernel = kernel * factors
        if self.nyquist:
            if frequencies is None:
                raise UserError(f"nyquist={self.nyquist}: only generator='magnet' has frequencies")
            penalty = nyquist_penalty(frequencies, max(sizes), mask_frequency)
            self.sow("losses", "nyquist", self.nyquist * penalty)
        return kernel * self.resolution ** -coordinates.shape[-1]


def past_coordinates(lags: int, length: int) -> np.ndarray:
    """[lags, 1]: 1 for the token itself, -1 for the one length - 1 before."""
    return (1 - 2 * np.arange(lags) / max(length - 1, 1))[:, None]


def centred_coordinates(
    grid: Sequence[int], kernel_size: int | None, resolution: float = 1.0
) -> tuple[np.ndarray, tuple[int, ...]]:
    """Offsets [*L, A] in [-1, 1] of those taps that meet something, and the taps of each axis.

    `kernel_size` None reaches over the grid: an offset of one of its sides is 1.
    """
    axes, sizes = [], []
    for side in grid:
        half = side - 1
        if kernel_size is not None:
            half = round((kernel_size - 1) / 2 * resolution)
        reach = min(half, side - 1)
        axes.append(np.arange(-reach, reach + 1) / max(half, 1))
        sizes.append(2 * half + 1)
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1), tuple(sizes)


def _uniform(bound: float):
    def init(key, shape, dtype):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def _scaled(start, factor: float):
    """Uniform within +- factor * start, number by number."""

    def init(key, shape, dtype):
        return jax.random.uniform(key, shape, dtype, -1.0, 1.0) * (float(factor) * start).astype(
            dtype
        )

    return init


def _constant(value):
    return lambda key, shape, dtype: value.astype(dtype)


def _norms(kernel):
    """The length of each output's row of weights."""
    return jnp.sqrt(jnp.sum(jnp.square(kernel), axis=0))
