"""Byte-level recursive auto-encoder (Zhang and LeCun, 2018): texts of any length by shared layers.

Bytes, padded with zeros to a power of two, go through n convolutions of width 3 (prefix); through n
convolutions and a max pool of 2, again and again with the same weights until `base` frames are left
(recursion); and, as one vector, through n linear layers (postfix): the code. The decoder mirrors
it: n linear layers; n convolutions whose first makes twice the channels, which become twice the
length, again and again; n convolutions, whose channels are scores of the bytes. All bytes are told
at once. A shortcut skips every two layers; nothing is normalised.

Layers on the way, n = 8 and 1024 bytes: 2 (8 + 8 x 8 + 8) = 160. Parameters do not depend on the
length; biases included they are, with 256 channels and 4 frames:

    encoder   prefix, recursion    2n x 196,864     (3 x 256 x 256 + 256)
              postfix               n x 1,049,600   (1024 x 1024 + 1024)
    decoder   prefix                n x 1,049,600
              recursion                393,728      (3 x 256 x 512 + 512)
                                (n - 1) x 196,864
              postfix               n x 196,864

which is 23,290,112 for n = 8. The authors' code is not public. Of others' code and the paper's
abstract two things are not settled: the shortcut of the pair that doubles the length, here each
frame twice (`expand_shortcut`), and the variance that weights start with, here He's, and a tenth of
its deviation for the second layer of each pair (`branch_scale`), by which a hundred layers start
near the identity.

    >>> import scanmax
    >>> scanmax.create_model("byte_recursive_ae_8").layers(1024)
    160

Reference: byte-recursive-conv-ae
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from scanmax.errors import UserError
from scanmax.models.blocks import rematerialised
from scanmax.models.layers import Conv, Dense, Embed, constrain_last
from scanmax.models.registry import Feature, Variant, register_family
from scanmax.models.taps import tap


class Pair(nn.Module):
    """relu(x + layer2(relu(layer1(x)))), of convolutions of width 3 or of linear maps.

    Attributes:
      linear: linear maps of the last axis.
      expands: the first makes twice the channels, every second half of which is a frame of its own;
        the shortcut takes each frame twice, or is left out.
      bends: a relu behind the sum.
      branch_scale: deviation of the second layer's weights at the start, in He's.
    """

    linear: bool = False
    expands: bool = False
    shortcut: bool = True
    bends: bool = True
    branch_scale: float = 0.1
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B *T D"]) -> Float[Array, "B *U D"]:
        width = x.shape[-1]
        y = self.layer(2 * width if self.expands else width, 1.0, "layer1")(x)
        if self.expands:
            y = y.reshape(x.shape[0], 2 * x.shape[1], width)
        y = self.layer(width, self.branch_scale, "layer2")(nn.relu(y))
        if self.shortcut:
            y = y + (jnp.repeat(x, 2, axis=1) if self.expands else x)
        return constrain_last(nn.relu(y) if self.bends else y)

    @nn.nowrap
    def layer(self, features: int, scale: float, name: str) -> Callable[[Array], Array]:
        """A layer of the pair."""
        fields = {
            "kernel_init": nn.initializers.variance_scaling(2 * scale**2, "fan_in", "normal"),
            "name": name,
            "dtype": self.dtype,
            "param_dtype": self.param_dtype,
        }
        if self.linear:
            return Dense(features, ("embed", "mlp"), **fields)
        conv = Conv(features, (3, 1), padding=((1, 1), (0, 0)), **fields)
        return lambda x: conv(x[:, :, None])[:, :, 0]


class ByteRecursiveAe(nn.Module):
    """Tokens to a code of one size, and back to scores of all tokens at once.

    Attributes:
      vocab_size: tokens; 0 is what texts are padded with.
      dim: channels. Where there are as many as tokens, these come as they are, one channel each,
        and the last channels are scores; elsewhere a table and a linear map stand at the ends.
      depth: layers of each group, even.
      base: frames at which the recursion ends, a power of two; the code is base * dim wide.
      expand_shortcut: the pair that doubles the length has a shortcut.
      branch_scale: deviation that the second layer of each pair starts with, in He's.
      remat: recompute activations backwards; a string names a jax.checkpoint_policies entry.
    """

    vocab_size: int = 256
    dim: int = 256
    depth: int = 8
    base: int = 4
    expand_shortcut: bool = True
    branch_scale: float = 0.1
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32
    remat: bool | str = False

    def setup(self):
        if self.depth < 2 or self.depth % 2:
            raise UserError(f"depth={self.depth}: layers come in pairs")
        if self.base < 1 or self.base & (self.base - 1):
            raise UserError(f"base={self.base} must be a power of two")
        pairs = self.depth // 2
        self.encoder_prefix = [self.pair() for _ in range(pairs)]
        self.encoder_recursion = [self.pair() for _ in range(pairs)]
        self.encoder_postfix = [
            self.pair(linear=True, bends=index < pairs - 1) for index in range(pairs)
        ]
        self.decoder_prefix = [self.pair(linear=True) for _ in range(pairs)]
        first = self.pair(expands=True, shortcut=self.expand_shortcut)
        self.decoder_recursion = [first, *(self.pair() for _ in range(pairs - 1))]
        ends = self.has_ends
        self.decoder_postfix = [self.pair(bends=ends or i < pairs - 1) for i in range(pairs)]
        if ends:
            self.embed = Embed(self.vocab_size, self.dim, **self.dtypes)
            self.head = Dense(self.vocab_size, ("embed", "vocab"), **self.dtypes)

    def __call__(self, tokens: Int[Array, "B T"], train: bool = False) -> Float[Array, "B T vocab"]:
        """Logits of every token, of a text of any length."""
        return self.decode(self.encode(tokens), tokens.shape[1])

    def encode(self, tokens: Int[Array, "B T"]) -> Float[Array, "B code"]:
        """The code of a text."""
        x = self.prefixed(tokens)
        levels = self.levels(tokens.shape[1])
        if self.is_initializing() and not levels:
            # Longer texts need its parameters.
            through(self.encoder_recursion, x)
        for _ in range(levels):
            x = nn.max_pool(through(self.encoder_recursion, x), (2,), (2,))
        return through(self.encoder_postfix, x.reshape(x.shape[0], self.base * self.dim))

    def decode(self, code: Float[Array, "B code"], length: int) -> Float[Array, "B T vocab"]:
        """Logits of `length` tokens of a code."""
        x = through(self.decoder_prefix, code.astype(self.dtype))
        x = x.reshape(x.shape[0], self.base, self.dim)
        levels = self.levels(length)
        if self.is_initializing() and not levels:
            through(self.decoder_recursion, x)
        for _ in range(levels):
            x = through(self.decoder_recursion, x)
        x = tap(self, "pre_logits", through(self.decoder_postfix, x)[:, :length])
        return self.head(x) if self.has_ends else x

    def features(
        self, tokens: Int[Array, "B T"], train: bool = False
    ) -> tuple[Float[Array, "B T D"], ...]:
        """The map behind the encoder's prefix."""
        return (self.prefixed(tokens)[:, : tokens.shape[1]],)

    def prefixed(self, tokens: Int[Array, "B T"]) -> Float[Array, "B U D"]:
        """The map behind the prefix, of the padded text."""
        length = tokens.shape[1]
        padded = self.base * 2 ** self.levels(length)
        tokens = jnp.pad(tokens, ((0, 0), (0, padded - length)))
        x = self.embed(tokens) if self.has_ends else nn.one_hot(tokens, self.dim, dtype=self.dtype)
        return through(self.encoder_prefix, tap(self, "stem", x))

    @nn.nowrap
    def levels(self, length: int) -> int:
        """How often the recursion runs for a text of `length` tokens."""
        return max((-(-length // self.base) - 1).bit_length(), 0)

    @nn.nowrap
    def layers(self, length: int) -> int:
        """Layers with parameters on the way of a text, those of the recursion once a level."""
        return 2 * self.depth * (2 + self.levels(length))

    @property
    def has_ends(self) -> bool:
        """Whether a table and a linear map stand at the ends."""
        return self.dim != self.vocab_size

    @property
    def dtypes(self) -> dict[str, Any]:
        """Dtypes that every layer takes."""
        return {"dtype": self.dtype, "param_dtype": self.param_dtype}

    @nn.nowrap
    def pair(self, **fields: Any) -> Pair:
        """Two layers of a group."""
        kind = rematerialised(Pair, self.remat, static=())
        return kind(branch_scale=self.branch_scale, **fields, **self.dtypes)

    @nn.nowrap
    def feature_info(self) -> tuple[Feature, ...]:
        """Name, stride and channels: the map behind the encoder's prefix."""
        return (Feature("prefix", 1, self.dim),)


def through(pairs: list[Pair], x: Array) -> Array:
    """x behind all layers of a group."""
    for pair in pairs:
        x = pair(x)
    return x


def _variant(params: int, depth: int) -> Variant:
    return Variant(params, (1024,), "byte-recursive-conv-ae", {"depth": depth})


VARIANTS = {
    "byte_recursive_ae_2": _variant(5_970_176, 2),
    "byte_recursive_ae_4": _variant(11_743_488, 4),
    "byte_recursive_ae_8": _variant(23_290_112, 8),
}

register_family("byte_recursive_ae", ByteRecursiveAe, VARIANTS, input_kind="tokens")
