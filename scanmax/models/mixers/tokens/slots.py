"""Mixers that gather the tokens into a few, mix those, and give them back: cost linear in T."""

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax import ops
from scanmax.models.layers import Conv, Dense, fan_in_uniform, normal_init, partitioned
from scanmax.models.mixers.base import Mixer
from scanmax.models.parts.tokens import FilterTokenizer, TokenProjector, TokenTransformer


class Slots(Mixer):
    """Attention among slots beside a convolution over the grid: the mixer of GLMix.

    Slots start as averages of the grid over slot_grid x slot_grid cells: in the released code of
    the map before its norm; hosts give mixers the normalised one, and they start from that. A
    cosine with a learned scale then assigns tokens to slots softly, attention mixes the slots, and
    the same logits give them back.

    Prefix tokens are gathered and given back like any other; they do not enter the averages, and of
    the grid's branch they read the mean.

    Attributes:
      slot_grid: sides of the grid of slots, 8 x 8 in the paper.
      slot_init: "pool", or "param" for learned slots that know no order.
      conv_size: side of the depthwise convolution of the grid branch, between two dense layers; 0
        leaves the branch out.
    """

    formula: ClassVar[str] = (
        "y = softmax_slots(l) attention(softmax_tokens(l)^T x), l = scale cos(x, slots)"
    )
    cost: ClassVar[str] = "T"
    papers: ClassVar[tuple[str, ...]] = ("glmix",)

    slot_grid: int = 8
    slot_init: str = "pool"
    conv_size: int = 5

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        grid: tuple[int, int] | None = None,
        train: bool = False,
    ) -> Float[Array, "B T D"]:
        if self.is_causal:
            raise ValueError("slots has no causal form: every slot gathers all tokens.")
        dim, width, grid = x.shape[-1], self.head_dim(x.shape[-1]), self.grid_or_line(x, grid)
        options = {"use_bias": self.use_bias, "dtype": self.dtype, "param_dtype": self.param_dtype}
        maps = x[:, self.prefix_tokens :].reshape(x.shape[0], *grid, dim)

        start = nn.initializers.constant(dim**-0.5)
        scale = self.param("slot_scale", partitioned(start, ()), (), self.param_dtype)
        logits = ops.slot_logits(x, self.first_slots(maps), scale=scale.astype(self.dtype))
        slots = ops.aggregate_tokens(x, logits)
        shape, axes = (3, self.heads, width), ("embed", None, "heads", "kv")
        query, key, value = Dense(shape, axes, apart=True, name="qkv", **options)(slots)
        self.sow_attention(
            x.shape[1], lambda: ops.slot_matrix(logits, ops.attention_matrix(query, key))
        )
        slots = ops.dot_product_attention(query, key, value)
        slots = Dense(dim, ("heads", "kv", "embed"), contract=2, name="out", **options)(slots)
        y = ops.dispatch_tokens(slots, logits)
        if not self.conv_size:
            return y
        local = Dense(dim, ("embed", "mlp"), name="conv_in", **options)(maps)
        local = Conv(
            dim, self.conv_size, groups=dim, kernel_init=fan_in_uniform(), name="conv", **options
        )(local)
        local = Dense(dim, ("mlp", "embed"), name="conv_out", **options)(local)
        local = jax.lax.collapse(local, 1, 3)
        mean = jnp.mean(local, axis=1, keepdims=True)
        prefix = jnp.broadcast_to(mean, (x.shape[0], self.prefix_tokens, dim))
        return y + jnp.concatenate([prefix, local], axis=1).astype(y.dtype)

    @nn.nowrap
    def first_slots(self, maps: Float[Array, "B Y X D"]) -> Float[Array, "B M D"]:
        """The slots to which the tokens are compared."""
        batch, dim, count = maps.shape[0], maps.shape[-1], self.slot_grid**2
        if self.slot_init == "pool":
            pooled = ops.adaptive_avg_pool2d(maps, (self.slot_grid, self.slot_grid))
            return pooled.reshape(batch, count, dim)
        if self.slot_init != "param":
            raise ValueError(f"slot_init={self.slot_init!r} is not one of 'pool', 'param'.")
        init = partitioned(normal_init, (None, "embed"))
        slots = self.param("slots", init, (count, dim), self.param_dtype)
        return jnp.broadcast_to(slots.astype(self.dtype), (batch, count, dim))


class ContextCluster(Mixer):
    """Every point mixes with the cluster that it belongs to, in its region: Image as Set of Points.

    The grid is cut into equal regions, as many as divide it with sides of at least `region_size`:
    8, 4, 2 and 1 per side on the published maps of 56 to 7. Prefix tokens are points of every
    cluster, and read the mean over all of them.

    Attributes:
      head_size: width of a head; None shares the model's among the heads.
      centers: rows and columns of centres in a region.
      region_size: smallest side of a region; None makes the whole map one.
      denominator: "similarity" as in the paper, "count" as in the first release.
    """

    formula: ClassVar[str] = (
        "y_i = s_mi (u_m + sum_j s_mj v_j) / (1 + n_m), m the most similar centre of i"
    )
    cost: ClassVar[str] = "T"
    papers: ClassVar[tuple[str, ...]] = ("context-cluster",)

    head_size: int | None = None
    centers: tuple[int, int] = (2, 2)
    region_size: int | None = 7
    denominator: str = "similarity"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        grid: tuple[int, int] | None = None,
        train: bool = False,
    ) -> Float[Array, "B T D"]:
        if self.is_causal:
            raise ValueError("context_cluster has no causal form: a cluster reads all its points.")
        dim, grid = x.shape[-1], self.grid_or_line(x, grid)
        options = {"use_bias": self.use_bias, "dtype": self.dtype, "param_dtype": self.param_dtype}
        shape = (self.heads, self.head_size or self.head_dim(dim))
        features, values = (
            Dense(shape, ("embed", "heads", "kv"), name=name, **options)(x)
            for name in ("feature", "value")
        )
        alpha, beta = (
            self.param(name, partitioned(nn.initializers.constant(start), ()), (), self.param_dtype)
            for name, start in (("alpha", 1.0), ("beta", 0.0))
        )
        keywords = {
            "grid": grid,
            "alpha": alpha,
            "beta": beta,
            "centers": self.centers,
            "regions": tuple(self.regions(side) for side in grid),
            "denominator": self.denominator,
            "prefix_tokens": self.prefix_tokens,
        }
        self.sow_attention(x.shape[1], lambda: ops.context_cluster_matrix(features, **keywords))
        y = ops.context_cluster(features, values, **keywords)
        return Dense(dim, ("heads", "kv", "embed"), contract=2, name="out", **options)(y)

    @nn.nowrap
    def regions(self, side: int) -> int:
        """The largest number of equal parts of a side that are at least region_size long."""
        if self.region_size is None:
            return 1
        parts = (n for n in range(1, side + 1) if side % n == 0 and side // n >= self.region_size)
        return max(parts, default=1)


class VisualTokens(Mixer):
    """A visual transformer's module: tokenizer, a layer among semantic tokens, projector.

    Prefix tokens are pixels like any other. The module knows no order.

    Attributes:
      tokens: number of semantic tokens.
      key_width: width of keys and queries; None is half the model's.
    """

    formula: ClassVar[str] = (
        "y = softmax_L((x W_Q) (t W_K)^T) t, t = transformer(softmax_T(x W_A)^T x)"
    )
    cost: ClassVar[str] = "T"
    papers: ClassVar[tuple[str, ...]] = ("visual-transformer-vt",)

    tokens: int = 16
    key_width: int | None = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        grid: tuple[int, int] | None = None,
        train: bool = False,
    ) -> Float[Array, "B T D"]:
        if self.is_causal:
            raise ValueError("visual_tokens has no causal form: every token gathers all pixels.")
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        keys = {"key_width": self.key_width, **dtypes}
        tokens = FilterTokenizer(self.tokens, name="tokenizer", **dtypes)(x)
        tokens = TokenTransformer(name="transformer", **keys)(tokens)
        return TokenProjector(name="projector", **keys)(x, tokens)
