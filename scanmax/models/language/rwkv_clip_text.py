"""RWKV-CLIP's text tower (Gu et al., 2024): RWKV-6 in both directions over the tokens.

Vectors of tokens, a norm, blocks of RWKV's two mixes behind a shift of either half of each head to
one side, a norm. The features are the mean of the tokens' vectors, each of length one; padding is
read like any word, as released. The release has no head, whose 1,282 parameters are in the count.

    >>> import scanmax
    >>> scanmax.create_model("rwkv_clip_text_b32", num_classes=0).depth
    6

Reference: rwkv-clip
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array

from scanmax.models.blocks import apply_blocks
from scanmax.models.language.text_host import TextHost
from scanmax.models.layers import Embed, LayerNorm, constrain_last, drop_path_rates
from scanmax.models.registry import Feature, Variant, register_family
from scanmax.models.taps import tap
from scanmax.models.vision.map_host import quarter_blocks, quarter_features
from scanmax.models.vision.rwkv_clip import RwkvBlock, in_order
from scanmax.ops.attention.cosine import unit_vectors


class RwkvClipText(TextHost):
    """Blocks of RWKV over tokens, and the mean of their unit vectors.

    Attributes:
      num_classes: width of the head; 0 gives the features [B, D].
      dim: width of the model.
      mlp_hidden: width of the channel mixes.
      mixer_options: fields of "wkv6".
      drop_path_rate: of the last block; earlier ones have less.
      scan_layers: compile one block for all, whose initial values are then the first one's;
        parameters are stacked (blocks.stack_blocks).
    """

    vocab_size: int = 49_408
    dim: int = 640
    depth: int = 6
    heads: int = 10
    mlp_hidden: int = 2240
    mixer_options: Mapping[str, Mapping[str, Any]] | None = None
    norm_epsilon: float = 1e-5
    drop_path_rate: float = 0.0
    scan_layers: bool = False

    @nn.compact
    def forward(self, tokens, train, as_maps=False):
        def norm(name: str, x: Array) -> Array:
            return LayerNorm(self.norm_epsilon, name=name, **self.dtypes)(x)

        x = Embed(self.vocab_size, self.dim, name="embed", **self.dtypes)(tokens)
        x = tap(self, "stem", constrain_last(norm("embed_norm", x)))
        x, maps, _ = apply_blocks(
            self.block_fields(),
            x,
            drop_path_rates(self.drop_path_rate, self.depth),
            train=train,
            remat=self.remat,
            scan_layers=self.scan_layers,
            block=RwkvBlock,
            keep=quarter_blocks(self.depth) if as_maps else (),
        )
        if as_maps:
            return tuple(maps)
        x = unit_vectors(norm("norm", x))
        return self.classify(jnp.mean(x, axis=1).astype(self.dtype), train)

    @nn.nowrap
    def block_fields(self) -> list[dict[str, Any]]:
        """The fields of each block."""
        fields = {
            "mixer": "wkv6",
            "heads": self.heads,
            "mlp_hidden": self.mlp_hidden,
            "norm_epsilon": self.norm_epsilon,
            "shares_near": True,
            **self.dtypes,
        }
        # Sixty-four times that of the image tower, as the square of a divisor of its values.
        own = {"use_bias": False, "norm_epsilon": 64e-5}
        return in_order([fields] * self.depth, self.scan_layers, own, self.mixer_options)

    @nn.nowrap
    def feature_info(self) -> tuple[Feature, ...]:
        """Name, stride and channels: the hidden states behind each quarter of the blocks."""
        return quarter_features(self.depth, 1, self.dim)


VARIANTS = {"rwkv_clip_text_b32": Variant(65_355_522, (77,), "rwkv-clip", {})}

register_family("rwkv_clip_text", RwkvClipText, VARIANTS, input_kind="tokens")
