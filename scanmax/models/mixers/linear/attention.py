"""Linear attention as a module: the softmax replaced by a product of feature maps."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from scanmax import ops
from scanmax.models.layers import Dense
from scanmax.models.mixers.base import Mixer, splits_tokens
from scanmax.models.statistics import at_least_float32


def attend(
    op: Callable,
    step: Callable,
    arrays: Mapping[str, Array | None],
    *,
    is_causal: bool,
    state: Any,
    **options: Any,
):
    """An op of the linear family on arrays [B, T, ...], whole or from a state on: (y, state).

    Causal linear attention of unpacked tokens that a mesh splits exchanges states alone, unless
    `options` name another implementation than XLA's.
    """
    implementation = options.pop("implementation", None)
    if state is not None and arrays["value"].shape[1] == 1:
        token = {name: x if x is None else x[:, 0] for name, x in arrays.items()}
        y, state = step(state, **token, **options)
        return y[:, None], state
    if (
        op is ops.linear_attention
        and is_causal
        and "segment_ids" not in options
        and implementation in (None, "xla")
        and splits_tokens()
    ):
        op = ops.context_linear_attention
    else:
        options["is_causal"] = is_causal or state is not None
        if implementation is not None:
            options["implementation"] = implementation
    if state is None:
        return op(**arrays, **options), None
    return op(**arrays, initial_state=state, return_state=True, **options)


class LinearAttention(Mixer):
    """y_t = sum_s phi(q_t) . phi(k_s) v_s, over the sum of its weights; one pass over the tokens.

    Prefix tokens take part like any other: without a decay the mixer knows no order.

    Attributes:
      feature_map: phi, a name of `ops.linear_attention`.
      normalize: divide by the sum of the weights.
    """

    formula: ClassVar[str] = "y_t = sum_s phi(q_t) . phi(k_s) v_s / sum_s phi(q_t) . phi(k_s)"
    cost: ClassVar[str] = "T"
    causal_form: ClassVar[bool] = True

    packs: ClassVar[bool] = True

    feature_map: str | None = "elu"
    normalize: bool = True

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
        options = {"use_bias": self.use_bias, "dtype": self.dtype, "param_dtype": self.param_dtype}
        shape = (3, self.heads, self.head_dim(dim))
        dense = Dense(shape, ("embed", None, "heads", "kv"), apart=True, name="qkv", **options)
        query, key, value = dense(x)
        # Without a normaliser the mean over all tokens keeps outputs of size one; a causal mixer
        # does not know how many tokens come.
        scale = None if self.normalize or self.is_causal else 1.0 / x.shape[1]
        keywords = {"feature_map": self.feature_map, "normalize": self.normalize, "scale": scale}
        keywords |= self.packed(segment_ids, state)
        self.sow_attention(
            x.shape[1],
            lambda: ops.linear_attention_matrix(query, key, is_causal=self.is_causal, **keywords),
        )
        arrays = {"query": query, "key": key, "value": value}
        y, state = attend(
            ops.linear_attention,
            ops.linear_attention_step,
            arrays,
            is_causal=self.is_causal,
            state=state,
            **keywords,
        )
        y = Dense(dim, ("heads", "kv", "embed"), contract=2, name="out", **options)(y)
        return y if state is None else (y, state)

    @nn.nowrap
    def init_state(self, batch_size: int, length: int, dim: int) -> Array:
        width = self.head_dim(dim)
        features = jax.eval_shape(
            lambda x: ops.FEATURE_MAPS[self.feature_map](x),
            jax.ShapeDtypeStruct((width,), jnp.float32),
        )
        shape = (batch_size, self.heads, *features.shape, width + self.normalize)
        return jnp.zeros(shape, at_least_float32(self.dtype))
