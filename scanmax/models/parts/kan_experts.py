"""Experts of examples: each image goes to a few of many layers, chosen by its mean."""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax import ops
from scanmax.errors import UserError
from scanmax.models.layers import Dense, zeros_init
from scanmax.models.statistics import at_least_float32


class RoutedExamples(nn.Module):
    """y_b = sum_e g_be layer_e(x_b), g_b the top_k softmax probabilities of the mean of z_b.

    In training noise of a learned size is added to the logits, and a loss is sown into "losses":
    `load_balance`, the squared variation of the experts' gates and, with noise, of their load. All
    layers are one, with the experts as the first axis of its parameters. For the load the authors'
    code compares noisy logits with probabilities; here it is with logits, as sparsely-gated-moe has
    it. Noise of a dropout_rate is added to the layer's input, there to the functions' values.

    Attributes:
      layer: makes the layer of a name.
      whole: the layer takes `train`, and experts start alike; else it is functions alone.
      num_experts, top_k: how many there are, and how many an example goes to.
      noisy: there is noise.
      balance_weight: of the loss.
      capacity_factor: an expert has room for this times its even share of a batch, and examples
        beyond are left out; None has room for all, as released, and computes as much.

    Reference: kan-conv, sparsely-gated-moe
    """

    layer: Callable[[str], nn.Module]
    whole: bool = False
    num_experts: int = 8
    top_k: int = 2
    noisy: bool = True
    balance_weight: float = 0.01
    capacity_factor: float | None = None
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B ... C"],
        z: Float[Array, "B ... D"],
        train: bool = False,
    ) -> Float[Array, "B ... F"]:
        count, experts = len(x), self.num_experts
        if not 1 <= self.top_k <= experts:
            raise UserError(f"top_k={self.top_k}; expected 1 to num_experts={experts}.")
        capacity = count
        if self.capacity_factor is not None:
            room = self.capacity_factor * self.top_k * count / experts
            capacity = min(count, max(1, math.ceil(room)))
        gates = self.gates(jnp.mean(z, tuple(range(1, z.ndim - 1))), capacity, train)
        flat = jax.lax.collapse(x.astype(self.dtype), 1)
        each = ops.dispatch_to_experts(flat, gates.astype(self.dtype), capacity=capacity)
        # Empty places repeat an example: a layer that reads its whole batch sees no zeros.
        taken = jnp.sum((gates != 0).astype(jnp.int32), 0)[:, None, None]
        filled = jnp.arange(capacity)[None, :, None] < taken
        each = jnp.where(filled, each, each[:, :1]).reshape(experts, capacity, *x.shape[1:])
        apply = nn.vmap(
            lambda layer, x: layer(x, train) if self.whole else layer(x),
            variable_axes={"params": 0, "batch_stats": 0},
            split_rngs={"params": not self.whole, "dropout": True},
            metadata_params={nn.PARTITION_NAME: "expert"},
        )
        y = apply(self.layer("experts"), each)
        mixed = ops.combine_experts(jax.lax.collapse(y, 2), gates.astype(y.dtype), top_k=self.top_k)
        return mixed.reshape(count, *y.shape[2:])

    @nn.nowrap
    def gates(self, means: Float[Array, "B D"], capacity: int, train: bool) -> Float[Array, "B E"]:
        """What each expert counts for each example."""
        dtype = at_least_float32(self.dtype)

        def dense(name: str) -> Float[Array, "B E"]:
            fields = {"use_bias": False, "kernel_init": zeros_init, "dtype": dtype}
            fields |= {"param_dtype": self.param_dtype, "name": name}
            return Dense(self.num_experts, ("embed", None), **fields)(means.astype(dtype))

        logits, noise = dense("router"), None
        if self.noisy:
            sizes = dense("router_noise")
            if train and not self.is_initializing():
                drawn = jax.random.normal(self.make_rng("dropout"), logits.shape, dtype)
                noise = (sizes, drawn)
        told = logits if noise is None else ops.noisy_logits(logits, *noise)
        p = ops.expert_gates(told, top_k=self.top_k, normalize=False)
        p = p / (jnp.sum(p, -1, keepdims=True) + 1e-6)
        if train and not self.is_initializing() and self.num_experts > 1:
            balance = ops.squared_variation(jnp.sum(p, 0))
            if noise is not None:
                load = ops.expert_load(logits, *noise, top_k=self.top_k)
                balance += ops.squared_variation(jnp.sum(load, 0))
            # Of the unbiased variance, as torch has it.
            balance *= self.num_experts / (self.num_experts - 1)
            self.sow("losses", "load_balance", self.balance_weight * balance)
        if capacity < len(p):
            places = jnp.cumsum((p != 0).astype(jnp.int32), 0, dtype=jnp.int32)
            p = jnp.where(places <= capacity, p, jnp.zeros_like(p))
        return p
