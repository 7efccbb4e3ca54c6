"""ConvBERT (Jiang et al., 2020): half of BERT's heads are span-based dynamic convolutions.

A layer has half as many heads, each half as wide again, so that attention fills half of the model
width. The other half is a convolution whose nine taps a token makes of itself and of the span
around it: the query times a depthwise-separable convolution of the input, a linear map, a softmax.

    k = softmax(W (q * conv(x))),   y_t = sum_w k_tw v_(t - 4 + w),   out([attention, y])

The small sizes have embeddings of width 128; the medium one's MLPs work in two groups.
Pre-training by replaced tokens is not built; what is added is the head of classification.

Parameters of the base size, two classes:

    tables, (30,522 + 512 + 2) x 768, norm 1,536                23,837,184
    a layer: query, key, value and the convolution's value,
             4 x (768 x 384 + 384)                               1,181,184
             9 x 768, 768 x 384 + 384, taps 384 x 54 + 54          322,998
             768 x 768 + 768 and two norms                         593,664
             768 x 3072 + 3072, 3072 x 768 + 768                 4,722,432
    twelve layers                                               81,843,336
    768 x 768 + 768, head                                          592,130

    >>> import scanmax
    >>> scanmax.model_info("convbert_base").params
    106272650

Reference: convbert
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax import ops
from scanmax.models.language.text_encoder import EncoderLayer, TextEncoder
from scanmax.models.layers import Conv, Dense, gelu
from scanmax.models.registry import Variant, register_family


class ConvBertLayer(EncoderLayer):
    """Attention and span-based dynamic convolution, side by side.

    Attributes:
      head_ratio: by how much the heads are fewer; at least one is left.
      kernel_size: taps of the convolution and width of the span, odd.
    """

    head_ratio: int = 2
    kernel_size: int = 9

    @nn.nowrap
    def mix(self, x: Float[Array, "B T D"], mask) -> Float[Array, "B T E"]:
        dim, fields = x.shape[-1], self.dtypes
        if self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size={self.kernel_size} must be odd.")
        heads = max(self.heads // self.head_ratio, 1)
        if dim % (2 * heads):
            raise ValueError(f"dim={dim} must be a multiple of twice its {heads} heads.")
        width = dim // heads // 2
        split, flat = (heads, width), (*x.shape[:2], heads * width)
        axes = ("embed", "heads", "kv")
        query, key, value = (
            Dense(split, axes, name=name, **fields)(x) for name in ("query", "key", "value")
        )
        span = Conv(
            dim, (self.kernel_size, 1), groups=dim, use_bias=False, name="span_depthwise", **fields
        )(x[:, :, None])[:, :, 0]
        span = Dense(heads * width, ("embed", "heads"), name="span_pointwise", **fields)(span)
        taps = Dense((heads, self.kernel_size), (None, "heads", None), name="taps", **fields)
        logits = taps(span * query.reshape(flat))
        conv_value = Dense(heads * width, ("embed", "heads"), name="conv_value", **fields)(x)
        convolved = ops.dynamic_conv(conv_value, logits, is_causal=False)
        attended = self.attend(query, key, value, mask).reshape(flat)
        return jnp.concatenate([attended, convolved], axis=-1)


class ConvBert(TextEncoder):
    """BERT with span-based dynamic convolutions.

    Attributes:
      num_classes: width of the head; 0 gives the first token's state [B, D], without the linear
        map of the head.
      heads: before the ratio takes its part.
      head_ratio: by how much the heads are fewer.
      kernel_size: taps of the convolutions, odd.
    """

    layer: ClassVar[type[EncoderLayer]] = ConvBertLayer

    head_ratio: int = 2
    kernel_size: int = 9

    @nn.nowrap
    def layer_fields(self) -> Mapping[str, Any]:
        own = {"head_ratio": self.head_ratio, "kernel_size": self.kernel_size}
        return {**super().layer_fields(), **own}

    @nn.nowrap
    def pool(self, x: Float[Array, "B D"], train: bool) -> Float[Array, "B D"]:
        if not self.num_classes:
            return x
        x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        return gelu(Dense(self.dim, ("mlp", "embed"), name="pooler", **self.dtypes)(x))


def _variant(params: int, dim: int, heads: int, embedding_dim: int, groups: int = 1) -> Variant:
    config = {
        "dim": dim,
        "heads": heads,
        "embedding_dim": embedding_dim,
        "mlp_hidden": 4 * dim,
        "mlp_groups": groups,
    }
    return Variant(params, (128,), "convbert", config)


VARIANTS = {
    "convbert_small": _variant(13_210_074, 256, 4, 128),
    "convbert_medium_small": _variant(17_624_498, 384, 8, 128, 2),
    "convbert_base": _variant(106_272_650, 768, 12, 768),
}

register_family("convbert", ConvBert, VARIANTS, input_kind="tokens")
