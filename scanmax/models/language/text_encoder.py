"""The bidirectional encoder host: BERT's embeddings, post-norm layers, the first token's answer.

What families change is a layer's `mix`, how its tokens read each other, and `pool`, what becomes of
the first token.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from scanmax import ops
from scanmax.models.blocks import apply_blocks
from scanmax.models.language.text_host import TextHost
from scanmax.models.layers import (
    Dense,
    DropPath,
    Embed,
    LayerNorm,
    constrain_last,
    drop_path_rates,
    gelu,
    normal_init,
    partitioned,
)
from scanmax.models.parts.grouped_linear import grouped_dense
from scanmax.models.registry import Feature
from scanmax.models.taps import tap
from scanmax.models.vision.map_host import quarter_blocks, quarter_features
from scanmax.ops.contract import spread


class EncoderLayer(nn.Module):
    """norm(x + out(mix(x))), then norm(x + mlp(x)).

    Attributes:
      heads: number of heads.
      mlp_hidden: width of the MLP.
      mlp_groups: groups of both its matrices.
    """

    heads: int
    mlp_hidden: int
    mlp_groups: int = 1
    norm_epsilon: float = 1e-12
    dropout_rate: float = 0.0
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        drop_path_rate: float | Float[Array, ""] = 0.0,
        state: None = None,
        grid: None = None,
        train: bool = False,
        mask: Bool[Array, "B T"] | None = None,
    ) -> Float[Array, "B T D"]:
        """The next hidden states; `mask` says which tokens are read."""
        dim, fields = x.shape[-1], self.dtypes
        if dim % self.heads:
            raise ValueError(f"heads={self.heads} must divide dim={dim}.")
        y = Dense(dim, ("heads", "embed"), name="out_proj", **fields)(self.mix(x, mask))
        x = self.add(x, y, drop_path_rate, train, 1)
        groups = self.mlp_groups
        y = grouped_dense(self.mlp_hidden, groups, ("embed", "mlp"), name="fc1", **fields)(x)
        y = grouped_dense(dim, groups, ("mlp", "embed"), name="fc2", **fields)(gelu(y))
        return tap(self, "output", self.add(x, y, drop_path_rate, train, 2))

    @property
    def dtypes(self) -> dict[str, Any]:
        """Dtypes that every layer takes."""
        return {"dtype": self.dtype, "param_dtype": self.param_dtype}

    @nn.nowrap
    def mix(self, x: Float[Array, "B T D"], mask) -> Float[Array, "B T E"]:
        """What the tokens read of each other, before the output projection."""
        raise NotImplementedError

    @nn.nowrap
    def attend(self, query, key, value, mask) -> Float[Array, "B T H K"]:
        """Softmax attention to the tokens of the mask."""
        return ops.dot_product_attention(query, key, value, mask=mask[:, None, None])

    @nn.nowrap
    def add(self, x: Float[Array, "B T D"], branch, rate, train: bool, index: int):
        """The norm of x and a branch, dropped as the fields say."""
        branch = nn.Dropout(self.dropout_rate, deterministic=not train)(branch)
        x = x + DropPath()(branch, rate, train).astype(x.dtype)
        return LayerNorm(self.norm_epsilon, name=f"norm{index}", **self.dtypes)(x)


class TextEncoder(TextHost):
    """Embeddings of tokens, places and segments, equal layers, the first token's answer.

    Attributes:
      num_classes: width of the head; 0 gives the features of the first token [B, D].
      pad_token: is read by no token's attention, and its vector is not trained.
      dim: model width.
      embedding_dim: width of the embeddings; another than `dim` is projected.
      mlp_hidden: width of the MLPs.
      max_length: places that have a vector.
      dropout_rate: of the embeddings, of every branch, and before the head.
      drop_path_rate: of the last layer; earlier ones have less.
      scan_layers: compile one layer for all; parameters are stacked (blocks.stack_blocks).
    """

    layer: ClassVar[type[EncoderLayer]] = EncoderLayer

    vocab_size: int = 30_522
    dim: int = 768
    embedding_dim: int = 768
    depth: int = 12
    heads: int = 12
    mlp_hidden: int = 3072
    mlp_groups: int = 1
    max_length: int = 512
    norm_epsilon: float = 1e-12
    drop_path_rate: float = 0.0
    scan_layers: bool = False

    def __call__(
        self,
        tokens: Int[Array, "B T"],
        train: bool = False,
        segments: Int[Array, "B T"] | None = None,
    ):
        """Logits [B, classes], or features [B, D] without a head.

        `segments` says of two texts in a row which is which, 0 or 1; None is the first alone.
        """
        return self.forward(tokens, train, segments=segments)

    @nn.compact
    def forward(self, tokens, train, as_maps=False, segments=None):
        mask = self.is_word(tokens)
        x = tap(self, "stem", self.embeddings(tokens, segments, mask, train))
        x, maps, _ = apply_blocks(
            [self.layer_fields()] * self.depth,
            x,
            drop_path_rates(self.drop_path_rate, self.depth),
            train=train,
            # The sixth argument of a block: here what may be read.
            segment_ids=mask,
            remat=self.remat,
            scan_layers=self.scan_layers,
            block=self.layer,
            keep=quarter_blocks(self.depth) if as_maps else (),
        )
        if as_maps:
            return tuple(maps)
        return self.classify(self.pool(x[:, 0], train), train)

    @nn.nowrap
    def embeddings(self, tokens, segments, mask, train: bool) -> Float[Array, "B T D"]:
        """The sum of the vectors of token, place and segment, normalised."""
        length, width = tokens.shape[1], self.embedding_dim
        if length > self.max_length:
            raise ValueError(
                f"tokens have shape {tokens.shape}; this model has max_length={self.max_length} "
                "places."
            )
        table = Embed(self.vocab_size, width, name="embed", **self.dtypes)
        x = table(tokens)
        x = jnp.where(mask[..., None], x, jax.lax.stop_gradient(x))
        init = partitioned(normal_init, (None, "embed"))
        places = self.param("positions", init, (self.max_length, width), self.param_dtype)
        x = x + spread(places[:length].astype(self.dtype), x)
        kinds = self.param("segments", init, (2, width), self.param_dtype).astype(self.dtype)
        x = x + (spread(kinds[0], x) if segments is None else jnp.take(kinds, segments, axis=0))
        x = LayerNorm(self.norm_epsilon, name="embed_norm", **self.dtypes)(x)
        x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        if width != self.dim:
            x = Dense(self.dim, ("mlp", "embed"), name="embed_proj", **self.dtypes)(x)
        return constrain_last(x)

    @nn.nowrap
    def pool(self, x: Float[Array, "B D"], train: bool) -> Float[Array, "B D"]:
        """What becomes of the first token before the head."""
        raise NotImplementedError

    @nn.nowrap
    def layer_fields(self) -> Mapping[str, Any]:
        """The fields of each layer."""
        return {
            "heads": self.heads,
            "mlp_hidden": self.mlp_hidden,
            "mlp_groups": self.mlp_groups,
            "norm_epsilon": self.norm_epsilon,
            "dropout_rate": self.dropout_rate,
            **self.dtypes,
        }

    @nn.nowrap
    def feature_info(self) -> tuple[Feature, ...]:
        """Name, stride and channels: the hidden states behind each quarter of the layers."""
        return quarter_features(self.depth, 1, self.dim)
