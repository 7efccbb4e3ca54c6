"""Mixers of the delta rule: DeltaNet and gated DeltaNet.

Causal, they are the published mixers, with a state of fixed size. On images the recurrence runs
over the rows in both directions with shared parameters. Prefix tokens stand before the grid: the
forward run carries them to every patch, the backward run reaches them last, after every patch.
"""

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from scanmax import ops
from scanmax.models.layers import fan_in_uniform, partitioned
from scanmax.models.mixers.base import filter_past
from scanmax.models.mixers.scan.recurrent import Recurrent
from scanmax.models.mixers.scan.ssd import rate_init, step_init
from scanmax.models.statistics import at_least_float32
from scanmax.ops.contract import spread


class Delta(Recurrent):
    """DeltaNet: the delta rule behind short convolutions, with keys and queries of norm one.

        S_t = (I - beta_t k_t k_t^T) S_{t-1} + beta_t k_t (x) v_t,    beta_t = sigmoid(W x_t)
        y = out(rms(delta_rule(q / sqrt K, k, v, beta)))

    with q, k, v = silu(conv(W x)), q and k divided by their norm. As released, the output norm has
    one scale for all heads and there is no gate. On images the convolution is 3x3 over the grid,
    which prefix tokens pass by, and the rule runs in both directions.

    Attributes:
      key_factor, value_factor: widths of keys and values over the model's.
      conv_width: taps of the causal convolution.
      negative: beta in (0, 2), with which a state may turn over, instead of (0, 1).
      implementation: the backend of whole sequences, "xla" or "pallas", as of
        `ops.delta_rule`; None is "xla".
    """

    formula: ClassVar[str] = "S_t = (I - b_t k_t k_t^T) S_(t-1) + b_t k_t (x) v_t,  y_t = S_t^T q_t"
    cost: ClassVar[str] = "T"
    causal_form: ClassVar[bool] = True
    papers: ClassVar[tuple[str, ...]] = ("zoology-mqar",)

    key_factor: float = 1.0
    value_factor: float = 1.0
    conv_width: int = 4
    negative: bool = False
    implementation: str | None = None

    @nn.nowrap
    def widths(self, dim: int) -> tuple[int, int]:
        return self.expanded(dim, self.key_factor), self.expanded(dim, self.value_factor)

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        grid: tuple[int, int] | None = None,
        train: bool = False,
        state: Any = None,
        segment_ids: Int[Array, "B T"] | None = None,
    ):
        (width, value_width), dim = self.widths(x.shape[-1]), x.shape[-1]
        grid = self.grid_or_line(x, grid)
        packed = self.packed(segment_ids, state)
        conv, memory = (None, None) if state is None else (state["conv"], state["memory"])
        parts = [
            self.heads_of(x, name, size)
            for name, size in (("query", width), ("key", width), ("value", value_width))
        ]
        parts = jnp.concatenate([jax.lax.collapse(part, 2) for part in parts], -1)
        parts, conv = self.filtered(parts, grid, conv, packed)
        keys = self.heads * width
        query, key, value = (
            part.reshape(*x.shape[:2], self.heads, part.shape[-1] // self.heads)
            for part in jnp.split(parts, (keys, 2 * keys), -1)
        )
        query, key = unit(query) * width**-0.5, unit(key)
        wide = at_least_float32(self.dtype)
        beta = self.dense(self.heads, ("embed", "heads"), "beta", use_bias=False)(x)
        beta = jax.nn.sigmoid(beta.astype(wide)) * (1 + self.negative)
        arrays = (query, key, value, beta)
        log_decay = self.log_decay(x)
        y, memory = self.rule(arrays, log_decay, memory, packed)
        y = self.out(self.normed(y, self.gate(x, value_width)), dim)
        return y if state is None else (y, {"conv": conv, "memory": memory})

    @nn.nowrap
    def log_decay(self, x):
        """[B, T, H]; None for the plain delta rule."""
        return None

    @nn.nowrap
    def gate(self, x, width: int):
        """[B, T, H, V], None for no gate."""
        return None

    @nn.nowrap
    def filtered(self, x, grid, state, packed):
        """silu(conv(x)) and the convolution's state."""
        size = (self.conv_width,) if self.is_causal else (3, 3, 1)
        axes, init = (*(None,) * len(size), "mlp"), fan_in_uniform(fan_in=int(np.prod(size)))
        init = partitioned(init, axes, range(-len(axes), -1))
        kernel = self.param("conv_kernel", init, (*size, x.shape[-1]), self.param_dtype)
        kernel = kernel.astype(self.dtype)
        if self.is_causal:
            return filter_past(x, kernel, None, state, activation="silu", **packed)
        prefix, tokens = jnp.split(x, [self.prefix_tokens], axis=1)
        maps = ops.depthwise_conv2d(tokens.reshape(x.shape[0], *grid, x.shape[-1]), kernel)
        return jax.nn.silu(jnp.concatenate([prefix, maps.reshape(tokens.shape)], 1)), None

    @nn.nowrap
    def rule(self, arrays, log_decay, memory, packed):
        """(y, state) of the delta rule."""
        query, key, _, beta = arrays
        length = query.shape[1]
        options = {"log_decay": log_decay, **packed}
        if not self.is_causal:
            options["is_causal"] = False
        self.sow_attention(length, lambda: ops.delta_rule_matrix(query, key, beta, **options))
        options["implementation"] = self.implementation
        if memory is None:
            return ops.delta_rule(*arrays, **options), None
        if length == 1:
            token = (x[:, 0] for x in arrays)
            decay = None if log_decay is None else log_decay[:, 0]
            y, memory = ops.delta_rule_step(memory, *token, log_decay=decay)
            return y[:, None], memory
        return ops.delta_rule(*arrays, **options, initial_state=memory, return_state=True)

    @nn.nowrap
    def init_state(self, batch_size: int, length: int, dim: int) -> dict[str, Array]:
        width, value_width = self.widths(dim)
        mixed = self.heads * (2 * width + value_width)
        return {
            "conv": jnp.zeros((batch_size, self.conv_width - 1, mixed), self.dtype),
            "memory": self.empty(batch_size, dim),
        }


class GatedDelta(Delta):
    """Gated DeltaNet: the delta rule on a state that decays by the token, and an output gate.

        S_t = a_t (I - beta_t k_t k_t^T) S_{t-1} + beta_t k_t (x) v_t,
        a_t = exp(-exp(A_log) softplus(W x_t + dt_bias)),    y = out(silu(g) * rms(S^T q / sqrt K))

    Like `Delta` otherwise. The decay starts as Mamba-2's does.
    """

    formula: ClassVar[str] = (
        "S_t = a_t (I - b_t k_t k_t^T) S_(t-1) + b_t k_t (x) v_t,  y_t = silu(g_t) rms(S_t^T q_t)"
    )

    key_factor: float = 0.75
    value_factor: float = 1.5

    @nn.nowrap
    def log_decay(self, x):
        dtype = at_least_float32(self.dtype)
        inits = {"A_log": rate_init(), "dt_bias": step_init()}
        rate, bias = (
            self.param(name, partitioned(init, ("heads",)), (self.heads,), self.param_dtype)
            for name, init in inits.items()
        )
        steps = self.dense(self.heads, ("embed", "heads"), "decay", use_bias=False)(x)
        steps = jax.nn.softplus(steps.astype(dtype) + spread(bias.astype(dtype), steps))
        return -spread(jnp.exp(rate.astype(dtype)), steps) * steps

    @nn.nowrap
    def gate(self, x, width: int):
        return self.heads_of(x, "gate", width)


def unit(x: Float[Array, "... K"], epsilon: float = 1e-6) -> Float[Array, "... K"]:
    """x divided by its norm."""
    wide = x.astype(at_least_float32(x.dtype))
    squares = jnp.sum(wide * wide, -1, keepdims=True)
    return (wide * jax.lax.rsqrt(squares + epsilon)).astype(x.dtype)
