"""The causal language-model host: embedding, blocks with any causal mixer, a norm, a tied head.

Generation carries an explicit state, one mixer state per block:

    logits, state = model.apply(variables, prompt, length, method="prefill")  # [B, T, vocab]
    logits, state = model.apply(variables, state, token, method="step")  # [B, vocab]
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from scanmax import ops
from scanmax.errors import UserError
from scanmax.models.adapters import adapted
from scanmax.models.blocks import Block, apply_blocks, create_norm, names_per_block
from scanmax.models.layers import Dense, Embed, constrain, drop_path_rates
from scanmax.models.mixers import MIXERS
from scanmax.models.prompts import prompted, with_prompts, without_prompts
from scanmax.models.registry import Feature, Variant, register_family
from scanmax.models.statistics import at_least_float32
from scanmax.models.taps import tap


class LanguageModel(nn.Module):
    """Tokens to the logits of the next ones.

    Attributes:
      mixer: a name of MIXERS that can be causal, or one per block.
      mixer_options: for any mixer's name, fields of its module.
      mlp_ratio: width of the MLPs over `dim`; 0 leaves them out.
      moe: fields of an `ExpertMlp`, such as {"num_experts": 8, "top_k": 2}: every MLP becomes a
        mixture of experts; None keeps the MLPs.
      prompts: learned tokens ahead of the text, which steer a trained model whose other parameters
        are frozen; none is answered. Texts that are read whole have them: not those that are packed
        or generated.
      prompt_depth: how many blocks have them, each its own.
      adapter: fields of an `SnnkAdapter`, such as {"num_features": 16}: one behind each mixer and
        each MLP, learned while all else is frozen; None leaves them out.
      tied: the head is the embedding table.
      residual_dtype: of the stream between the blocks; None is at least float32.
      remat: recompute activations backwards; a string names a jax.checkpoint_policies entry.
      scan_layers: compile one block for all; parameters are stacked (blocks.stack_blocks).
    """

    vocab_size: int = 256
    dim: int = 256
    depth: int = 6
    heads: int = 4
    mlp_ratio: float = 4.0
    mixer: str | tuple[str, ...] = "attention"
    mixer_options: Mapping[str, Mapping[str, Any]] | None = None
    norm: str = "rms_norm"
    norm_epsilon: float = 1e-5
    activation: str = "gelu"
    gated_mlp: bool = False
    moe: Mapping[str, Any] | None = None
    use_bias: bool = False
    prompts: int = 0
    prompt_depth: int = 1
    adapter: Mapping[str, Any] | None = None
    tied: bool = True
    drop_path_rate: float = 0.0
    dropout_rate: float = 0.0
    residual_dtype: Any = None
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32
    remat: bool | str = False
    scan_layers: bool = False

    def __call__(
        self,
        tokens: Int[Array, "B T"],
        train: bool = False,
        segment_ids: Int[Array, "B T"] | None = None,
    ) -> Float[Array, "B T vocab"]:
        """Logits of the token after each token.

        Rows may hold several sequences: where segment_ids change a new one starts, and nothing
        passes. A mixer that cannot keep them apart (`Mixer.packs`) raises ValueError.
        """
        return self.forward(tokens, train, segment_ids=segment_ids)

    def features(
        self, tokens: Int[Array, "B T"], train: bool = False
    ) -> tuple[Float[Array, "B T D"]]:
        """The normalised hidden states, as a tuple of one."""
        return (self.forward(tokens, train, as_hidden=True),)

    def token_losses(
        self,
        tokens: Int[Array, "B T"],
        targets: Int[Array, "B T"],
        train: bool = False,
        segment_ids: Int[Array, "B T"] | None = None,
        label_smoothing: float = 0.0,
    ) -> tuple[Float[Array, "B T"], Int[Array, "B T"]]:
        """The cross-entropy of each target, and the likeliest token; no logits stand in memory.

        The numbers of a loss on `__call__`, to rounding (`ops.linear_cross_entropy`). A negative
        target has no loss.
        """
        x, kernel = self.forward(tokens, train, as_scored=True, segment_ids=segment_ids)
        return ops.linear_cross_entropy(
            x, kernel, targets, label_smoothing=label_smoothing, return_prediction=True
        )

    def prefill(
        self,
        tokens: Int[Array, "B T"],
        length: int | None = None,
        last_only: bool = False,
        segment_ids: Int[Array, "B T"] | None = None,
    ) -> tuple[Float[Array, "B T vocab"] | Float[Array, "B vocab"], Any]:
        """Reads a prompt: the logits, and a state with room for `length` tokens in all.

        With `last_only` the logits are those after the last token, [B, vocab]: of a long prompt
        nothing as wide as the vocabulary is made but that. Of rows that hold several sequences,
        such as padding and a prompt behind it, the state is that of the last; room is for all.
        """
        if tokens.shape[1] == 1:
            segment_ids = None
        state = self.init_state(tokens.shape[0], length or tokens.shape[1])
        logits, state = self.forward(
            tokens, False, state=state, last_only=last_only, segment_ids=segment_ids
        )
        return (logits[:, 0] if last_only else logits), state

    def step(self, state: Any, token: Int[Array, " B"]) -> tuple[Float[Array, "B vocab"], Any]:
        """Reads one token of each sequence: the logits of the next, and the state."""
        logits, state = self.forward(token[:, None], False, state=state)
        return logits[:, 0], state

    @nn.compact
    def forward(
        self,
        tokens,
        train,
        state=None,
        as_hidden=False,
        as_scored=False,
        last_only=False,
        segment_ids=None,
    ):
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        embed = Embed(self.vocab_size, self.dim, name="embed", **dtypes)
        x = embed(tokens).astype(self.residual_dtype or at_least_float32(self.dtype))
        x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        if self.prompts:
            if state is not None or segment_ids is not None:
                raise UserError("prompts are of whole texts, not of packed or generated ones")
            x = with_prompts(self, x[:, :0], x, self.prompts)
        x = constrain(x, ("batch", "length", None))
        x = tap(self, "stem", x)
        fields, block = prompted(self.block_fields(), Block, self.prompts, self.prompt_depth, 0)
        fields, block = adapted(fields, block, self.adapter)
        x, _, state = apply_blocks(
            fields,
            x,
            drop_path_rates(self.drop_path_rate, self.depth),
            states=state,
            train=train,
            segment_ids=segment_ids,
            remat=self.remat,
            scan_layers=self.scan_layers,
            block=block,
        )
        x = without_prompts(x, self.prompts, 0)
        x = create_norm(self.norm, epsilon=self.norm_epsilon, name="norm", **dtypes)(x)
        x = tap(self, "pre_logits", x)
        if as_hidden:
            return x
        if last_only:
            x = x[:, -1:]
        head = embed.attend
        if not self.tied:
            head = Dense(self.vocab_size, ("embed", "vocab"), use_bias=False, name="head", **dtypes)
        if as_scored:
            if self.tied:
                kernel = embed.embedding.T
            else:
                head(x[:, :1])  # has its kernel made where it is not yet
                kernel = nn.meta.unbox(head.get_variable("params", "kernel"))
            return x.astype(self.dtype), kernel.astype(self.dtype)
        logits = head(x)
        return logits if state is None else (logits, state)

    @property
    def packs(self) -> bool:
        """Whether every mixer keeps sequences apart that share a row."""
        return all(MIXERS[name].packs for name in names_per_block(self.mixer, self.depth))

    @nn.nowrap
    def init_state(self, batch_size: int, length: int) -> Any:
        """The state before the first token, with room for `length` tokens.

        Args:
          batch_size: sequences that are generated together.
          length: prompt and generated tokens at most; recurrent mixers do not need it.

        Returns:
          One mixer state per block, stacked where layers are scanned.

        Raises:
          NotImplementedError: a mixer that cannot generate token by token.
        """
        states = tuple(
            Block(**fields, parent=None)
            .create_mixer(parent=None)
            .init_state(batch_size, length, self.dim)
            for fields in self.block_fields()
        )
        if self.scan_layers:
            return jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
        return states

    @nn.nowrap
    def block_fields(self) -> list[dict[str, Any]]:
        """The fields of each block."""
        return [
            {
                "mixer": mixer,
                "heads": self.heads,
                "mlp_hidden": round(self.dim * self.mlp_ratio),
                "moe": self.moe,
                "mixer_options": self.mixer_options,
                "norm": self.norm,
                "norm_epsilon": self.norm_epsilon,
                "activation": self.activation,
                "gated_mlp": self.gated_mlp,
                "use_bias": self.use_bias,
                "is_causal": True,
                "dropout_rate": self.dropout_rate,
                "dtype": self.dtype,
                "param_dtype": self.param_dtype,
            }
            for mixer in names_per_block(self.mixer, self.depth)
        ]

    @nn.nowrap
    def feature_info(self) -> tuple[Feature, ...]:
        """Name, stride and channels of what `features` gives."""
        return (Feature("hidden", 1, self.dim),)


_ROTARY = {"attention": {"rotary_base": 10000.0}}

# Sizes of our own, over bytes: a decoder with rotary attention.
VARIANTS = {
    "lm_tiny": Variant(
        820_352, (256,), "", {"dim": 128, "depth": 4, "heads": 2, "mixer_options": _ROTARY}
    ),
    "lm_small": Variant(
        4_787_456, (512,), "", {"dim": 256, "depth": 6, "heads": 4, "mixer_options": _ROTARY}
    ),
    "lm_base": Variant(
        85_150_464, (1024,), "", {"dim": 768, "depth": 12, "heads": 12, "mixer_options": _ROTARY}
    ),
}

register_family("lm", LanguageModel, VARIANTS, input_kind="tokens")
