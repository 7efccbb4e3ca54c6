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
from scanmax.errors import UserError, suggest
from scanmax.models.layers import (
    Dense,
    activation,
    constrain,
    normal_init,
    partitioned,
    zeros_init,
)
from scanmax.models.statistics import at_least_float32

ROUTERS = ("softmax", "noisy", "sigmoid", "sinkhorn")
BALANCES = ("switch", "entropy", "importance_load")


def equal_norms(key, shape, dtype=jnp.float32):
    """Normal numbers of standard deviation D^-1/2, of equal norm for each expert."""
    kernel = shape[0] ** -0.5 * jax.random.normal(key, shape, dtype)
    columns = kernel / jnp.linalg.norm(kernel, axis=0, keepdims=True)
    return columns * (jnp.std(kernel) / jnp.std(columns))


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
      router: what chooses experts, and what their gates are: "softmax", the largest probabilities;
        "noisy", the same of logits with normal noise of learned size in training (key "dropout"),
        from maps that start at zero (sparsely-gated-moe); "sigmoid", of each logit alone
        (sigma-moe-pkm); "sinkhorn", sigmoids too, but in training tokens choose by a plan that
        gives each expert its share of a sequence. Sigmoids do not sum to one by default.
      balance: the loss named `load_balance` in "losses": "switch", as above; "entropy", minus that
        of the mean probabilities, which is log(num_experts) less at balance (sigma-moe-pkm);
        "importance_load", the squared variation of the experts' summed gates and, with the noisy
        router, of their smooth load (sparsely-gated-moe).
      expert_dropout: share of experts that nobody may choose, drawn anew for each token in training
        as in the released sigma-MoE, which rescales nothing.
      dropless: evaluate by `ops.dropless_experts`, which sorts tokens by expert and drops nothing;
        capacity factors do not matter then. Experts are not split over devices by it.
      dense_start: weights that start as those of one MLP of all experts' channels would, of
        standard deviations D^-1/2 and (num_experts hidden)^-1/2, and a router whose columns have
        one norm (sigma-moe-pkm).
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
    router: str = "softmax"
    balance: str = "switch"
    expert_dropout: float = 0.0
    dropless: bool = False
    dense_start: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"], train: bool = False) -> Float[Array, "B T D"]:
        length, dim = x.shape[1:]
        self.check_fields()
        # Where experts lie over devices that hold the same tokens, each takes a part of them.
        x = constrain(x, ("routed_batch", None, None))
        logits, selection, noise = self.routed(x, train)
        capacity = None if self.dropless else self.capacity(length, train)
        soft = self.router in ("softmax", "noisy")
        gates = ops.expert_gates(
            logits if noise is None else ops.noisy_logits(logits, *noise),
            selection,
            top_k=self.top_k,
            capacity=capacity,
            normalize=soft and self.top_k > 1 if self.normalize is None else self.normalize,
            scores="softmax" if soft else "sigmoid",
        )
        if train and not self.is_initializing():
            self.sow_losses(logits, gates, noise)
        if self.dropless:
            y = self.dropless_experts(x.astype(self.dtype), gates, dim)
            y = constrain(y, ("batch", "length", None))
            return nn.Dropout(self.dropout_rate, deterministic=not train)(y)
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
    def check_fields(self) -> None:
        """Refuses names that are none, and what does not go together."""
        for name, choices in (("router", ROUTERS), ("balance", BALANCES)):
            if getattr(self, name) not in choices:
                raise UserError(
                    f"{name}={getattr(self, name)!r}; {suggest(getattr(self, name), choices)}"
                )
        if self.dropless and self.dropout_rate:
            raise UserError("dropless=True has no dropout within experts: set dropout_rate=0")
        self.capacity(1, False)

    @nn.nowrap
    def routed(self, x: Float[Array, "B T D"], train: bool):
        """Logits, what chooses experts in their place, and the noise and the logits of its size."""

        def dense(name, init):
            return Dense(
                self.num_experts,
                ("embed", None),
                use_bias=False,
                kernel_init=init,
                dtype=at_least_float32(self.dtype),
                param_dtype=self.param_dtype,
                name=name,
            )(x)

        start = normal_init if self.router != "noisy" else zeros_init
        logits = dense("router", equal_norms if self.dense_start else start)
        noise = selection = None
        if self.router == "noisy":
            sizes = dense("router_noise", zeros_init)
            if train and not self.is_initializing():
                drawn = jax.random.normal(self.make_rng("dropout"), logits.shape, logits.dtype)
                noise = (sizes, drawn)
        chosen_by = logits if noise is None else ops.noisy_logits(logits, *noise)
        if self.router == "sinkhorn" and train:
            selection = ops.sinkhorn(-logits, epsilon=1.0, iterations=3)
        if self.expert_dropout and train and not self.is_initializing():
            key = self.make_rng("dropout")
            left_out = jax.random.bernoulli(key, self.expert_dropout, logits.shape)
            selection = chosen_by if selection is None else selection
            selection = jnp.where(left_out, -jnp.inf, selection)
        return logits, selection, noise

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
    def weights(self, name: str, inputs: int, features: int, axes: tuple[str, str], count: int):
        """Kernels and biases of so many experts."""
        start = normal_init
        if self.dense_start:
            size = inputs if axes[0] == "embed" else inputs * self.num_experts
            start = nn.initializers.normal(size**-0.5)
        shape = (count, inputs, features)
        init = partitioned(start, ("expert", *axes), (-2,), (-1,))
        kernel = self.param(f"{name}_kernel", init, shape, self.param_dtype).astype(self.dtype)
        if not self.use_bias:
            return kernel, None
        init = partitioned(zeros_init, ("expert", axes[1]))
        bias = self.param(f"{name}_bias", init, (shape[0], features), self.param_dtype)
        return kernel, bias.astype(self.dtype)

    @nn.nowrap
    def experts(self, x: Float[Array, "B E C D"], dim: int, train: bool):
        """Each expert's MLP on its own tokens."""

        def dense(x, features, axes, name):
            kernel, bias = self.weights(name, x.shape[-1], features, axes, x.shape[1])
            y = jnp.einsum("becd,edf->becf", x, kernel)
            return y if bias is None else y + bias[None, :, None]

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
    def dropless_experts(self, x: Float[Array, "B T D"], gates: Float[Array, "B T E"], dim: int):
        """The same of all tokens, sorted by expert."""
        into = ("embed", "mlp")
        count = self.num_experts
        kernel, bias = self.weights("fc1", dim, self.hidden, into, count)
        gate = self.weights("gate", dim, self.hidden, into, count) if self.gated else (None, None)
        out_kernel, out_bias = self.weights("fc2", self.hidden, dim, ("mlp", "embed"), count)
        return ops.dropless_experts(
            x,
            gates,
            kernel,
            out_kernel,
            bias,
            out_bias,
            *gate,
            top_k=self.top_k,
            activation=self.activation,
        )

    @nn.nowrap
    def sow_losses(
        self, logits: Float[Array, "B T E"], gates: Float[Array, "B T E"], noise
    ) -> None:
        """Sows both losses and the share of choices that were dropped."""
        if self.balance == "switch":
            balance = ops.head_load_balance(logits, top_k=self.top_k) / self.top_k
        elif self.balance == "entropy":
            balance = ops.entropy_balance(logits)
        else:
            balance = ops.squared_variation(jnp.sum(gates, (0, 1)))
            if noise is not None:
                load = ops.expert_load(logits, *noise, top_k=self.top_k)
                balance = balance + ops.squared_variation(jnp.sum(load, (0, 1)))
        z = jnp.mean(jnp.square(jax.nn.logsumexp(logits, axis=-1)))
        self.sow("losses", "load_balance", self.balance_weight * balance)
        self.sow("losses", "router_z", self.z_weight * z)
        kept = jnp.mean(jnp.sum((gates != 0).astype(logits.dtype), -1))
        self.sow("metrics", "dropped", 1 - kept / self.top_k)
