"""Long convolutions over the tokens in a row: explicit, multi-scale and implicit, plain and gated.

Causal they read the past; otherwise the tokens, prefix first and then the grid row by row, are
convolved with one filter for the tokens before and one for those after, so that the same parameters
serve every grid.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from scanmax import ops
from scanmax.errors import UserError
from scanmax.models.layers import (
    Dense,
    activation,
    fan_in_uniform,
    gelu,
    partitioned,
)
from scanmax.models.mixers.base import Mixer, filter_past
from scanmax.models.parts.kernels import ImplicitFilter
from scanmax.models.statistics import at_least_float32
from scanmax.ops.contract import spread
from scanmax.ops.segments import same_segment

KERNEL_INITS = ("random", "geometric")


class LongConvolution(Mixer):
    """What mixers share that convolve every channel with a filter of its own over all tokens.

    `heads` only groups the channels of the sown matrices: that of a head is the mean over its
    channels. Generation keeps the tokens read so far (`ops.long_conv_step`): the state grows with
    the length it is made for, and a token costs as much as the cache is long.
    """

    packs: ClassVar[bool] = True

    @property
    def dtypes(self) -> dict[str, Any]:
        """Dtypes that every layer takes."""
        return {"dtype": self.dtype, "param_dtype": self.param_dtype}

    @property
    def ways(self) -> int:
        """Filters per channel: one for the past, another for what follows."""
        return 1 if self.is_causal else 2

    @nn.nowrap
    def dense(self, features: int, axes, name: str) -> Dense:
        """A linear map that starts as torch's does."""
        return Dense(
            features,
            axes,
            use_bias=self.use_bias,
            kernel_init=fan_in_uniform(),
            name=name,
            **self.dtypes,
        )

    @nn.nowrap
    def skip(self, dim: int) -> Array:
        """The weight of the token itself, drawn from a normal distribution."""
        init = partitioned(nn.initializers.normal(1.0), ("embed",))
        value = self.param("skip", init, (dim,), self.param_dtype)
        return value.astype(at_least_float32(self.dtype))

    @nn.nowrap
    def convolve(
        self,
        x,
        filters: Callable[[int], Array],
        skip=None,
        state=None,
        gates=None,
        segment_ids=None,
    ):
        """(y, next state) of x [B, T, D]; filters(n) gives the weights of n lags, [n, ways D].

        `gates` (query, key) multiply what comes out and has gone in: of the sown matrix alone.
        """
        packed = self.packed(segment_ids, state)
        tokens = x.shape[1]
        lags = tokens if state is None else state.shape[1] + 1
        kernel = filters(lags)
        if not self.is_causal:
            before, after = jnp.split(kernel, 2, axis=1)
            kernel = jnp.concatenate([jnp.flip(after[: lags - 1], 0), before])
        mode = "causal" if self.is_causal else "bidirectional"
        if state is None:

            def matrix():
                matrix = ops.long_conv_matrix(kernel, skip, size=tokens, mode=mode)
                matrix = self.by_heads(matrix, x.shape[0], gates)
                if segment_ids is None:
                    return matrix
                return jnp.where(same_segment(segment_ids)[:, None], matrix, 0)

            self.sow_attention(tokens, matrix)
            return ops.fft_conv(x, kernel, skip, mode=mode, **packed), None
        if tokens == 1:
            y, state = ops.long_conv_step(state, x[:, 0], kernel, skip)
            return y[:, None], state
        return ops.fft_conv(x, kernel, skip, initial_state=state, return_state=True, **packed)

    @nn.nowrap
    def by_heads(self, matrix: Float[Array, "D T T"], batch: int, gates=None):
        """[B, H, T, T]: the mean over the channels of each head."""
        tokens, width = matrix.shape[-1], self.head_dim(len(matrix))
        matrix = matrix.reshape(self.heads, width, tokens, tokens)
        if gates is None:
            shape = (batch, self.heads, tokens, tokens)
            return jnp.broadcast_to(matrix.mean(1)[None], shape)
        query, key = (
            gate.reshape(batch, tokens, self.heads, width).astype(matrix.dtype) for gate in gates
        )
        return jnp.einsum("bthc,hcts,bshc->bhts", query, matrix, key) / width

    @nn.nowrap
    def cache(self, batch_size: int, length: int, dim: int) -> Array:
        return jnp.zeros((batch_size, length - 1, dim), self.dtype)

    @nn.nowrap
    def init_state(self, batch_size: int, length: int, dim: int) -> Any:
        return self.cache(batch_size, length, dim)


class LongConv(LongConvolution):
    """Long convolution with an explicit kernel, squashed and smoothed, in the block of S4.

    y = GLU(W gelu(x * k + D x)), with k = squash(smooth(kernel)); the layout of the released code.

    Attributes:
      max_length: taps of the kernel; tokens further away are not read.
      squash: threshold of the weights, `ops.squash_kernel`; 0 leaves it out. Public material has
        values of 1e-3 to 3e-3, by task; none is settled as the default.
      smooth: width of the moving average, `ops.smooth_kernel`; 1 leaves it out.
      kernel_dropout: rate at which taps are dropped in training.
      kernel_init: "random" (deviation 0.002) or "geometric", exp(-(j / L) (D / 2)^(d / D)) times
        noise of deviation 0.02.
    """

    formula: ClassVar[str] = "y = GLU(W gelu(sum_s k_s x_(t-s) + D x_t)),  k = squash(smooth(w))"
    cost: ClassVar[str] = "T log T"
    causal_form: ClassVar[bool] = True
    papers: ClassVar[tuple[str, ...]] = ("long-conv-flashbutterfly",)

    max_length: int = 1024
    squash: float = 1e-3
    smooth: int = 1
    kernel_dropout: float = 0.0
    kernel_init: str = "geometric"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        grid: tuple[int, int] | None = None,
        train: bool = False,
        state: Any = None,
        segment_ids: Int[Array, "B T"] | None = None,
    ):
        if self.kernel_init not in KERNEL_INITS:
            raise UserError(f"kernel_init={self.kernel_init!r} is not one of {KERNEL_INITS}")
        dim = x.shape[-1]
        shape = (self.max_length, self.ways * dim)
        init = partitioned(_kernel_init(self.kernel_init, dim), (None, "embed"), inputs=(-2,))
        kernel = self.param("kernel", init, shape, self.param_dtype)
        kernel = kernel.astype(at_least_float32(self.dtype))
        if self.smooth > 1:
            kernel = ops.smooth_kernel(kernel, width=self.smooth)
        if self.squash:
            kernel = ops.squash_kernel(kernel, self.squash)
        kernel = nn.Dropout(self.kernel_dropout, deterministic=not train)(kernel)

        def filters(lags):
            return jnp.pad(kernel[:lags], ((0, max(lags - len(kernel), 0)), (0, 0)))

        y, new = self.convolve(
            x.astype(self.dtype), filters, self.skip(dim), state, segment_ids=segment_ids
        )
        y = self.dense(2 * dim, ("embed", "mlp"), "out")(gelu(y))
        y, gate = jnp.split(y, 2, axis=-1)
        y = y * jax.nn.sigmoid(gate)
        return y if state is None else (y, new)


def _kernel_init(kind: str, dim: int):
    def init(key, shape, dtype):
        noise = jax.random.normal(key, shape, dtype)
        if kind == "random":
            return 0.002 * noise
        lag = np.arange(shape[0])[:, None] / shape[0]
        rate = float(max(dim // 2, 1)) ** (np.arange(shape[1]) % dim / dim)
        return noise * jnp.asarray(0.02 * np.exp(-lag * rate[None]), dtype)

    return init


class SgConv(LongConvolution):
    """SGConv: a kernel of few numbers at growing scales, `ops.sgconv_kernel`.

    y = W gelu(x * k / Z + D x). Z, the norm of each channel's kernel when it was made, is kept in
    "batch_stats" and does not change, as in the released code.

    Attributes:
      kernel_dim: numbers per scale.
      max_length: taps that the scales reach at least; further tokens may not be read.
      decay: ratio of the weights of neighbouring scales; (lowest, highest) spreads it over the
        channels.
      arrangement, interpolation: as of `ops.sgconv_kernel`.
    """

    formula: ClassVar[str] = "y = W gelu(sum_s k_s x_(t-s) / Z + D x_t),  k = [2^(S-1-i) Up_i(w_i)]"
    cost: ClassVar[str] = "T log T"
    causal_form: ClassVar[bool] = True
    papers: ClassVar[tuple[str, ...]] = ("sgconv",)

    kernel_dim: int = 64
    max_length: int = 1024
    decay: float | tuple[float, float] = 2.0
    arrangement: str = "cat"
    interpolation: str = "linear"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        grid: tuple[int, int] | None = None,
        train: bool = False,
        state: Any = None,
        segment_ids: Int[Array, "B T"] | None = None,
    ):
        dim = x.shape[-1]
        scales = 1 + max(0, int(np.ceil(np.log2(self.max_length / self.kernel_dim))))
        shape = (scales, self.kernel_dim, self.ways * dim)
        init = partitioned(nn.initializers.normal(1.0), (None, None, "embed"), inputs=(-3, -2))
        weights = self.param("kernel", init, shape, self.param_dtype)
        weights = weights.astype(at_least_float32(self.dtype))
        lowest, highest = (self.decay,) * 2 if isinstance(self.decay, float | int) else self.decay
        multiplier = np.tile(np.linspace(lowest, highest, dim), self.ways)
        multiplier = jnp.asarray(multiplier, weights.dtype)
        options = {"arrangement": self.arrangement, "interpolation": self.interpolation}

        def filters(lags):
            return ops.sgconv_kernel(weights, multiplier, length=lags, **options)

        def norm():
            longest = self.kernel_dim * 2 ** (scales - 1)
            return jnp.linalg.norm(filters(longest), axis=0)

        norm = self.variable("batch_stats", "kernel_norm", norm).value
        y, new = self.convolve(
            x.astype(self.dtype),
            lambda lags: filters(lags) / norm[None],
            self.skip(dim),
            state,
            segment_ids=segment_ids,
        )
        y = self.dense(dim, ("embed", "embed"), "out")(gelu(y))
        return y if state is None else (y, new)


class BaseConv(LongConvolution):
    """The gated convolution of Zoology: a linear gate times a filtered token.

    y = (W x + b) * (x * h + x) + x, as the released code has it: its implicit long filter adds the
    token itself, and the layer has a residual of its own. A short filter adds a bias instead. The
    printed formula is (W x + b1) * (x * h + b2): residual=False, and a short filter.

    Attributes:
      kernel_size: taps of a short filter; None is the implicit filter over all tokens.
      max_length: tokens over which the implicit filter's decays and waves are spread.
      activation: of gate and filtered tokens; None for none.
      residual: add x to the product.
    """

    formula: ClassVar[str] = "y_t = (W x_t + b) * sum_s h_s x_(t-s) + x_t"
    cost: ClassVar[str] = "T log T"
    causal_form: ClassVar[bool] = True
    papers: ClassVar[tuple[str, ...]] = ("zoology-mqar",)

    kernel_size: int | None = None
    max_length: int = 1024
    activation: str | None = None
    residual: bool = True

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        grid: tuple[int, int] | None = None,
        train: bool = False,
        state: Any = None,
        segment_ids: Int[Array, "B T"] | None = None,
    ):
        x = x.astype(self.dtype)
        gate = self.dense(x.shape[-1], ("embed", "embed"), "projection")(x)
        y, new = self.filtered(x, gate, state, segment_ids)
        if self.activation is not None:
            act = activation(self.activation)
            gate, y = act(gate), act(y)
        y = gate * y
        if self.residual:
            y = y + x
        return y if state is None else (y, new)

    @nn.nowrap
    def filtered(self, x, gate, state, segment_ids=None):
        dim = x.shape[-1]
        gates = (gate, jnp.ones_like(x))
        if self.kernel_size is not None:
            return short_filter(self, x, self.kernel_size, state, segment_ids)
        filters = ImplicitFilter(
            self.ways * dim, self.ways, max_length=self.max_length, name="filter", **self.dtypes
        )
        itself = jnp.ones(dim, at_least_float32(self.dtype))
        return self.convolve(x, filters, itself, state, gates, segment_ids)

    @nn.nowrap
    def init_state(self, batch_size: int, length: int, dim: int) -> Any:
        return self.cache(batch_size, self.kernel_size or length, dim)


class Hyena(LongConvolution):
    """Hyena of order 2: values gated, filtered by an implicit long filter, gated again.

    y = W (q * (h * (k v) + D k v)), with q, k, v linear in the token and then in the last three.
    The filter is a small network with sine activations of the lag, decaying exponentially at a rate
    of each channel's own; its positions are constants (the released code trains them, at a rate of
    1e-5). The heads of the released code are not built.

    Attributes:
      max_length: tokens over which the filter's decays and waves are spread.
      filter_hidden, filter_layers, filter_frequency, filter_features: width and inner layers of the
        filter's network, initial frequency of its sines, and how many numbers it is given of the
        lag (odd: the lag, cosines and sines).
      conv_width: taps of the short convolution.
    """

    formula: ClassVar[str] = "y_t = W q_t * (sum_s h_s (k v)_(t-s) + D (k v)_t)"
    cost: ClassVar[str] = "T log T"
    causal_form: ClassVar[bool] = True
    papers: ClassVar[tuple[str, ...]] = ("laughing-hyena", "zoology-mqar")

    max_length: int = 1024
    filter_hidden: int = 64
    filter_layers: int = 2
    filter_frequency: float = 1.0
    filter_features: int = 3
    conv_width: int = 3

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        grid: tuple[int, int] | None = None,
        train: bool = False,
        state: Any = None,
        segment_ids: Int[Array, "B T"] | None = None,
    ):
        dim = x.shape[-1]
        given = {"short": None, "long": None} if state is None else state
        qkv = self.dense(3 * dim, ("embed", "mlp"), "in_proj")(x)
        qkv, short = short_filter(self, qkv, self.conv_width, given["short"], segment_ids)
        query, key, value = jnp.split(qkv, 3, axis=-1)
        filters = ImplicitFilter(
            self.ways * dim,
            self.ways,
            hidden=self.filter_hidden,
            layers=self.filter_layers,
            frequency=self.filter_frequency,
            position_features=self.filter_features,
            max_length=self.max_length,
            name="filter",
            **self.dtypes,
        )
        y, long = self.convolve(
            key * value, filters, self.skip(dim), given["long"], (query, key), segment_ids
        )
        y = self.dense(dim, ("mlp", "embed"), "out_proj")(query * y)
        return y if state is None else (y, {"short": short, "long": long})

    @nn.nowrap
    def init_state(self, batch_size: int, length: int, dim: int) -> Any:
        return {
            "short": self.cache(batch_size, self.conv_width, 3 * dim),
            "long": self.cache(batch_size, length, dim),
        }


def short_filter(mixer: Mixer, x: Float[Array, "B T D"], width: int, state=None, segment_ids=None):
    """(depthwise convolution over a few tokens plus bias, next state); centred if not causal."""
    init, dtype = fan_in_uniform(fan_in=width), mixer.dtype
    shape = (width, x.shape[-1])
    kernel = mixer.param(
        "conv_kernel", partitioned(init, (None, "mlp"), (-2,)), shape, mixer.param_dtype
    ).astype(dtype)
    bias = mixer.param(
        "conv_bias", partitioned(init, ("mlp",)), shape[1:], mixer.param_dtype
    ).astype(dtype)
    packed = mixer.packed(segment_ids, state)
    if mixer.is_causal:
        return filter_past(x, kernel, bias, state, **packed)
    y = ops.fft_conv(x, jnp.flip(kernel, 0), mode="bidirectional", form="direct")
    return y + spread(bias, y), None
