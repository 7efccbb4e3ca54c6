"""Mixers of linear attention with a decay: RetNet and GLA.

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
from scanmax.models.mixers.linear.attention import attend
from scanmax.models.mixers.scan.recurrent import Recurrent
from scanmax.models.statistics import at_least_float32


class Decayed(Recurrent):
    """Linear attention with a decay, whole or from a state on.

    Attributes:
      implementation: the backend of whole sequences, "xla" or "pallas", as of
        `ops.linear_attention`; None is "xla".
    """

    implementation: str | None = None

    @nn.nowrap
    def linear(self, query, key, value, log_decay, state, packed):
        """(y, state) of the attention with these decays."""
        options = {"is_causal": self.is_causal, **packed}
        self.sow_attention(
            query.shape[1],
            lambda: ops.linear_attention_matrix(query, key, log_decay=log_decay, **options),
        )
        arrays = {"query": query, "key": key, "value": value, "log_decay": log_decay}
        return attend(
            ops.linear_attention,
            ops.linear_attention_step,
            arrays,
            state=state,
            implementation=self.implementation,
            **options,
        )


class Retention(Decayed):
    """Multi-scale retention of RetNet: rotary positions, a fixed decay per head, a gate.

        y = out(silu(g) * rms(retention(turn(q), turn(k / sqrt K), v))),  decay_h = 1 - 2^(-5 - h)

    The norm of each head is RMS without parameters, as released (the paper's group norm also
    subtracts the mean); it makes the released rescaling of the rows of retention superfluous, which
    is left out. Positions run along the sequence, on a grid over its rows, prefix tokens first.

    Attributes:
      value_factor: width of values and gate over the model's.
      rotary_base: base of the rotary positions; None leaves them out. Needs heads of even width.
      initial: the decays are 1 - 2^(-initial - h).
    """

    formula: ClassVar[str] = "y_t = silu(g_t) * rms(sum_(s<=t) (1 - 2^(-5-h))^(t-s) q_t . k_s v_s)"
    cost: ClassVar[str] = "T"
    causal_form: ClassVar[bool] = True
    papers: ClassVar[tuple[str, ...]] = ("rmt-masa",)

    value_factor: float = 2.0
    rotary_base: float | None = 10000.0
    initial: float = 5.0

    @nn.nowrap
    def widths(self, dim: int) -> tuple[int, int]:
        return self.head_dim(dim), self.expanded(dim, self.value_factor)

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
        self.grid_or_line(x, grid)
        query, key = (self.heads_of(x, name, width) for name in ("query", "key"))
        value, gate = (self.heads_of(x, name, value_width) for name in ("value", "gate"))
        start = 0 if state is None else state["position"]
        if self.rotary_base is not None:
            positions = None if state is None else start + jnp.arange(x.shape[1])
            turn = {"base": self.rotary_base, "layout": "interleaved", "endpoint": True}
            query, key = (ops.rotary(part, positions, **turn) for part in (query, key))
        log_decay = np.log1p(-(2.0 ** -(self.initial + np.arange(self.heads))))
        log_decay = jnp.asarray(log_decay, at_least_float32(self.dtype))
        y, memory = self.linear(
            query,
            key * width**-0.5,
            value,
            jnp.broadcast_to(log_decay, (*x.shape[:2], self.heads)),
            None if state is None else state["memory"],
            self.packed(segment_ids, state),
        )
        y = self.out(self.normed(y, gate, scaled=False), dim)
        return y if state is None else (y, {"memory": memory, "position": start + x.shape[1]})

    @nn.nowrap
    def init_state(self, batch_size: int, length: int, dim: int) -> dict[str, Array]:
        return {"memory": self.empty(batch_size, dim), "position": jnp.zeros((), jnp.int32)}


class Gla(Decayed):
    """Gated linear attention: a decay per key channel, from each token through a low rank.

        log_decay = log sigmoid(W2 W1 x + b) / temperature,
        y = out(silu(g) * rms(linear_attention(q / sqrt K, k, v, log_decay)))

    As released: keys half as wide as the model, one scale of the norm for all heads.

    Attributes:
      key_factor, value_factor: widths of keys and values over the model's.
      gate_rank: width between W1 and W2.
      temperature: divides the logarithm of the decay: larger remembers longer.
    """

    formula: ClassVar[str] = "S_t = diag(a_t) S_(t-1) + k_t (x) v_t,  a_t = sigmoid(W x_t)^(1/16)"
    cost: ClassVar[str] = "T"
    causal_form: ClassVar[bool] = True
    papers: ClassVar[tuple[str, ...]] = ("zoology-mqar",)

    key_factor: float = 0.5
    value_factor: float = 1.0
    gate_rank: int = 16
    temperature: float = 16.0

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
        self.grid_or_line(x, grid)
        query, key = (self.heads_of(x, name, width) for name in ("query", "key"))
        value, gate = (self.heads_of(x, name, value_width) for name in ("value", "gate"))
        rank = self.dense(self.gate_rank, ("embed", None), "decay_in", use_bias=False)(x)
        axes = (None, "heads", "kv")
        logits = self.dense((self.heads, width), axes, "decay_out", use_bias=True)(rank)
        log_decay = jax.nn.log_sigmoid(logits.astype(at_least_float32(self.dtype)))
        log_decay = log_decay / self.temperature
        packed = self.packed(segment_ids, state)
        y, state = self.linear(query * width**-0.5, key, value, log_decay, state, packed)
        y = self.out(self.normed(y, gate), dim)
        return y if state is None else (y, state)

    @nn.nowrap
    def init_state(self, batch_size: int, length: int, dim: int) -> Array:
        return self.empty(batch_size, dim)
