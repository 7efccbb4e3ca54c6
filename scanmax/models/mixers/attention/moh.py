"""Mixture-of-head attention as a module: every token picks and weighs its heads."""

from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax import ops
from scanmax.models.layers import Dense, constrain
from scanmax.models.mixers.base import Mixer
from scanmax.models.statistics import at_least_float32

ROUTERS = ("linear", "query_norm")


class MixtureOfHeads(Mixer):
    """Attention whose heads are experts: some shared by all tokens, others routed.

    In training it sows its load-balance loss, weighed, into the collection "losses", which the
    trainer adds to the loss. Prefix tokens are routed like any other. With a cache all heads are
    evaluated, so that later tokens may choose any.

    Attributes:
      shared_heads: heads that every token uses; None is a quarter of the heads.
      routed_heads: of the others, how many a token picks; None is half of the heads, which with
        the shared ones makes the released models' three quarters. 0, as in the first stages of the
        released models, needs all heads shared, and weighs them alone.
      rescale: gates of one on average, as the released code has them; False for the paper's. With
        it, a token that picks one head weighs it by a constant, and the router learns from the
        load-balance loss alone.
      balance_weight: of the load-balance loss. The authors take 0.01 of the mean over layers; the
        trainer sums, so 0.01 / depth is theirs.
      router: "linear", maps of the tokens, as in MoH-ViT; "query_norm", the lengths of the queries,
        without a parameter, whose gates are one or zero: a trained attention becomes a mixture of
        its heads, as in MoH-LLaMA, where half the heads are shared and a quarter routed.
      straight_through: with "query_norm", gates have the gradient of their scores, as in the paper;
        False leaves them without any.
      kv_heads: heads of keys and values, a divisor of heads; None is as many.
      rotary_base: base of rotary positions along the sequence; None leaves them out.
      normalizer: how logits become weights, a name of `ops.dot_product_attention`.
      qkv_bias: biases of queries, keys and values; None is as use_bias.
    """

    formula: ClassVar[str] = (
        "y_t = sum_h g_th softmax(q_th . k_h / sqrt K) v_h W_h, g_t not 0 for shared and top-k h"
    )
    cost: ClassVar[str] = "T^2"
    causal_form: ClassVar[bool] = True
    papers: ClassVar[tuple[str, ...]] = ("moh",)

    shared_heads: int | None = None
    routed_heads: int | None = None
    rescale: bool = True
    balance_weight: float = 0.01
    router: str = "linear"
    straight_through: bool = True
    kv_heads: int | None = None
    rotary_base: float | None = None
    normalizer: str = "softmax"
    qkv_bias: bool | None = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        grid: tuple[int, int] | None = None,
        train: bool = False,
        state: Any = None,
    ):
        dim = x.shape[-1]
        query, key, value = self.project(x)
        axes = ("batch", "length", "heads", "kv")
        query, gates = constrain(query, axes), self.gates(x, query, train)
        if self.rotary_base is not None:
            positions = None if state is None else state.position + jnp.arange(x.shape[1])
            query, key = (
                ops.rotary(each, positions, base=self.rotary_base) for each in (query, key)
            )
        if state is None:
            y = self.mix(query, key, value, gates)
        elif x.shape[1] == 1:
            y, state = ops.attention_step(
                state, query[:, 0], key[:, 0], value[:, 0], normalizer=self.normalizer
            )
            y = y[:, None] * gates[..., None].astype(y.dtype)
        else:
            tokens = (state.position + jnp.arange(x.shape[1]))[:, None]
            state = ops.extend_kv_cache(state, key, value)
            mask = jnp.arange(state.key.shape[1])[None] <= tokens
            key, value = (cache.astype(self.dtype) for cache in (state.key, state.value))
            y = ops.dot_product_attention(query, key, value, mask=mask, normalizer=self.normalizer)
            y = y * gates[..., None].astype(y.dtype)
        y = self.dense(dim, ("heads", "kv", "embed"), "out", contract=2)(constrain(y, axes))
        return y if state is None else (y, state)

    @nn.nowrap
    def project(self, x: Float[Array, "B T D"]):
        """query [B, T, H, K], key and value [B, T, G, K]."""
        width, groups = self.head_dim(x.shape[-1]), self.kv_heads or self.heads
        axes = ("embed", None, "heads", "kv")
        if groups == self.heads:
            return self.dense((3, groups, width), axes, "qkv", self.qkv_bias, apart=True)(x)
        query = self.dense((self.heads, width), ("embed", "heads", "kv"), "query", self.qkv_bias)
        pair = self.dense((2, groups, width), axes, "key_value", self.qkv_bias, apart=True)
        return query(x), *pair(x)

    @nn.nowrap
    def mix(self, query, key, value, gates):
        """Attention over a whole sequence."""
        keywords = {"is_causal": self.is_causal, "normalizer": self.normalizer}
        self.sow_attention(
            query.shape[1], lambda: ops.moh_attention_matrix(query, key, gates, **keywords)
        )
        shared, routed = self.split()
        return ops.moh_attention(
            query, key, value, gates, shared_heads=shared, top_k=routed, **keywords
        )

    @nn.nowrap
    def split(self) -> tuple[int, int]:
        """How many heads are shared, and how many of the others a token picks."""
        return split_heads(self.heads, self.shared_heads, self.routed_heads)

    @nn.nowrap
    def gates(
        self, x: Float[Array, "B T D"], query: Float[Array, "B T H K"], train: bool
    ) -> Float[Array, "B T H"]:
        """The gate of each head for each token."""
        if self.router not in ROUTERS:
            raise ValueError(f"router={self.router!r} is not one of {ROUTERS}.")
        if self.router == "query_norm":
            return self.gates_of_queries(query, train)
        return head_gates(
            self,
            x,
            train,
            shared_heads=self.shared_heads,
            routed_heads=self.routed_heads,
            rescale=self.rescale,
            balance_weight=self.balance_weight,
        )

    @nn.nowrap
    def gates_of_queries(self, query: Float[Array, "B T H K"], train: bool):
        """Gates without parameters, of the routed heads' queries."""
        shared, routed = self.split()
        rest = self.heads - shared
        if routed == rest:
            return jnp.ones(query.shape[:-1], at_least_float32(self.dtype))
        logits = ops.moh_query_logits(query[..., shared:, :].astype(at_least_float32(self.dtype)))
        if train and not self.is_initializing():
            loss = ops.head_load_balance(logits, top_k=routed, rescale=self.rescale)
            self.sow("losses", "load_balance", self.balance_weight * loss)
        keywords = {"top_k": routed, "straight_through": self.straight_through}
        return ops.moh_quantized_gates(logits, shared_heads=shared, **keywords)

    @nn.nowrap
    def init_state(self, batch_size: int, length: int, dim: int) -> Any:
        groups, width = self.kv_heads or self.heads, self.head_dim(dim)
        return ops.init_kv_cache((batch_size,), length, groups, width, dtype=self.dtype)


def split_heads(heads: int, shared_heads: int | None, routed_heads: int | None) -> tuple[int, int]:
    """How many heads are shared, and how many of the others a token picks; None as the class."""
    shared = heads // 4 if shared_heads is None else shared_heads
    rest = heads - shared
    routed = -(-heads // 2) if routed_heads is None else routed_heads
    if not 0 <= shared <= heads or not 0 <= routed <= rest or (routed == 0 and rest):
        raise ValueError(
            f"moh: shared_heads={shared} and routed_heads={routed} of {heads} heads; "
            f"expected 1 to {rest} routed heads, or all heads shared."
        )
    return shared, routed


def head_gates(
    mixer: Mixer,
    x: Float[Array, "B T D"],
    train: bool,
    *,
    shared_heads: int | None = None,
    routed_heads: int | None = None,
    rescale: bool = True,
    balance_weight: float = 0.01,
) -> Float[Array, "B T H"]:
    """The gate of each head for each token, in at least float32: routing is a choice.

    Its layers are the mixer's own, in whose compact method it is called, and the load-balance loss
    of training is sown by it. The keywords are fields of `MixtureOfHeads`.
    """
    shared, routed = split_heads(mixer.heads, shared_heads, routed_heads)

    def logits(features, name):
        return Dense(
            features,
            ("embed", "heads" if features > 2 else None),
            use_bias=False,
            dtype=at_least_float32(mixer.dtype),
            param_dtype=mixer.param_dtype,
            name=name,
        )(x)

    if not routed:
        # a softmax over all heads, which is what picking every head makes of the routed ones
        return ops.moh_gates(logits(shared, "shared"), top_k=shared, rescale=rescale)
    rest = mixer.heads - shared
    alone = jnp.zeros((*x.shape[:2], 1), at_least_float32(mixer.dtype))
    router = logits(rest, "router") if rest > 1 else alone
    if train and routed < rest and not mixer.is_initializing():
        loss = ops.head_load_balance(router, top_k=routed, rescale=rescale)
        mixer.sow("losses", "load_balance", balance_weight * loss)
    pair = {}
    if shared:
        pair["shared_logits"] = logits(shared, "shared") if shared > 1 else alone
        pair["balance_logits"] = logits(2, "balance")
    return ops.moh_gates(router, **pair, top_k=routed, rescale=rescale)


def weighed_heads(
    mixer: Mixer,
    y: Float[Array, "B T H K"],
    x: Float[Array, "B T D"],
    train: bool,
    gates: Mapping[str, Any] | None,
) -> Float[Array, "B T H K"]:
    """What the heads of a mixer make of x, times their gates; `gates` are keywords."""
    if gates is None:
        return y
    return y * head_gates(mixer, x, train, **gates)[..., None].astype(y.dtype)
