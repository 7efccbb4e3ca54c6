"""Aggregated attention as a module: the pixels around each, and pooled keys of the whole map."""

from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from scanmax import ops
from scanmax.models.layers import LayerNorm, partitioned, zeros_init
from scanmax.models.mixers.attention.moh import weighed_heads
from scanmax.models.mixers.attention.position_bias import LogCpb
from scanmax.models.mixers.base import Mixer
from scanmax.models.mixers.local.maps import as_pair
from scanmax.models.statistics import at_least_float32
from scanmax.ops.attention.cosine import scaled_queries, unit_vectors
from scanmax.ops.contract import spread
from scanmax.ops.local.blocks import Offsets
from scanmax.ops.tokens.pooling import pooling_matrix


class AggregatedAttention(Mixer):
    """The attention of TransNeXt: k x k pixels and pooled keys under one softmax of cosines.

    As in the released code: unit queries plus a learned embedding, times softplus(temperature) and
    the logarithm of the number of keys; a learned bias of the offsets and a log-spaced MLP for the
    pooled keys; learnable tokens whose products with the unit query are added to the local weights
    after the softmax. Pooled are GELU(1x1 conv), averaged, normalised, with the key and value
    projections of the pixels.

    Every pixel reads the prefix tokens among the pooled keys, without bias; a prefix token reads
    every token by the same cosines. The matrix that is sown shares a pooled key's weight among the
    pixels of its cell: where it looks, for its value is not linear in them.

    Attributes:
      kernel_size: k, odd.
      pool_size: cells along each side, at most as many as the map has pixels: in the released
        models 7 at their training size.
      pool_ratio: pixels of a cell along each side instead, as the released code says it (8, 4, 2).
      pretrain_grid: the grid that the MLP's coordinates are scaled by; None is each grid as it
        comes.
      bias_hidden: width of the MLP.
      norm_epsilon: of the norm of the pooled map.
      head_gates: fields of `MixtureOfHeads` that say how tokens pick and weigh their heads, as in
        MoH-ViT; None leaves them as they are. The matrix that is sown is without gates.
    """

    formula: ClassVar[str] = (
        "y_p = sum_o (a_po + u_p . t_o + c_o) v_(p + o) + sum_s b_ps v'_s,  "
        "[a, b] = softmax(softplus(tau) log n (u_p + e) . unit(k) + bias), u = unit(q)"
    )
    cost: ClassVar[str] = "T (k^2 + P)"
    papers: ClassVar[tuple[str, ...]] = ("transnext",)

    kernel_size: int | tuple[int, int] = 3
    pool_size: int | tuple[int, int] = 7
    pool_ratio: int | None = None
    pretrain_grid: tuple[int, int] | None = None
    bias_hidden: int = 512
    norm_epsilon: float = 1e-5
    head_gates: Mapping[str, Any] | None = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        grid: tuple[int, int] | None = None,
        train: bool = False,
    ) -> Float[Array, "B T D"]:
        if self.is_causal:
            raise ValueError("AggregatedAttention has no causal form: its keys are pooled.")
        grid, (B, T, D), P = self.grid_or_line(x, grid), x.shape, self.prefix_tokens
        width, kernel = self.head_dim(D), as_pair(self.kernel_size)
        options = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        axes = ("embed", None, "heads", "kv")
        query = self.dense((self.heads, width), ("embed", "heads", "kv"), "query")(x)
        project = self.dense((2, self.heads, width), axes, "key_value")

        # Pooled keys and values, with the prefix tokens before them.
        cells = self.pooled_grid(grid)
        pooled = self.dense(D, ("embed", "mlp"), "reduce")(x[:, P:])
        pooled = jax.nn.gelu(pooled, approximate=False).reshape(B, *grid, D)
        pooled = jax.lax.collapse(ops.adaptive_avg_pool2d(pooled, cells), 1, 3)
        pooled = LayerNorm(self.norm_epsilon, name="norm", **options)(pooled)
        both = project(jnp.concatenate([x.astype(self.dtype), pooled], 1))
        keys, values = self.unit(both[:, :, 0]), both[:, :, 1]
        key, value = keys[:, P:T], values[:, P:T]
        other_key, other_value = (jnp.concatenate([z[:, :P], z[:, T:]], 1) for z in (keys, values))

        # Queries, scaled by the logarithm of how many keys each of them reads.
        near = Offsets(kernel).seen(grid).sum(-1).reshape(-1)
        counts = np.concatenate([np.full(P, T), near + cells[0] * cells[1] + P])
        scaled = self.scale_queries(query, counts)

        shape = (self.heads, *kernel)
        local_bias = self.value_of("local_bias", 0.0004, shape, ("heads", None, None))
        pooled_bias = LogCpb(
            self.heads, self.bias_hidden, self.pretrain_grid, name="pooled_bias", **options
        )(grid, cells)
        pooled_bias = pooled_bias.reshape(self.heads, *grid, -1)
        pooled_bias = jnp.pad(pooled_bias, ((0, 0), (0, 0), (0, 0), (P, 0)))
        added = self.positional_weights(self.unit(query[:, P:]), kernel[0] * kernel[1])

        def maps(z):
            return z.reshape(B, *grid, *z.shape[2:])

        terms = (local_bias, pooled_bias, maps(added))
        self.sow_attention(
            T,
            lambda: self.matrix(
                scaled,
                keys[:, :T],
                ops.aggregated_attention_matrix(
                    maps(scaled[:, P:]), maps(key), other_key, *terms, kernel_size=kernel, scale=1.0
                ),
                [pooling_matrix(n, m) for n, m in zip(grid, cells)],
            ),
        )
        y = ops.aggregated_attention(
            maps(scaled[:, P:]),
            maps(key),
            maps(value),
            other_key,
            other_value,
            *terms,
            kernel_size=kernel,
            scale=1.0,
        ).reshape(B, T - P, self.heads, width)
        if P:
            first = ops.dot_product_attention(scaled[:, :P], keys[:, :T], values[:, :T], scale=1.0)
            y = jnp.concatenate([first, y], 1)
        y = weighed_heads(self, y, x, train, self.head_gates)
        return self.dense(D, ("heads", "kv", "embed"), "out", contract=2)(y)

    @nn.nowrap
    def pooled_grid(self, grid: tuple[int, int]) -> tuple[int, int]:
        if self.pool_ratio is not None:
            return tuple(max(side // self.pool_ratio, 1) for side in grid)
        return tuple(min(side, size) for side, size in zip(grid, as_pair(self.pool_size)))

    @nn.nowrap
    def unit(self, x):
        return unit_vectors(x.astype(at_least_float32(self.dtype))).astype(self.dtype)

    @nn.nowrap
    def scale_queries(self, query, counts):
        # softplus of it is 1 / 0.24, as in the released code
        first = nn.initializers.constant(float(np.log(np.expm1(1 / 0.24))))
        temperature = self.param(
            "temperature", partitioned(first, ("heads",)), (self.heads,), self.param_dtype
        )
        shape = (self.heads, query.shape[-1])
        embedding = self.value_of("query_embedding", 0.02, shape, ("heads", "kv"))
        counts = jnp.asarray(counts, jnp.int32)
        return scaled_queries(query, temperature, embedding, counts).astype(self.dtype)

    @nn.nowrap
    def positional_weights(self, query: Float[Array, "B T H K"], offsets: int):
        """unit(q) T + c, [B, T, H, offsets]."""
        shape = (self.heads, query.shape[-1], offsets)
        tokens = self.value_of("learnable_tokens", 0.02, shape, ("heads", "kv", None), (-2,), (-1,))
        bias = self.value_of("learnable_bias", None, (self.heads, offsets), ("heads", None))
        weights = jnp.einsum("bthk,hko->btho", query, tokens)
        return weights + spread(bias, weights)

    @nn.nowrap
    def matrix(self, query, key, aggregated, pools):
        """[B, H, T, T]: pooled weights shared among the pixels that they average."""
        P = self.prefix_tokens
        cells = jnp.asarray(np.kron(*pools), aggregated.dtype)  # [S, pixels]
        before, pooled, local = jnp.split(aggregated, (P, P + len(cells)), -1)
        below = jnp.concatenate([before, local + jnp.einsum("bhts,sj->bhtj", pooled, cells)], -1)
        if not P:
            return below
        return jnp.concatenate([ops.attention_matrix(query[:, :P], key, scale=1.0), below], 2)

    @nn.nowrap
    def value_of(self, name: str, deviation: float | None, shape, axes, *maps) -> Array:
        init = zeros_init if deviation is None else nn.initializers.normal(deviation)
        init = partitioned(init, axes, *maps)
        return self.param(name, init, shape, self.param_dtype).astype(self.dtype)
