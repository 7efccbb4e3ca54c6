"""T2T-ViT (Yuan et al., 2021): overlapping windows of tokens are joined to tokens, then a thin ViT.

Windows of pixels are tokens of a small attention layer, windows of its outputs those of the next,
and a linear map of the last windows gives the tokens of a deep and narrow ViT with fixed positions.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax import ops
from scanmax.errors import UserError
from scanmax.models.layers import Dense, LayerNorm, Mlp, check_patches
from scanmax.models.mixers import with_defaults
from scanmax.models.registry import Variant, register_family
from scanmax.models.statistics import at_least_float32
from scanmax.models.vision.vit import VisionTransformer

STEMS = ("performer", "transformer")


def soft_split(
    x: Float[Array, "B Y X C"], size: int, stride: int, padding: int
) -> Float[Array, "B U V W"]:
    """Every window of a map as one token: W = C size^2, a channel's window in a row.

    >>> x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    >>> soft_split(x, 3, 2, 1)[0, 1, 1]  # the pixels about the third of the third row
    Array([ 5.,  6.,  7.,  9., 10., 11., 13., 14., 15.], dtype=float32)
    """
    x = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    rows, columns = ((side - size) // stride + 1 for side in x.shape[1:3])
    taps = [
        x[:, row : row + stride * rows : stride, column : column + stride * columns : stride]
        for row in range(size)
        for column in range(size)
    ]
    taps = [tap[:, :rows, :columns] for tap in taps]
    return jnp.stack(taps, axis=-1).reshape(x.shape[0], rows, columns, x.shape[-1] * size**2)


class TokenLayer(nn.Module):
    """v + out(attention(x)), then y + mlp(norm(y)): tokens of one width become those of another.

    The values take the part of the input, whose width is another, beside the attention.

    Attributes:
      kind: "transformer", softmax attention whose logits are divided by the root of the width of
        the input, or "performer", by positive random features: the directions are drawn once, and
        kept beside the running averages, for training does not move them.
      features: random features, for "performer".
    """

    dim: int = 64
    kind: str = "performer"
    features: int = 32
    norm_epsilon: float = 1e-5
    dropout_rate: float = 0.0
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B T W"], train: bool = False) -> Float[Array, "B T D"]:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        fast, width = self.kind == "performer", x.shape[-1]
        x = LayerNorm(self.norm_epsilon, name="norm1", **dtypes)(x)
        shape, axes = (3, 1, self.dim), ("embed", None, "heads", "kv")
        # The releases have keys or queries first.
        name = "kqv" if fast else "qkv"
        first, second, value = jnp.moveaxis(
            Dense(shape, axes, use_bias=fast, name=name, **dtypes)(x), 2, 0
        )
        if fast:
            y = self.estimate(second, first, value)
        else:
            y = ops.dot_product_attention(first, second, value, scale=width**-0.5)
        out = Dense(self.dim, ("heads", "kv", "embed"), contract=2, name="out", **dtypes)(y)
        drop = nn.Dropout(self.dropout_rate, deterministic=not train)
        x = value[:, :, 0] + drop(out)
        y = LayerNorm(self.norm_epsilon, name="norm2", **dtypes)(x)
        mlp = Mlp(self.dim, dropout_rate=self.dropout_rate, name="mlp", **dtypes)
        return x + mlp(y, train=train)

    @nn.nowrap
    def estimate(self, query, key, value):
        """Attention by random features, of unscaled logits; sums of all tokens keep their range."""

        def draw():
            key, dtype = self.make_rng("params"), at_least_float32(self.param_dtype)
            sizes = (self.features, self.dim)
            return self.features**0.5 * jax.nn.initializers.orthogonal()(key, sizes, dtype)

        directions = self.variable("batch_stats", "directions", draw).value
        query, key = (
            ops.positive_random_features(x, directions, scale=1.0, stabilize=kind)
            for x, kind in ((query, "token"), (key, "sequence"))
        )
        return ops.linear_attention(query, key, value, normalize=True, is_causal=False)


class T2tVit(VisionTransformer):
    """Windows of tokens joined step by step, fixed positions, equal blocks, the class token.

    Attributes:
      patch_size: stride of the tokens, 4 times a power of two from 2 on: one layer for each factor.
      stem: layers between the windows, "performer" or "transformer".
      token_dim: their width.
      scale: what the blocks' logits are divided by the root of: "head", the width of one, or
        "model". The release trained its published weights by the second, and starts by the first.
    Others are those of `VisionTransformer`; `dropout_rate` is of the stem's layers too, for which
    the release has 0.1 with "performer".

    Example:
      >>> import jax, scanmax
      >>> model = scanmax.create_model("t2t_vit_7", num_classes=10)
      >>> example = scanmax.model_info("t2t_vit_7").example()  # [1, 224, 224, 3]
      >>> jax.eval_shape(model.init_with_output, jax.random.key(0), example)[0].shape
      (1, 10)

    Reference: t2t-vit
    """

    stem: str = "performer"
    token_dim: int = 64
    scale: str = "head"
    mlp_ratio: float = 3.0
    positions: str = "sinusoid"
    norm_epsilon: float = 1e-5
    mixer_options: Mapping[str, Mapping[str, Any]] | None = None

    @nn.nowrap
    def embed_patches(self, images: Float[Array, "B Yi Xi C"], train: bool):
        if self.stem not in STEMS:
            raise UserError(f"stem={self.stem!r} is not one of {', '.join(STEMS)}")
        size = self.patch_size
        if size < 8 or size & (size - 1):
            raise UserError(f"patch_size={size}: windows are joined to a power of two from 8 on")
        check_patches(images, size)
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = soft_split(images.astype(self.dtype), 7, 4, 2)
        for index in range(size.bit_length() - 3):
            layer = TokenLayer(
                self.token_dim,
                self.stem,
                features=self.token_dim // 2,
                norm_epsilon=self.norm_epsilon,
                dropout_rate=self.dropout_rate,
                name=f"tokens{index}",
                **dtypes,
            )
            y = layer(jax.lax.collapse(x, 1, 3), train)
            x = soft_split(y.reshape(*x.shape[:3], self.token_dim), 3, 2, 1)
        return Dense(self.dim, (None, "embed"), name="patch_embed", **dtypes)(x)

    @nn.nowrap
    def plain_block_fields(self) -> list[dict[str, Any]]:
        own = {"qkv_bias": False, "scale": self.scale}
        options = with_defaults({"attention": own}, self.mixer_options)
        return [fields | {"mixer_options": options} for fields in super().plain_block_fields()]


def _variant(params: int, depth: int, dim: int, heads: int, **fields: Any) -> Variant:
    config = {"depth": depth, "dim": dim, "heads": heads, **fields}
    return Variant(params, (224, 224, 3), "t2t-vit", config)


_LITE, _T = {"mlp_ratio": 2.0}, {"stem": "transformer"}

VARIANTS = {
    "t2t_vit_7": _variant(4_255_694, 7, 256, 4, **_LITE),
    "t2t_vit_10": _variant(5_834_702, 10, 256, 4, **_LITE),
    "t2t_vit_12": _variant(6_887_374, 12, 256, 4, **_LITE),
    "t2t_vit_14": _variant(21_465_806, 14, 384, 6),
    "t2t_vit_19": _variant(39_085_070, 19, 448, 7),
    "t2t_vit_24": _variant(64_000_974, 24, 512, 8),
    "t2t_vit_t_14": _variant(21_465_422, 14, 384, 6, **_T),
    "t2t_vit_t_19": _variant(39_084_686, 19, 448, 7, **_T),
    "t2t_vit_t_24": _variant(64_000_590, 24, 512, 8, **_T),
    "t2t_vit_14_resnext": _variant(21_465_806, 14, 384, 32),
    "t2t_vit_14_wide": _variant(25_000_910, 4, 768, 12),
}

register_family("t2t_vit", T2tVit, VARIANTS)
