"""The encoder-decoder host: what is read once from both sides, and what is written token by token.

The encoder's tokens read each other, the decoder's those before them and what the encoder made.

    model.apply(variables, source, answer=answer)              # logits [B, U, vocab]
    logits, state = model.apply(variables, source, length, method="prefill", last_only=True)
    logits, state = model.apply(variables, state, token, method="step")

`generate` takes the source for a prompt, and what it appends is the answer. The keys and values of
the source are made once; the cache that grows is the answer's alone.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from scanmax import ops
from scanmax.errors import UserError
from scanmax.models.blocks import apply_blocks
from scanmax.models.layers import (
    Dense,
    DropPath,
    Embed,
    Initializer,
    Mlp,
    RmsNorm,
    constrain_last,
    drop_path_rates,
    normal_init,
)
from scanmax.models.parts.bucketed_bias import BucketedBias
from scanmax.models.registry import Feature
from scanmax.models.statistics import at_least_float32
from scanmax.models.taps import tap

POSITIONS = ("buckets", "rotary")


class Reading(NamedTuple):
    """What a decoder layer keeps: the answer's cache, and keys and values of the source."""

    cache: ops.KVCache
    key: Float[Array, "B S G K"]
    value: Float[Array, "B S G K"]


class Answering(NamedTuple):
    """The state of generation: of each layer, which source tokens are read, tokens written."""

    layers: Any
    mask: Bool[Array, "B S"]
    position: Int[Array, ""]


class HeadedAttention(nn.Module):
    """Softmax attention of heads whose width is free, over its own tokens or others'.

    Attributes:
      heads: number of heads.
      kv_heads: of keys and values, a divisor of heads.
      head_dim: width of a head.
      scale: of the logits; None is one over the root of head_dim.
      rotary_base: base of rotary positions; None leaves them out.
      by_width: weights start as T5's, smaller where they are summed over more; else alike.
    """

    heads: int
    kv_heads: int
    head_dim: int
    scale: float | None = None
    use_bias: bool = False
    rotary_base: float | None = None
    is_causal: bool = False
    by_width: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        source: Float[Array, "B S D"] | None = None,
        held: tuple[Array, Array] | None = None,
        bias: Float[Array, "H T S"] | None = None,
        mask: Bool[Array, "B S"] | None = None,
        cache: ops.KVCache | None = None,
    ):
        """y [B, T, D], and what is kept: the cache, or the keys and values of the source.

        `held` are those of a source that was read before; with a cache x is one token.
        """
        dim, own = x.shape[-1], source is None and held is None
        axes = ("embed", "heads", "kv")
        std = dim**-0.5
        query = self.dense((self.heads, self.head_dim), axes, "query", std * self.head_dim**-0.5)(x)
        if held is None:
            axes = ("embed", None, "heads", "kv")
            sizes = (2, self.kv_heads, self.head_dim)
            read = x if own else source
            held = self.dense(sizes, axes, "key_value", std, apart=True)(read)
        key, value = held
        if own and self.rotary_base is not None:
            places = jnp.arange(x.shape[1]) + (0 if cache is None else cache.position)
            query, key = (ops.rotary(z, places, base=self.rotary_base) for z in (query, key))
        if cache is None:
            y = ops.dot_product_attention(
                query,
                key,
                value,
                None if bias is None else bias[None],
                None if mask is None else mask[:, None, None],
                is_causal=self.is_causal,
                scale=self.scale,
            )
        else:
            one = (z[:, 0] for z in (query, key, value))
            row = None if bias is None else bias[:, 0]
            y, cache = ops.attention_step(cache, *one, row, scale=self.scale)
            y = y[:, None]
        std = (self.heads * self.head_dim) ** -0.5
        y = self.dense(dim, ("heads", "kv", "embed"), "out", std, contract=2)(y)
        return y, (cache if own else held)

    @nn.nowrap
    def dense(self, features, axes, name: str, std: float, **options: Any) -> Dense:
        init = nn.initializers.normal(std) if self.by_width else normal_init
        options |= {"dtype": self.dtype, "param_dtype": self.param_dtype, "kernel_init": init}
        return Dense(features, axes, use_bias=self.use_bias, name=name, **options)


class CodecLayer(nn.Module):
    """x + attention(norm(x)), in a decoder that plus attention to the source, then plus an MLP.

    Attributes:
      attention: fields of every `HeadedAttention`.
      mlp: fields of the `Mlp`.
      is_decoder: tokens read those before them, and the source.
      by_width: weights start as T5's.
    """

    attention: Any
    mlp: Any
    is_decoder: bool = False
    by_width: bool = False
    rotary_base: float | None = None
    norm_epsilon: float = 1e-6
    dropout_rate: float = 0.0
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        drop_path_rate: float | Float[Array, ""] | None = None,
        state: Reading | None = None,
        grid: None = None,
        train: bool = False,
        beside: Any = None,
    ):
        """The next hidden states, and the state where one is given.

        `beside` holds "bias" and "mask" of the layer's own tokens, "source" and "source_mask".
        """
        attend = self.create_attention(
            "mixer", is_causal=self.is_decoder, rotary_base=self.rotary_base
        )
        cache = None if state is None else state.cache
        own = {"bias": beside["bias"], "mask": beside["mask"], "cache": cache}
        y, cache = attend(self.norm(1)(x), **own)
        x = self.add(x, y, drop_path_rate, train)
        held = None
        if self.is_decoder:
            if beside["source"] is None:
                held = (state.key, state.value)
            cross = self.create_attention("cross")
            others = {"source": beside["source"], "held": held, "mask": beside["source_mask"]}
            y, held = cross(self.norm(2)(x), **others)
            x = self.add(x, y, drop_path_rate, train)
        mlp = Mlp(dropout_rate=self.dropout_rate, name="mlp", **self.mlp_fields(x), **self.dtypes)
        y = mlp(self.norm(3 if self.is_decoder else 2)(x), train=train)
        x = tap(self, "output", x + DropPath()(y, drop_path_rate, train).astype(x.dtype))
        return x if state is None else (x, Reading(cache, *held))

    @property
    def dtypes(self) -> dict[str, Any]:
        """Dtypes that every layer takes."""
        return {"dtype": self.dtype, "param_dtype": self.param_dtype}

    @nn.nowrap
    def create_attention(self, name: str, **fields: Any) -> HeadedAttention:
        return HeadedAttention(
            **self.attention, by_width=self.by_width, name=name, **fields, **self.dtypes
        )

    @nn.nowrap
    def mlp_fields(self, x: Float[Array, "B T D"]) -> dict[str, Any]:
        """Those of the layer, and how its weights start."""
        if not self.by_width:
            return dict(self.mlp)
        widths = x.shape[-1], self.mlp["hidden"]
        inits = tuple(nn.initializers.normal(width**-0.5) for width in widths)
        return {**self.mlp, "kernel_inits": inits}

    @nn.nowrap
    def norm(self, index: int) -> RmsNorm:
        return RmsNorm(self.norm_epsilon, name=f"norm{index}", **self.dtypes)

    @nn.nowrap
    def add(self, x: Float[Array, "B T D"], branch, rate, train: bool) -> Float[Array, "B T D"]:
        """x and a branch, dropped as the fields say."""
        branch = nn.Dropout(self.dropout_rate, deterministic=not train)(branch)
        return x + DropPath()(branch, rate, train).astype(x.dtype)


class EncoderDecoder(nn.Module):
    """Tokens of a source to the logits of an answer's next ones.

    Attributes:
      dim: width of the model.
      encoder_depth: layers that read the source.
      decoder_depth: layers that write the answer.
      heads: of every attention.
      kv_heads: heads of keys and values, a divisor of heads; None is as many.
      head_dim: width of a head; heads need not fill the model's.
      mlp_hidden: width of the MLPs.
      positions: "buckets", T5's bias of distances, one table for all layers of the encoder and one
        for the decoder's, or "rotary" in all layers; none between decoder and source.
      buckets, max_distance: of "buckets", as in `BucketedBias`.
      scale: of the logits of attention; None is one over the root of head_dim.
      tied: the head is the embedding table.
      head_scale: what is scored against the vocabulary is divided by the root of `dim`.
      by_width: weights start as T5's, smaller where they are summed over more.
      pad_token: of a source is not read; None reads all.
      start_token: stands before every answer.
      source_length: where a row holds a source of so many tokens and behind it what the decoder
        reads, as data of labelled tokens does; 0 is a row of source alone.
      dropout_rate: of embeddings, branches and hidden layers of MLPs, not of attention weights.
      drop_path_rate: of the last layer of either half; earlier ones have less.
      remat: recompute activations backwards; a string names a jax.checkpoint_policies entry.
      scan_layers: compile one layer of each half; parameters are stacked (blocks.stack_blocks).
    """

    vocab_size: int = 32_128
    dim: int = 512
    encoder_depth: int = 6
    decoder_depth: int = 6
    heads: int = 8
    kv_heads: int | None = None
    head_dim: int = 64
    mlp_hidden: int = 2048
    gated_mlp: bool = False
    activation: str = "relu"
    use_bias: bool = False
    positions: str = "buckets"
    buckets: int = 32
    max_distance: int = 128
    scale: float | None = None
    tied: bool = True
    head_scale: bool = False
    by_width: bool = False
    norm_epsilon: float = 1e-6
    pad_token: int | None = 0
    start_token: int = 0
    source_length: int = 0
    dropout_rate: float = 0.0
    drop_path_rate: float = 0.0
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32
    remat: bool | str = False
    scan_layers: bool = False

    # Prompts of unlike lengths are read in one pass: padding is a sequence of its own.
    packs = True

    def __call__(
        self,
        tokens: Int[Array, "B S"],
        train: bool = False,
        answer: Int[Array, "B U"] | None = None,
        segment_ids: Int[Array, "B S"] | None = None,
    ) -> Float[Array, "B U vocab"]:
        """Logits of the token after each of `answer`, which begins with the start token.

        Without an answer the decoder writes the source again, or where `source_length` says that
        rows hold both, what is behind it: logits of the source's places are then 0.
        """
        if segment_ids is not None:
            raise UserError("an encoder-decoder reads one source a row: data.kwargs.packed=False")
        length = self.source_length
        if answer is None and length:
            if tokens.shape[1] <= length:
                raise ValueError(
                    f"tokens have shape {tokens.shape}; expected source_length={length} and what "
                    "the decoder reads."
                )
            logits = self.forward(tokens[:, :length], train, tokens[:, length:])
            return jnp.pad(logits, ((0, 0), (length, 0), (0, 0)))
        if answer is None:
            answer = jnp.pad(tokens[:, :-1], ((0, 0), (1, 0)), constant_values=self.start_token)
        return self.forward(tokens, train, answer)

    def features(
        self, tokens: Int[Array, "B S"], train: bool = False
    ) -> tuple[Float[Array, "B S D"]]:
        """What the encoder makes of a source, as a tuple of one."""
        return (self.forward(tokens, train, as_memory=True),)

    def prefill(
        self,
        tokens: Int[Array, "B S"],
        length: int | None = None,
        last_only: bool = False,
        segment_ids: Int[Array, "B S"] | None = None,
    ) -> tuple[Float[Array, "B vocab"] | Float[Array, "B 1 vocab"], Answering]:
        """Reads a source: the logits of the answer's first token, and a state.

        There is room for `length` tokens in all, the source's and the answer's. Of rows that hold
        several sequences, such as padding and a source behind it, the last is read.
        """
        room = (length or tokens.shape[1]) - tokens.shape[1] + 1
        state = self.init_state(*tokens.shape, room)
        mask = self.is_read(tokens, segment_ids)
        start = jnp.full_like(tokens[:, :1], self.start_token)
        logits, state = self.forward(
            tokens, False, start, state=state._replace(mask=mask), last_only=last_only
        )
        return (logits[:, 0] if last_only else logits), state

    def step(self, state: Answering, token: Int[Array, " B"]):
        """Reads one token of each answer: the logits of the next [B, vocab], and the state."""
        logits, state = self.forward(None, False, token[:, None], state=state)
        return logits[:, 0], state

    @nn.compact
    def forward(self, tokens, train, answer=None, state=None, as_memory=False, last_only=False):
        if self.positions not in POSITIONS:
            raise UserError(f"positions={self.positions!r} is not one of {', '.join(POSITIONS)}")
        # The rows of T5's table are of length one in every direction.
        init = nn.initializers.normal(1.0) if self.by_width else normal_init
        embed = Embed(self.vocab_size, self.dim, init, name="embed", **self.dtypes)
        memory, mask = None, None if state is None else state.mask
        if tokens is not None:
            mask = self.is_read(tokens, None) if mask is None else mask
            memory = self.encode(embed(tokens), mask, train)
            if as_memory:
                return memory
        x = self.embedded(embed(answer), train)
        start = 0 if state is None else state.position
        keys = x.shape[1] if state is None else self.first(state).cache.key.shape[1]
        places = start + jnp.arange(x.shape[1])
        beside = {
            "bias": self.bias("decoder_bias", places, jnp.arange(keys)),
            "mask": None,
            "source": memory,
            "source_mask": mask,
        }
        layers = None if state is None else state.layers
        x, layers = self.run("decoder", x, self.decoder_depth, layers, beside, train)
        x = tap(self, "pre_logits", self.normed("norm", x, train))
        if self.head_scale:
            x = x * self.dim**-0.5
        if self.tied:
            logits = embed.attend(x)
        else:
            axes = ("embed", "vocab")
            fields = {"use_bias": False, "kernel_init": init, "name": "head", **self.dtypes}
            logits = Dense(self.vocab_size, axes, **fields)(x)
        if state is None:
            return logits
        return logits, Answering(layers, mask, start + answer.shape[1])

    @property
    def dtypes(self) -> dict[str, Any]:
        """Dtypes that every layer takes."""
        return {"dtype": self.dtype, "param_dtype": self.param_dtype}

    @nn.nowrap
    def is_read(self, tokens: Int[Array, "B S"], segment_ids) -> Bool[Array, "B S"]:
        """Which tokens of a source are read: no padding, and the last sequence of a row."""
        mask = jnp.ones(tokens.shape, bool)
        if self.pad_token is not None:
            mask = tokens != self.pad_token
        return mask if segment_ids is None else mask & (segment_ids == segment_ids[:, -1:])

    @nn.nowrap
    def embedded(self, x: Float[Array, "B T D"], train: bool) -> Float[Array, "B T D"]:
        """Vectors of tokens as the stream that the layers add to."""
        x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        return constrain_last(x.astype(at_least_float32(self.dtype)))

    @nn.nowrap
    def encode(self, x: Float[Array, "B S D"], mask, train: bool) -> Float[Array, "B S D"]:
        """What the decoder reads of a source."""
        x, places = tap(self, "stem", self.embedded(x, train)), jnp.arange(x.shape[1])
        bias = self.bias("encoder_bias", places, places)
        beside = {"bias": bias, "mask": mask, "source": None, "source_mask": None}
        x, _ = self.run("encoder", x, self.encoder_depth, None, beside, train)
        return self.normed("encoder_norm", x, train)

    @nn.nowrap
    def normed(self, name: str, x: Float[Array, "B T D"], train: bool) -> Float[Array, "B T D"]:
        x = RmsNorm(self.norm_epsilon, name=name, **self.dtypes)(x)
        return nn.Dropout(self.dropout_rate, deterministic=not train)(x)

    @nn.nowrap
    def bias(self, name: str, queries: Int[Array, "T"], keys: Int[Array, "S"]):
        """T5's bias [H, T, S] of places, or None."""
        if self.positions != "buckets":
            return None
        init: Initializer = normal_init
        if self.by_width:
            init = nn.initializers.normal(self.dim**-0.5)
        table = BucketedBias(
            self.heads,
            self.buckets,
            self.max_distance,
            both_directions=name == "encoder_bias",
            bias_init=init,
            name=name,
            **self.dtypes,
        )
        return table(queries, keys)

    @nn.nowrap
    def run(self, half: str, x: Float[Array, "B T D"], depth: int, states, beside, train: bool):
        """The layers of one half: x, and their states."""
        fields = {
            "attention": {
                "heads": self.heads,
                "kv_heads": self.kv_heads or self.heads,
                "head_dim": self.head_dim,
                "scale": self.scale,
                "use_bias": self.use_bias,
            },
            "mlp": {
                "hidden": self.mlp_hidden,
                "activation": self.activation,
                "gated": self.gated_mlp,
                "use_bias": self.use_bias,
            },
            "is_decoder": half == "decoder",
            "by_width": self.by_width,
            "rotary_base": 10000.0 if self.positions == "rotary" else None,
            "norm_epsilon": self.norm_epsilon,
            "dropout_rate": self.dropout_rate,
            **self.dtypes,
        }
        x, _, states = apply_blocks(
            [fields] * depth,
            x,
            drop_path_rates(self.drop_path_rate, depth),
            states=states,
            train=train,
            # The sixth argument of a block: here what it reads beside its input.
            segment_ids=beside,
            remat=self.remat,
            scan_layers=self.scan_layers,
            block=CodecLayer,
            prefix=f"{half}_block",
        )
        return x, states

    @nn.nowrap
    def first(self, state: Answering) -> Reading:
        """The first layer's state."""
        if self.scan_layers:
            return jax.tree.map(lambda leaf: leaf[0], state.layers)
        return state.layers[0]

    @nn.nowrap
    def init_state(self, batch_size: int, source_length: int, length: int) -> Answering:
        """The state before the answer: of sources of that length, with room for `length` tokens."""
        groups = self.kv_heads or self.heads
        cache = ops.init_kv_cache((batch_size,), length, groups, self.head_dim, dtype=self.dtype)
        held = jnp.zeros((batch_size, source_length, groups, self.head_dim), self.dtype)
        layers = (Reading(cache, held, held),) * self.decoder_depth
        if self.scan_layers:
            layers = jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers)
        mask = jnp.ones((batch_size, source_length), bool)
        return Answering(layers, mask, jnp.zeros((), jnp.int32))

    @nn.nowrap
    def feature_info(self) -> tuple[Feature, ...]:
        """Name, stride and channels of what `features` gives."""
        return (Feature("encoder", 1, self.dim),)
