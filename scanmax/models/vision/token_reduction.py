"""A ViT that sheds tokens on the way: reorganisation (EViT), merging (ToMe), fusion (MCTF).

The parameters are those of the plain model, whose weights hence load as they are. Schedules are
static: the number of tokens in every block follows from the image's size alone.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax import ops
from scanmax.errors import UserError
from scanmax.models.blocks import Block
from scanmax.models.layers import Dense, normal_init, partitioned, zeros_init
from scanmax.models.statistics import at_least_float32
from scanmax.models.taps import tap

METHODS = ("evit", "tome", "mctf")


@dataclasses.dataclass(frozen=True)
class TokenReduction:
    """By what, where and how fast a ViT sheds tokens.

    "evit": between attention and MLP, the patches to which the class token attends most stay and
    the others become one. "tome": in the same place, the most similar patches merge, compared by
    their mean keys. "mctf": before the values are read, patches merge that are similar, little
    attended and small; the attention matrix of the block itself tells, and is merged with them.
    For "tome" and "mctf" a token's size is added to the attention's logits as its logarithm.

    Attributes:
      method: "evit", "tome" or "mctf".
      blocks: indices of the blocks that reduce; None is the papers' choice: for "evit" the fourth,
        seventh and tenth of twelve (one before each later third), for "tome" all, for "mctf" all
        but the first.
      keep_rate: of the patches, for "evit".
      fuse: for "evit", whether the patches that leave become one token or none.
      remove: tokens removed by a block, for "tome" and "mctf"; at most half of the patches.
    """

    method: str
    blocks: tuple[int, ...] | None = None
    keep_rate: float = 0.7
    fuse: bool = True
    remove: int = 16

    def __post_init__(self):
        if self.method not in METHODS:
            raise UserError(f"token_reduction method={self.method!r}: one of {', '.join(METHODS)}")
        if not 0 < self.keep_rate <= 1:
            raise UserError(f"token_reduction keep_rate={self.keep_rate}: expected within (0, 1]")
        if self.remove < 0:
            raise UserError(f"token_reduction remove={self.remove} is negative")

    def acting_blocks(self, depth: int) -> tuple[int, ...]:
        """Indices of the blocks that remove at least a token where they can."""
        if self.keep_rate == 1 if self.method == "evit" else self.remove == 0:
            return ()
        if self.blocks is not None:
            return tuple(self.blocks)
        if self.method == "evit":
            return tuple(sorted({depth * part // 4 for part in (1, 2, 3)}))
        return tuple(range(0 if self.method == "tome" else 1, depth))

    def tokens_after(self, tokens: int, prefix_tokens: int) -> int:
        """How many tokens a reducing block leaves of so many."""
        patches = tokens - prefix_tokens
        if self.method == "evit":
            keep = math.ceil(self.keep_rate * patches)
            return tokens if keep == patches else prefix_tokens + keep + self.fuse
        return tokens - min(self.remove, patches // 2)

    def schedule(self, tokens: int, depth: int, prefix_tokens: int = 1) -> tuple[int, ...]:
        """Tokens behind each block, for example (197, 197, 197, 140, 140, ...).

        >>> TokenReduction("evit", keep_rate=0.7).schedule(197, 12)[2:4]
        (197, 140)
        """
        acting, behind = self.acting_blocks(depth), []
        for index in range(depth):
            if index in acting:
                tokens = self.tokens_after(tokens, prefix_tokens)
            behind.append(tokens)
        return tuple(behind)


class QueryKeyValue(nn.Module):
    """The fused projection of attention, whose parts can be had alone: parameters as of `Dense`."""

    heads: int
    use_bias: bool = True
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T D"], first: int = 0, last: int = 3
    ) -> list[Float[Array, "B T H K"]]:
        """Parts first to last of query, key, value."""
        dim, axes = x.shape[-1], ("embed", None, "heads", "kv")
        shape = (3, self.heads, dim // self.heads)
        init = partitioned(normal_init, axes, (-4,), (-2, -1))
        kernel = self.param("kernel", init, (dim, *shape), self.param_dtype)
        kernel = kernel[:, first:last].astype(self.dtype)
        y = jnp.einsum("btd,dphk->btphk", x.astype(self.dtype), kernel)
        if self.use_bias:
            init = partitioned(zeros_init, axes[1:])
            bias = self.param("bias", init, shape, self.param_dtype)
            y = y + bias[None, None, first:last].astype(self.dtype)
        return [y[:, :, part] for part in range(last - first)]


class ReducingAttention(nn.Module):
    """Attention that says what a reduction needs to know, with the parameters of `Attention`.

    Attributes:
      method: whose reduction it serves.
      qkv_bias: biases of queries, keys and values; None is as use_bias.
    """

    heads: int
    method: str
    use_bias: bool = True
    qkv_bias: bool | None = None
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        norm: nn.Module,
        size: Float[Array, "B T"] | None,
        fuse: Callable | None,
    ):
        """Reads norm(x); returns (y, x, size, clue).

        With `fuse` the tokens x are merged by (x, attention, size) before their values are read.
        The clue is the class token's row [B, H, T] for "evit", the mean keys [B, T, K] for "tome".
        """
        if x.shape[-1] % self.heads:
            raise ValueError(f"heads={self.heads} do not divide {x.shape[-1]}.")
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        has_bias = self.use_bias if self.qkv_bias is None else self.qkv_bias
        project = QueryKeyValue(self.heads, has_bias, name="qkv", **dtypes)
        out = Dense(
            x.shape[-1],
            ("heads", "kv", "embed"),
            contract=2,
            use_bias=self.use_bias,
            name="out",
            **dtypes,
        )
        bias = None if size is None else jnp.log(size)[:, None, None]
        if fuse is not None:
            matrix = ops.attention_matrix(*project(norm(x), 0, 2), bias)
            x, matrix, size = fuse(x, matrix, size)
            (value,) = project(norm(x), 2, 3)
            return out(jnp.einsum("bhts,bshv->bthv", matrix, value)), x, size, None
        query, key, value = project(norm(x))
        y = out(ops.dot_product_attention(query, key, value, bias))
        clue = None
        if self.method == "evit":
            clue = ops.attention_matrix(query[:, :1], key)[:, :, 0]
        elif self.method == "tome":
            clue = jnp.mean(key, axis=2)
        return y, x, size, clue


class ReducingBlock(Block):
    """A block of a host that reduces tokens: (x, size) to (x, size), size None while all are 1.

    A block that need not know of sizes is the plain one, to the last bit.

    Attributes:
      reduction: the host's.
      reduces: whether this block removes tokens.
    """

    reduction: TokenReduction | None = None
    reduces: bool = False

    @nn.compact
    def __call__(self, inputs, drop_path_rate=0.0, state=None, grid=None, train: bool = False):
        x, size = inputs
        reduction, tokens = self.reduction, x.shape[1]
        left = reduction.tokens_after(tokens, self.prefix_tokens) if self.reduces else tokens
        if left == tokens and size is None:
            return super().__call__(x, drop_path_rate, None, grid, train), None
        options = dict((self.mixer_options or {}).get(self.mixer, {}))
        grid_bound = self.position_conv or self.channel_attention
        if self.mixer != "attention" or set(options) - {"qkv_bias"} or grid_bound:
            raise UserError(
                f"token_reduction reduces plain attention; it does not know mixer={self.mixer!r} "
                f"with options {options}, position_conv={self.position_conv} and "
                f"channel_attention={self.channel_attention}"
            )
        matching = {"remove": tokens - left, "protected": self.prefix_tokens}
        fuses = reduction.method == "mctf" and left < tokens

        def fuse(x, attention, size):
            return ops.fuse_tokens(x, attention, size, **matching)

        mixer = ReducingAttention(
            self.heads, reduction.method, self.use_bias, name="mixer", **options, **self.dtypes
        )
        mixed, x, size, clue = mixer(x, self.create_norm(1), size, fuse if fuses else None)
        mixed = nn.Dropout(self.dropout_rate, deterministic=not train)(mixed)
        x = self.add_branch(x, mixed, 1, drop_path_rate, train)
        if left < tokens and reduction.method == "evit":
            x = ops.token_reorganize(
                x,
                clue,
                keep_rate=reduction.keep_rate,
                fuse=reduction.fuse,
                prefix_tokens=self.prefix_tokens,
            )
        elif left < tokens and reduction.method == "tome":
            size = jnp.ones(x.shape[:2], at_least_float32(x.dtype)) if size is None else size
            similarity = {"temperatures": (1.0, None, None), "bidirectional": False}
            groups = ops.bipartite_soft_matching(clue, **matching, **similarity)
            x = ops.merge_tokens(x, groups, size, num_groups=left)
            size = ops.merge_tokens(size[..., None], groups, num_groups=left, reduce="sum")[..., 0]
        x = self.add_mlp(x, drop_path_rate, grid, train)
        x = tap(self, "output", x)
        return x, size
