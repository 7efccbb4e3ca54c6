"""CharCNN (Zhang and LeCun, 2015): text from its characters alone, the last one first.

Every character is a one of 70 (letters, digits, punctuation, the end of a line), or nothing; 1014
of them go through six convolutions without padding, maxima of three behind the first, the second
and the last, and two wide layers. `character_tokens` makes the tokens of a text.

Parameters of the large network, 14 classes; the small one has 256 channels and 1024 wide ones:

    7 x 70 x 1024 + 1024            502,784     34 frames x 1024 x 2048 + 2048      71,305,216
    7 x 1024 x 1024 + 1024        7,341,056     2048 x 2048 + 2048                   4,196,352
    3 x 1024 x 1024 + 1024, x4   12,587,008     2048 x 14 + 14                          28,686

    >>> import scanmax
    >>> scanmax.model_info("char_cnn_large").params
    95961102

Reference: char-cnn
"""

import flax.linen as nn
import jax
import numpy as np

from scanmax.errors import UserError
from scanmax.models.blocks import rematerialised
from scanmax.models.language.text_host import TextHost
from scanmax.models.layers import Dense, constrain_last
from scanmax.models.parts.conv_norm import ConvNorm
from scanmax.models.registry import Feature, Variant, register_family
from scanmax.models.taps import tap

# The hyphen stands twice, as in the paper: the second is never seen.
ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789-,;.!?:'\"/\\|_@#$%^&*~`+-=<>()[]{}\n"


def character_tokens(text: str, length: int = 1014) -> np.ndarray:
    """The last `length` characters of a text as tokens, the last one first.

    Args:
      text: of any case.
      length: of the result; a shorter text is followed by padding.

    Returns:
      int32 [length]; 0 is padding and what is not in the alphabet.

    Example:
      >>> character_tokens("Ab é!", 6).tolist()
      [41, 0, 0, 2, 1, 0]
    """
    tokens = np.zeros(length, np.int32)
    last = text.lower()[::-1][:length]
    tokens[: len(last)] = [ALPHABET.find(character) + 1 for character in last]
    return tokens


class CharCnn(TextHost):
    """Characters as ones, convolutions and maxima, two wide layers, a head.

    Attributes:
      num_classes: width of the head; 0 gives the second wide layer [B, C].
      vocab_size: characters, and padding, which is no character.
      length: characters of a text; the first wide layer reads all frames.
      dim: channels.
      kernels: characters or frames that each convolution reads.
      pools: of how many places the maximum is taken behind each.
      hidden_dim: width of the wide layers.
      init_scale: deviation of the initial weights.
      dropout_rate: behind both wide layers; 0.5 in the paper.
    """

    num_classes: int = 14
    vocab_size: int = len(ALPHABET) + 1
    length: int = 1014
    dim: int = 1024
    kernels: tuple[int, ...] = (7, 7, 3, 3, 3, 3)
    pools: tuple[int, ...] = (3, 3, 1, 1, 1, 3)
    hidden_dim: int = 2048
    init_scale: float = 0.02

    @nn.compact
    def forward(self, tokens, train, as_maps=False):
        if len(self.kernels) != len(self.pools):
            raise UserError(
                f"kernels={self.kernels} and pools={self.pools} must name as many layers each"
            )
        if tokens.ndim != 2 or tokens.shape[1] != self.length:
            raise ValueError(
                f"tokens have shape {tokens.shape}; expected [B, T] with T = length={self.length}."
            )
        # Token 0 is nothing: all zeros.
        x = jax.nn.one_hot(tokens - 1, self.vocab_size - 1, dtype=self.dtype)
        x = tap(self, "stem", constrain_last(x))[:, :, None]
        init, maps = nn.initializers.normal(self.init_scale), []
        conv = rematerialised(ConvNorm, self.remat)
        fields = {"use_bias": True, "use_norm": False, "padding": "VALID", "kernel_init": init}
        for index, (kernel, pool) in enumerate(zip(self.kernels, self.pools)):
            if x.shape[1] < kernel + pool - 1:
                raise UserError(f"length={self.length} is too short for kernels={self.kernels}")
            layer = conv(self.dim, (kernel, 1), name=f"conv{index}", **fields, **self.dtypes)
            x = layer(x, train)
            if pool > 1:
                x = nn.max_pool(x, (pool, 1), (pool, 1))
                maps.append(x[:, :, 0])
        if as_maps:
            return tuple(maps)
        x = x.reshape(x.shape[0], x.shape[1] * x.shape[3])
        for name, axes in (("hidden1", ("conv_in", "mlp")), ("hidden2", ("mlp", "embed"))):
            x = Dense(self.hidden_dim, axes, kernel_init=init, name=name, **self.dtypes)(x)
            x = nn.relu(x)
            if name == "hidden1":
                x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        return self.classify(x, train, kernel_init=init)

    @nn.nowrap
    def feature_info(self) -> tuple[Feature, ...]:
        """Name, stride and channels of each pooled map; without padding they are shorter."""
        strides = np.cumprod(self.pools).tolist()
        return tuple(
            Feature(f"pool{index}", stride, self.dim)
            for index, (stride, pool) in enumerate(zip(strides, self.pools))
            if pool > 1
        )


_SMALL = {"dim": 256, "hidden_dim": 1024, "init_scale": 0.05}
VARIANTS = {
    "char_cnn_large": Variant(95_961_102, (1014,), "char-cnn", {}),
    "char_cnn_small": Variant(11_350_030, (1014,), "char-cnn", _SMALL),
}

register_family("char_cnn", CharCnn, VARIANTS, input_kind="tokens")
