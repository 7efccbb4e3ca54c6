"""An MLP of experts: every token chooses a few of many, which a mesh may spread over its devices.

Attention and experts may map the same devices differently. The logical axis `expert` of parameters
and activations says which mesh axes split the experts; tokens travel there and back by all-to-all.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax import ops
from scanmax.models.layers import (
    Dense,
    activation,
    constrain,
    normal_init,
    partitioned,
    zeros_init,
)
from scanmax.models.statistics import at_least_float32


class ExpertMlp(nn.Module):
    """y_t = sum_e g_te MLP_e(x_t), where g_t weighs the top_k experts of the token.

    In training it sows its losses, weighed, into the collection "losses", which the trainer adds to
    the loss and logs: `load_balance` (Switch, GShard: experts times the sum over experts of their
    mean probability times their share of the choices; 1 at balance) and `router_z` (ST-MoE: the
    mean square of the router's log-sum-exp). The trainer sums over layers. `dropped`, the share of
    choices that found no room, goes into the collection "metrics", of which it logs the mean.

    Attributes:
      hidden: width of each expert.
      num_experts: how many there are.
      top_k: how many a token chooses.
      capacity_factor: in training an expert has room for this many times its even share of a
        sequence's choices, rounded up; what comes later in the sequence is dropped, and the
        residual stream alone carries it. None gives room for the whole sequence: nothing is
        dropped, at num_experts / top_k times the computing.
      eval_capacity_factor: the same outside of training. With None, generation token by token gives
        what the whole sequence does.
      normalize: whether a token's gates sum to one; None is where top_k > 1, for a single gate of
        one would teach the router nothing.
      balance_weight: of the load-balance loss.
      z_weight: of the router's z-loss.
    """

    hidden: int
    num_experts: int
    top_k: int = 2
    capacity_factor: float | None = 1.25
    eval_capacity_factor: float | None = None
    normalize: bool | None = None
    balance_weight: float = 0.01
    z_weight: float = 0.001
    activation: str = "gelu"
    gated: bool = False
    use_bias: bool = True
    dropout_rate: float = 0.0
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"], train: bool = False) -> Float[Array, "B T D"]:
        length, dim = x.shape[1:]
        # Where experts lie over devices that hold the same tokens, each takes a part of them.
        x = constrain(x, ("routed_batch", None, None))
        logits = Dense(
            self.num_experts,
            ("embed", None),
            use_bias=False,
            dtype=at_least_float32(self.dtype),
            param_dtype=self.param_dtype,
            name="router",
        )(x)
        capacity = self.capacity(length, train)
        gates = ops.expert_gates(
            logits,
            top_k=self.top_k,
            capacity=capacity,
            normalize=self.top_k > 1 if self.normalize is None else self.normalize,
        )
        if train and not self.is_initializing():
            self.sow_losses(logits, gates)
        y = ops.dispatch_to_experts(x.astype(self.dtype), gates, capacity=capacity)
        y = constrain(y, ("routed_batch", None, None, None))
        # [B, E, C, D]: from tokens split to experts split.
        y = constrain(y, ("expert_batch", "expert", None, None))
        y = self.experts(y, dim, train)
        y = constrain(y, ("expert_batch", "expert", None, None))
        y = constrain(y, ("routed_batch", None, None, None))
        y = ops.combine_experts(y, gates, top_k=self.top_k)
        y = constrain(y, ("routed_batch", None, None))
        y = constrain(y, ("batch", "length", None))
        return nn.Dropout(self.dropout_rate, deterministic=not train)(y)

    @nn.nowrap
    def capacity(self, length: int, train: bool) -> int:
        """How many tokens of a sequence an expert has room for."""
        if not 1 <= self.top_k <= self.num_experts:
            raise ValueError(
                f"top_k={self.top_k} of num_experts={self.num_experts}: expected 1 to "
                f"{self.num_experts}."
            )
        factor = self.capacity_factor if train else self.eval_capacity_factor
        if factor is None:
            return length
        if factor <= 0:
            raise ValueError(f"capacity_factor={factor}: expected more than 0, or None.")
        return min(length, math.ceil(factor * self.top_k * length / self.num_experts))

    @nn.nowrap
    def experts(self, x: Float[Array, "B E C D"], dim: int, train: bool):
        """Each expert's MLP on its own tokens."""

        def dense(x, features, axes, name):
            shape = (self.num_experts, x.shape[-1], features)
            init = partitioned(normal_init, ("expert", *axes), (-2,), (-1,))
            kernel = self.param(f"{name}_kernel", init, shape, self.param_dtype)
            y = jnp.einsum("becd,edf->becf", x, kernel.astype(self.dtype))
            if self.use_bias:
                init = partitioned(zeros_init, ("expert", axes[1]))
                bias = self.param(f"{name}_bias", init, (shape[0], features), self.param_dtype)
                y = y + bias.astype(self.dtype)[None, :, None]
            return y

        act = activation(self.activation)
        hidden = dense(x, self.hidden, ("embed", "mlp"), "fc1")
        if self.gated:
            hidden = act(dense(x, self.hidden, ("embed", "mlp"), "gate")) * hidden
        else:
            hidden = act(hidden)
        hidden = constrain(hidden, ("expert_batch", "expert", None, "mlp"))
        hidden = nn.Dropout(self.dropout_rate, deterministic=not train)(hidden)
        return dense(hidden, dim, ("mlp", "embed"), "fc2")

    @nn.nowrap
    def sow_losses(self, logits: Float[Array, "B T E"], gates: Float[Array, "B T E"]) -> None:
        """Sows both losses and the share of choices that were dropped."""
        balance = ops.head_load_balance(logits, top_k=self.top_k) / self.top_k
        z = jnp.mean(jnp.square(jax.nn.logsumexp(logits, axis=-1)))
        self.sow("losses", "load_balance", self.balance_weight * balance)
        self.sow("losses", "router_z", self.z_weight * z)
        kept = jnp.mean(jnp.sum((gates != 0).astype(logits.dtype), -1))
        self.sow("metrics", "dropped", 1 - kept / self.top_k)
