"""The selective state space of Mamba as one module: projections of x and the scan they drive."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from scanmax import ops
from scanmax.models.layers import Dense, fan_in_uniform, ones_init, partitioned
from scanmax.models.mixers.base import splits_tokens
from scanmax.models.mixers.scan.ssd import step_init
from scanmax.models.statistics import at_least_float32


def diagonal_init(key, shape, dtype):
    """A_log with -A = 1, 2, .. N in every channel."""
    rates = jnp.log(jnp.arange(1, shape[-1] + 1, dtype=dtype))
    return jnp.broadcast_to(rates.reshape((1,) * (len(shape) - 1) + (-1,)), shape)


class SelectiveSsm(nn.Module):
    """S6: dt, B, C = x_proj(x); y = selective_scan(x, softplus(dt_proj(dt)), A, B, C, D).

    With `initial_state` [B, C, N] or `return_state` it returns (y, state); one token behind a state
    takes a step. Without `is_causal` it runs in both directions. `matrix` is the hidden attention,
    D left out.

    Attributes:
      heads: groups of channels of which `matrix` gives the mean; with one for each it is exact.
      d_state: N, states of each channel.
      dt_rank: width through which dt goes; None is channels / 16, rounded up.
      dt_min, dt_max: the steps of a zero input start log-uniformly between them.
      dt_scale: factor on the initial kernel of `dt_proj`, uniform in +- dt_scale / sqrt(dt_rank).
      implementation: the backend of whole sequences, "xla" or "pallas", as of
        `ops.selective_scan`; None is "xla".
    """

    heads: int = 1
    d_state: int = 16
    dt_rank: int | None = None
    dt_min: float = 1e-3
    dt_max: float = 1e-1
    dt_scale: float = 1.0
    implementation: str | None = None
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    def __call__(
        self,
        x: Float[Array, "B T C"],
        initial_state: Float[Array, "B C N"] | None = None,
        return_state: bool = False,
        segment_ids: Int[Array, "B T"] | None = None,
        is_causal: bool = True,
    ):
        arrays = self.project(x)
        if initial_state is not None and x.shape[1] == 1:
            token = {name: arrays.pop(name)[:, 0] for name in ("dt", "B", "C")}
            y, state = ops.selective_scan_step(
                initial_state, x[:, 0], **token, **arrays, dt_softplus=True
            )
            return y[:, None], state
        options = {
            "dt_softplus": True,
            "initial_state": initial_state,
            "return_state": return_state or initial_state is not None,
        }
        by_context = self.implementation in (None, "xla") and splits_tokens()
        if is_causal and segment_ids is None and by_context:
            return ops.context_selective_scan(x, **arrays, **options)
        options |= {"segment_ids": segment_ids, "is_causal": is_causal}
        return ops.selective_scan(x, **arrays, **options, implementation=self.implementation)

    def matrix(
        self,
        x: Float[Array, "B T C"],
        segment_ids: Int[Array, "B T"] | None = None,
        is_causal: bool = True,
    ) -> Float[Array, "B H T T"]:
        """The hidden attention, what the scan multiplies tokens by: the mean of each head's."""
        arrays = self.project(x)
        dt, B, C = (arrays[name] for name in ("dt", "B", "C"))
        by_channel = {"A": arrays["A"], "dt_bias": arrays["dt_bias"], "dt": jnp.moveaxis(dt, 2, 0)}
        groups = jax.tree.map(
            lambda y: y.reshape(self.heads, len(y) // self.heads, *y.shape[1:]), by_channel
        )

        def add(total, channel):
            one = ops.selective_scan_matrix(
                channel["dt"][..., None],
                channel["A"][None],
                B,
                C,
                dt_bias=channel["dt_bias"][None],
                dt_softplus=True,
                segment_ids=segment_ids,
                is_causal=is_causal,
            )
            return total + one[:, 0], None

        def mean(group):
            zeros = jnp.zeros((*x.shape[:2], x.shape[1]), C.dtype)
            return jax.lax.scan(add, zeros, group)[0] / (x.shape[2] // self.heads)

        return jnp.moveaxis(jax.lax.map(mean, groups), 0, 1)

    @nn.compact
    def project(self, x: Float[Array, "B T C"]) -> dict[str, Array]:
        """The arguments of the scan behind x."""
        channels, states = x.shape[-1], self.d_state
        rank = self.dt_rank or -(-channels // 16)
        options = {"use_bias": False, "dtype": self.dtype, "param_dtype": self.param_dtype}
        mixed = Dense(
            rank + 2 * states,
            ("mlp", None),
            kernel_init=fan_in_uniform(),
            name="x_proj",
            **options,
        )(x)
        dt, B, C = jnp.split(mixed, (rank, rank + states), axis=-1)
        dt = Dense(
            channels,
            (None, "mlp"),
            kernel_init=fan_in_uniform(self.dt_scale),
            name="dt_proj",
            **options,
        )(dt)
        vectors = {
            "A_log": (diagonal_init, (channels, states)),
            "D": (ones_init, (channels,)),
            "dt_bias": (step_init(self.dt_min, self.dt_max), (channels,)),
        }
        axes = ("mlp", None)
        values = {
            name: self.param(
                name, partitioned(init, axes[: len(shape)]), shape, self.param_dtype
            ).astype(at_least_float32(self.dtype))
            for name, (init, shape) in vectors.items()
        }
        return {"dt": dt, "B": B, "C": C, "A": -jnp.exp(values.pop("A_log")), **values}

    @nn.nowrap
    def init_state(self, batch_size: int, channels: int) -> Float[Array, "B C N"]:
        """The state before the first token."""
        return jnp.zeros((batch_size, channels, self.d_state), at_least_float32(self.dtype))
