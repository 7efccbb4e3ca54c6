"""State-space mixers: the Mamba-2 mixer (causal or in both directions) and its non-causal dual."""

import functools
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from scanmax import ops
from scanmax.models.layers import (
    Dense,
    LayerNorm,
    fan_in_uniform,
    ones_init,
    partitioned,
)
from scanmax.models.mixers.base import Mixer, filter_past, splits_tokens
from scanmax.models.statistics import at_least_float32
from scanmax.ops.contract import spread


def rate_init(lowest: float = 1.0, highest: float = 16.0):
    """Initializer of A_log: -A uniform between the two."""

    def init(key, shape, dtype):
        return jnp.log(jax.random.uniform(key, shape, dtype, lowest, highest))

    return init


def step_init(lowest: float = 1e-3, highest: float = 1e-1, floor: float = 1e-4):
    """Initializer of dt_bias: softplus(dt_bias) log-uniform between the two."""

    def init(key, shape, dtype):
        bounds = np.log(lowest), np.log(highest)
        steps = jnp.exp(jax.random.uniform(key, shape, dtype, *bounds))
        steps = jnp.maximum(steps, floor)
        return steps + jnp.log(-jnp.expm1(-steps))

    return init


class _StateSpace(Mixer):
    """Projections and parameters that the state-space mixers share.

    Attributes:
      norm_epsilon: epsilon of the norm before the gate.
    """

    expand: float = 2.0
    state_size: int = 64
    groups: int = 1
    dt_limit: tuple[float, float] | None = None
    norm_epsilon: float = 1e-5

    @nn.nowrap
    def sizes(self, dim: int) -> tuple[int, int, int]:
        """(inner width, width of a head, width of B and C together with x)."""
        inner = int(self.expand * dim)
        return inner, self.head_dim(inner), inner + 2 * self.groups * self.state_size

    @nn.nowrap
    def project(self, x):
        """Gate z [B, T, inner], x B C together [B, T, inner + 2 G N], and dt [B, T, H]."""
        inner, _, mixed = self.sizes(x.shape[-1])
        proj = self.dense(inner + mixed + self.heads, ("embed", "mlp"), name="in_proj")(x)
        return jnp.split(proj, (inner, inner + mixed), axis=-1)

    @nn.nowrap
    def dense(self, features: int, axes, name: str) -> Dense:
        return Dense(
            features,
            axes,
            use_bias=self.use_bias,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name=name,
        )

    @nn.nowrap
    def heads_of(self, xbc: Float[Array, "B T C"]):
        """x [B, T, H, P] and B, C [B, T, G, N]."""
        states = self.groups * self.state_size
        x, B, C = jnp.split(xbc, (xbc.shape[-1] - 2 * states, xbc.shape[-1] - states), axis=-1)
        split = (*xbc.shape[:2], self.groups, self.state_size)
        x = x.reshape(*x.shape[:2], self.heads, x.shape[-1] // self.heads)
        return x, B.reshape(split), C.reshape(split)

    @nn.nowrap
    def rates(self) -> dict[str, Any]:
        """A, D and dt_bias of each head, in at least float32, and dt_limit: keywords of the ops."""
        if self.dt_limit is not None and not 0 <= self.dt_limit[0] <= self.dt_limit[1]:
            raise ValueError(f"dt_limit={self.dt_limit}; expected 0 <= lowest <= highest.")
        dtype = at_least_float32(self.dtype)
        inits = {"A_log": rate_init(), "D": ones_init, "dt_bias": step_init()}
        values = {
            name: self.param(
                name, partitioned(init, ("heads",)), (self.heads,), self.param_dtype
            ).astype(dtype)
            for name, init in inits.items()
        }
        return {"A": -jnp.exp(values.pop("A_log")), "dt_limit": self.dt_limit, **values}

    @nn.nowrap
    def filter(self, size: tuple[int, ...], channels: int) -> tuple[Array, Array]:
        """Kernel and bias of the short depthwise convolution."""
        init = fan_in_uniform(fan_in=int(np.prod(size)))
        axes, shape = (*(None,) * len(size), "mlp"), (*size, channels)
        taps = partitioned(init, axes, range(-len(shape), -1))
        kernel = self.param("conv_kernel", taps, shape, self.param_dtype)
        bias = self.param("conv_bias", partitioned(init, axes[-1:]), shape[-1:], self.param_dtype)
        return kernel.astype(self.dtype), bias.astype(self.dtype)

    @nn.nowrap
    def filter_grid(self, x: Float[Array, "B T C"], grid, size: int) -> Float[Array, "B T C"]:
        """Depthwise convolution over the grid and SiLU; prefix tokens meet only the bias."""
        kernel, bias = self.filter((size, size, 1), x.shape[-1])
        grid = self.grid_or_line(x, grid)
        prefix, tokens = x[:, : self.prefix_tokens], x[:, self.prefix_tokens :]
        maps = ops.depthwise_conv2d(tokens.reshape(x.shape[0], *grid, x.shape[-1]), kernel)
        y = jnp.concatenate([prefix, maps.reshape(tokens.shape)], axis=1)
        return jax.nn.silu(y + spread(bias, y))


class Ssd(_StateSpace):
    """The mixer of Mamba-2: gate, short convolution, state-space duality, gated RMS norm.

    Causal, it is the published mixer (convolution over the last `conv_width` tokens). On images the
    same scan runs forward and backward over the rows with shared parameters, each token counted
    once, behind a 3x3 depthwise convolution. Prefix tokens stand before the grid: the forward scan
    carries them to every patch, the backward scan reaches them last, after every patch.

    Attributes:
      expand: inner width over the model's; `heads` heads share it.
      state_size: N, width of the state of each channel.
      groups: groups of heads that share B and C.
      dt_limit: lowest and highest step size; None bounds it by the softplus alone.
      conv_width: taps of the causal convolution.
      implementation: the backend of whole sequences, "xla" or "pallas", as of `ops.ssd`; None is
        "xla".
    """

    formula: ClassVar[str] = (
        "S_t = exp(dt_t A) S_(t-1) + dt_t B_t (x) x_t,  y_t = S_t^T C_t + D x_t"
    )
    cost: ClassVar[str] = "T"
    causal_form: ClassVar[bool] = True
    papers: ClassVar[tuple[str, ...]] = ("mamba2-ssd",)

    packs: ClassVar[bool] = True

    conv_width: int = 4
    implementation: str | None = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        grid: tuple[int, int] | None = None,
        train: bool = False,
        state: Any = None,
        segment_ids: Int[Array, "B T"] | None = None,
    ):
        dim, inner = x.shape[-1], self.sizes(x.shape[-1])[0]
        gate, xbc, dt = self.project(x)
        rates = self.rates()
        if self.is_causal:
            y, state = self.scan_causal(xbc, dt, rates, state, self.packed(segment_ids, state))
        else:
            self.packed(segment_ids, state)
            y = self.scan_both(self.filter_grid(xbc, grid, 3), dt, rates, grid)
        y = y.reshape(*y.shape[:2], inner)
        scale = self.param(
            "norm_scale", partitioned(ones_init, ("mlp",)), (inner,), self.param_dtype
        )
        y = ops.gated_rms_norm(
            y, gate, scale.astype(self.dtype), epsilon=self.norm_epsilon, groups=self.groups
        )
        y = self.dense(dim, ("mlp", "embed"), name="out_proj")(y)
        return y if state is None else (y, state)

    @nn.nowrap
    def scan_causal(self, xbc, dt, rates, state, packed):
        kernel, bias = self.filter((self.conv_width,), xbc.shape[-1])
        conv, ssm = (None, None) if state is None else (state["conv"], state["ssm"])
        dt = dt.astype(rates["A"].dtype)
        xbc, conv = filter_past(xbc, kernel, bias, conv, activation="silu", **packed)
        x, B, C = self.heads_of(xbc)
        if state is not None and x.shape[1] == 1:
            x, dt, B, C = (part[:, 0] for part in (x, dt, B, C))
            y, ssm = ops.ssd_step(ssm, x, dt, B=B, C=C, dt_softplus=True, **rates)
            return y[:, None], {"conv": conv, "ssm": ssm}
        self.sow_attention(
            x.shape[1],
            lambda: ops.ssd_matrix(
                dt, B=B, C=C, dt_softplus=True, **{**rates, "D": None}, **packed
            ),
        )
        options = {"dt_softplus": True, "return_state": True, **rates, **packed}
        scan = functools.partial(ops.ssd, implementation=self.implementation)
        if splits_tokens() and not packed and self.implementation in (None, "xla"):
            scan = ops.context_ssd
        y, ssm = scan(x, dt, B=B, C=C, initial_state=ssm, **options)
        return y, None if state is None else {"conv": conv, "ssm": ssm}

    @nn.nowrap
    def scan_both(self, xbc, dt, rates, grid=None):
        # Rows one after another: the grid does not matter.
        x, B, C = self.heads_of(xbc)
        dt = dt.astype(rates["A"].dtype)
        options = {"B": B, "C": C, "dt_softplus": True, "is_causal": False}
        self.sow_attention(
            x.shape[1], lambda: ops.ssd_matrix(dt, **options, **{**rates, "D": None})
        )
        return ops.ssd(x, dt, implementation=self.implementation, **options, **rates)

    @nn.nowrap
    def init_state(self, batch_size: int, length: int, dim: int) -> dict[str, Array]:
        _, width, mixed = self.sizes(dim)
        shape = (batch_size, self.heads, self.state_size, width)
        return {
            "conv": jnp.zeros((batch_size, self.conv_width - 1, mixed), self.dtype),
            "ssm": jnp.zeros(shape, at_least_float32(self.dtype)),
        }


class NcSsd(_StateSpace):
    """The mixer of VSSD: one sum over all tokens, weighted by each token's own step size.

    A 3x3 depthwise convolution over the grid, non-causal state-space duality, LayerNorm, and a
    plain gate. Prefix tokens take part in the sum like any other.

    Attributes:
      expand: inner width over the model's; `heads` heads share it.
      state_size: N, width of the state of each channel.
      groups: groups of heads that share B and C.
      dt_limit: lowest and highest step size; None bounds it by the softplus alone.
      group_order: how heads fall into groups, as of `ops.nc_ssd`.
      conv_size: sides of the convolution's kernel.
    """

    formula: ClassVar[str] = "y_t = C_t^T sum_s -dt_s A B_s (x) x_s + D x_t,  A < 0"
    cost: ClassVar[str] = "T"
    papers: ClassVar[tuple[str, ...]] = ("vssd",)

    group_order: str = "blocks"
    conv_size: int = 3

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        grid: tuple[int, int] | None = None,
        train: bool = False,
    ) -> Float[Array, "B T D"]:
        if self.is_causal:
            raise ValueError("nc_ssd has no causal form: every token reads all tokens.")
        dim = x.shape[-1]
        gate, xbc, dt = self.project(x)
        rates = self.rates()
        xs, B, C = self.heads_of(self.filter_grid(xbc, grid, self.conv_size))
        dt = dt.astype(rates["A"].dtype)
        options = {"dt_softplus": True, "group_order": self.group_order}
        self.sow_attention(
            x.shape[1],
            lambda: ops.nc_ssd_matrix(dt, B=B, C=C, **options, **{**rates, "D": None}),
        )
        y = ops.nc_ssd(xs, dt, B=B, C=C, **options, **rates)
        norm = LayerNorm(
            self.norm_epsilon,
            axis="mlp",
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name="norm",
        )
        y = norm(y.reshape(gate.shape)) * gate
        return self.dense(dim, ("mlp", "embed"), name="out_proj")(y)
