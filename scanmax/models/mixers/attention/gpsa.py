"""Gated positional self-attention as a module: a convolution that may become attention."""

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax import ops
from scanmax.models.layers import Dense, ones_init, partitioned, zeros_init
from scanmax.models.mixers.base import Mixer


def identity_init(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
    """The identity of the model's width, cut into heads."""
    return jnp.eye(shape[0], dtype=dtype).reshape(shape)


def tap_init(strength: float):
    """Heads as the taps of a convolution; those beyond a square number at random, as released."""

    def init(key, shape, dtype):
        taps = ops.gpsa_position_weight(shape[0], strength=strength, dtype=dtype)
        chosen = jnp.any(taps != 0, axis=1, keepdims=True)
        return jnp.where(chosen, taps, 0.02 * strength * jax.random.normal(key, shape, dtype))

    return init


class Gpsa(Mixer):
    """ConViT's attention: each head mixes attention by content and by place through its gate.

    It starts as a soft convolution: sqrt(H) x sqrt(H) taps, values the identity, gates at
    sigmoid(1). Prefix tokens have no place: they read, and are read, by content alone. Positions
    are offsets, so any grid takes the same parameters.

    Attributes:
      locality_strength: how sharply the taps look at first; the paper's alpha.
      qkv_bias: biases of queries, keys and values; None is as use_bias. The released model has
        none.
      position_bias: a bias of each head's scores of places, as the released model has. The softmax
        cancels it: it is kept with the other weights, and never read.
    """

    formula: ClassVar[str] = (
        "y_t = sum_s [(1 - g) softmax_s(q_t . k_s / sqrt K) + g softmax_s(w . (dx, dy, d^2))] v_s"
    )
    cost: ClassVar[str] = "T^2"
    papers: ClassVar[tuple[str, ...]] = ("convit-gpsa",)

    locality_strength: float = 1.0
    qkv_bias: bool | None = None
    position_bias: bool = False

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        grid: tuple[int, int] | None = None,
        train: bool = False,
    ) -> Float[Array, "B T D"]:
        if self.is_causal:
            raise ValueError("gpsa has no causal form: its places lie all around a pixel.")
        dim, grid, heads = x.shape[-1], self.grid_or_line(x, grid), self.heads
        width, bias = self.head_dim(dim), self.use_bias if self.qkv_bias is None else self.qkv_bias
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        axes = ("embed", None, "heads", "kv")
        dense = Dense((2, heads, width), axes, 1, bias, apart=True, name="query_key", **dtypes)
        query, key = dense(x)
        value = Dense(
            (heads, width),
            ("embed", "heads", "kv"),
            use_bias=bias,
            kernel_init=identity_init,
            name="value",
            **dtypes,
        )(x)
        init = partitioned(tap_init(self.locality_strength), ("heads", None))
        position = self.param("position", init, (heads, 3), self.param_dtype)
        if self.position_bias:
            zeros = partitioned(zeros_init, ("heads",))
            self.param("position_bias", zeros, (heads,), self.param_dtype)
        gate = self.param("gate", partitioned(ones_init, ("heads",)), (heads,), self.param_dtype)
        keywords = {"grid": grid, "prefix_tokens": self.prefix_tokens}
        self.sow_attention(
            x.shape[1], lambda: ops.gpsa_matrix(query, key, position, gate, **keywords)
        )
        y = ops.gpsa(query, key, value, position, gate, **keywords)
        options = {"contract": 2, "use_bias": self.use_bias, **dtypes}
        return Dense(dim, ("heads", "kv", "embed"), name="out", **options)(y)
