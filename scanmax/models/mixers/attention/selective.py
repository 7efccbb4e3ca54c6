"""Selective self-attention as a module: temperatures from the projections themselves."""

from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp

from scanmax import ops
from scanmax.models.layers import gelu, normal_init, partitioned
from scanmax.models.mixers.attention.dot_product import Attention


class SelectiveAttention(Attention):
    """Attention whose queries and values have temperatures of their own, at two vectors per layer.

    f(x) = w . gelu(W x) reads the query's or the value's projection, so that each temperature costs
    one vector w as wide as the model. Prefix tokens take part like any other.

    Attributes:
      position: the position term, "exponential" as in the released code, "sigmoid" as in the text,
        or None.
      strength_init: where its parameter starts; None is 1.5 for "exponential" (released), at which
        the term is nearly 1, and -4.5 for "sigmoid", which is about the same.
      query_token: whether queries have the token term.
      value_token: whether values have it.
      combine: how the query's terms combine, "sum" or "product"; see `ops.selective_temperature`.
      per_head: a token term for each head; if not, one for all heads.

    Reference: ssa-selective-self-attention
    """

    formula: ClassVar[str] = (
        "y_t = sum_s softmax_s((tanh f_t + 1 + g log n) q_t . k_s / sqrt K) (1 + tanh h_s) v_s"
    )
    cost: ClassVar[str] = "T^2"
    causal_form: ClassVar[bool] = True
    papers: ClassVar[tuple[str, ...]] = ("ssa-selective-self-attention",)
    packs: ClassVar[bool] = False

    position: str | None = "exponential"
    strength_init: float | None = None
    query_token: bool = True
    value_token: bool = True
    combine: str = "sum"
    per_head: bool = True

    @nn.nowrap
    def condition(self, query, key, value, start):
        strength = counts = None
        if self.position is not None:
            first = self.strength_init
            if first is None:
                first = 1.5 if self.position == "exponential" else -4.5
            init = partitioned(nn.initializers.constant(first), ())
            strength = self.param("strength", init, (), self.param_dtype)
            counts = query.shape[1]
            if self.is_causal:
                counts = start + jnp.arange(1, counts + 1)
        if self.query_token or strength is not None:
            tau = ops.selective_temperature(
                self.token_term("query_vector", query) if self.query_token else None,
                strength,
                counts,
                combine=self.combine,
                position=self.position or "sigmoid",
            )
            tau = tau.reshape((1,) * (3 - tau.ndim) + tau.shape)
            query = (query * tau[..., None].astype(query.dtype)).astype(self.dtype)
        loudness = None
        if self.value_token:
            loudness = ops.selective_temperature(self.token_term("value_vector", value))
            value = value * loudness[..., None]
            groups = value.shape[2] if self.per_head else 1
            loudness = jnp.repeat(loudness, self.heads // groups, axis=-1)
        return query, key, value, loudness

    @nn.nowrap
    def token_term(self, name: str, projected):
        """f of every token and head, [B, T, H]; [B, T, 1] where the heads share it."""
        init = partitioned(normal_init, ("heads", "kv"), (-1,))
        vector = self.param(name, init, projected.shape[2:], self.param_dtype)
        terms = jnp.sum(gelu(projected) * vector.astype(self.dtype)[None, None], -1)
        return terms if self.per_head else jnp.sum(terms, -1, keepdims=True)
