"""A fusion encoder: patches of an image and words of its text in one sequence of blocks."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from scanmax.errors import UserError
from scanmax.models.blocks import Block, apply_blocks
from scanmax.models.layers import (
    Dense,
    Embed,
    constrain_last,
    drop_path_rates,
    normal_init,
    partitioned,
)
from scanmax.models.mixers.attention.dot_product import Attention
from scanmax.models.taps import tap
from scanmax.models.vision.vit import VisionTransformer


class JointAttention(Attention):
    """Attention both ways among the tokens of one segment, of which padding is another."""

    @nn.nowrap
    def packed(self, segment_ids: Int[Array, "B T"] | None, state: Any) -> dict[str, Array]:
        """What tells padding apart."""
        return {} if segment_ids is None else {"segment_ids": segment_ids}


class JointBlock(Block):
    """A block of such attention."""

    @nn.nowrap
    def create_mixer(self, **fields: Any) -> nn.Module:
        """The attention, whose fields are those of the plain one."""
        plain = super().create_mixer(parent=None)
        names = {field.name for field in dataclasses.fields(plain)} - {"parent", "name"}
        return JointAttention(**{name: getattr(plain, name) for name in names}, **fields)


class FusionEncoder(VisionTransformer):
    """Whether an image and a text belong together, read by the same attention from the first block.

    Tokens are the class token, the patches and the words, each modality with a vector of its own
    added. Padding behind a text is read by none. It is a ViT but for these words (ViLT, Kim et al.,
    2021, without its pooler), and every attention gives the four blocks of its matrix, which
    `cross_attention` teaches to two towers.

    Attributes:
      vocab_size: tokens that it knows.
      text_length: tokens of a text.
      pad_token: fills texts behind their end.

    Others are those of `VisionTransformer` with attention in plain blocks and a class token;
    `num_classes` is not read.

    Example:
      >>> small = {"img_size": 8, "patch_size": 4, "dim": 8, "depth": 1, "heads": 2}
      >>> model = FusionEncoder(**small, vocab_size=11, text_length=5)
      >>> images, tokens = jnp.zeros((2, 8, 8, 3)), jnp.ones((2, 5), int)
      >>> variables = model.init(jax.random.key(0), images)
      >>> model.apply(variables, images, tokens=tokens).shape
      (2,)

    Reference: dide-distilled-dual-encoder
    """

    vocab_size: int = 256
    text_length: int = 64
    pad_token: int = 0

    def __call__(
        self,
        images: Float[Array, "B Yi Xi C"],
        train: bool = False,
        tokens: Int[Array, "B S"] | None = None,
    ) -> Float[Array, " B"]:
        """The logit that they belong together; without tokens, at initialisation alone, of none."""
        if tokens is None:
            if not self.is_initializing():
                raise UserError("a fusion encoder reads images and texts together")
            tokens = jnp.zeros((images.shape[0], self.text_length), jnp.int32)
        return self.forward(images, tokens, train)

    @nn.compact
    def forward(self, images, tokens, train):
        self.check_plain()
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        maps = self.embed_patches(images, train)
        seen = self.add_positions(self.add_prefix(jax.lax.collapse(maps, 1, 3)), maps.shape[1:3])
        read = Embed(self.vocab_size, self.dim, name="word_embed", **dtypes)(tokens)

        def learned(name, count):
            init = partitioned(normal_init, (None, "embed"))
            return self.param(name, init, (count, self.dim), self.param_dtype).astype(seen.dtype)

        if tokens.shape[1] > self.text_length:
            raise UserError(f"text_length={self.text_length}, and a text has {tokens.shape[1]}")
        places = learned("text_pos_embed", self.text_length)[None, : tokens.shape[1]]
        modality = learned("modality_pos_embed", 2)
        x = jnp.concatenate([seen + modality[0], read.astype(seen.dtype) + places + modality[1]], 1)
        x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        x = tap(self, "stem", constrain_last(x))
        is_padding = jnp.pad(~read_tokens(tokens, self.pad_token), ((0, 0), (seen.shape[1], 0)))
        x, _, _ = apply_blocks(
            self.block_fields(),
            x,
            drop_path_rates(self.drop_path_rate, self.depth),
            train=train,
            segment_ids=is_padding.astype(jnp.int32),
            remat=self.remat,
            scan_layers=self.scan_layers,
            block=JointBlock,
        )
        x = tap(self, "pre_logits", self.last_norm("norm")(x)[:, 0])
        return Dense(1, ("embed", None), name="matches", **dtypes)(x)[:, 0]

    @nn.nowrap
    def check_plain(self) -> None:
        """Refuses what a sequence of two modalities has not.

        Raises:
          UserError: another mixer or block, no class token, prompts, adapters or patchout.
        """
        mixers = {self.mixer} if isinstance(self.mixer, str) else set(self.mixer)
        if mixers != {"attention"} or self.block_type is not Block or self.channel_attention:
            raise UserError("a fusion encoder has attention in plain blocks")
        if self.adapter is not None:
            raise UserError("a fusion encoder has no adapters")
        if self.patchout is not None:
            raise UserError("a fusion encoder reads all patches: it does without patchout")
        if not self.class_token or self.distilled or self.prompts or self.norms_pooled:
            raise UserError("a fusion encoder reads one class token, and has no prompts")


def fused(image: nn.Module, vocab_size: int, text_length: int) -> FusionEncoder:
    """A plain ViT as the fusion encoder of its sizes.

    Args:
      image: the ViT.
      vocab_size: tokens that it shall know.
      text_length: tokens of a text.

    Raises:
      UserError: another model.
    """
    if type(image) is not VisionTransformer:
        raise UserError(
            f"a fusion encoder is made of a ViT, such as 'vit_small_patch16_224', not of "
            f"{type(image).__name__}"
        )
    names = [field.name for field in dataclasses.fields(VisionTransformer)]
    fields: dict[str, Any] = {name: getattr(image, name) for name in names}
    own = {name: value for name, value in fields.items() if name not in ("parent", "name")}
    own |= {"vocab_size": vocab_size, "text_length": text_length}
    return FusionEncoder(**{**own, "num_classes": 0})


def read_tokens(tokens: Int[Array, "B S"], pad_token: int = 0) -> Bool[Array, "B S"]:
    """Which tokens of texts are no padding: those up to the last that is another."""
    # Counted from the end: a text may hold the padding's token, and ends with another.
    return jnp.cumsum((tokens != pad_token)[:, ::-1], axis=1)[:, ::-1] > 0
