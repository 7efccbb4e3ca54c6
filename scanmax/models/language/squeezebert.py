"""SqueezeBERT (Iandola et al., 2020): BERT whose matrices are blocks on the diagonal.

Queries, keys, values and both matrices of the MLP work in four groups of channels, a quarter of
their weights and products; the output projection of attention mixes the groups. All else is BERT's:
post-norm layers, learned places and segments, tanh of a linear map of the first token.

Parameters of the published size, two classes:

    tables, (30,528 + 512 + 2) x 768, norm 1,536           23,841,792
    a layer: 3 x (4 x 192 x 192 + 768)                        444,672
             768 x 768 + 768 and two norms                    593,664
             4 x 192 x 768 + 3072, 4 x 768 x 192 + 768      1,183,488
    twelve layers                                          26,661,888
    pooler 768 x 768 + 768                                    590,592
    head                                                        1,538

    >>> import scanmax
    >>> scanmax.model_info("squeezebert_base").params
    51095810

Reference: squeezebert
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.models.language.text_encoder import EncoderLayer, TextEncoder
from scanmax.models.layers import Dense
from scanmax.models.parts.grouped_linear import grouped_dense
from scanmax.models.registry import Variant, register_family


class SqueezeBertLayer(EncoderLayer):
    """Attention whose queries, keys and values are grouped linear maps."""

    attention_groups: int = 4

    @nn.nowrap
    def mix(self, x: Float[Array, "B T D"], mask) -> Float[Array, "B T D"]:
        heads = (*x.shape[:2], self.heads, x.shape[-1] // self.heads)
        axes, fields = ("embed", "heads"), self.dtypes
        query, key, value = (
            grouped_dense(x.shape[-1], self.attention_groups, axes, name=name, **fields)(x)
            for name in ("query", "key", "value")
        )
        y = self.attend(query.reshape(heads), key.reshape(heads), value.reshape(heads), mask)
        return y.reshape(x.shape)


class SqueezeBert(TextEncoder):
    """BERT in groups of channels.

    Attributes:
      attention_groups: of queries, keys and values.
      mlp_groups: of both matrices of the MLPs.
    """

    layer: ClassVar[type[EncoderLayer]] = SqueezeBertLayer

    vocab_size: int = 30_528
    attention_groups: int = 4
    mlp_groups: int = 4

    @nn.nowrap
    def layer_fields(self) -> Mapping[str, Any]:
        return {**super().layer_fields(), "attention_groups": self.attention_groups}

    @nn.nowrap
    def pool(self, x: Float[Array, "B D"], train: bool) -> Float[Array, "B D"]:
        return jnp.tanh(Dense(self.dim, ("mlp", "embed"), name="pooler", **self.dtypes)(x))


VARIANTS = {"squeezebert_base": Variant(51_095_810, (128,), "squeezebert", {})}

register_family("squeezebert", SqueezeBert, VARIANTS, input_kind="tokens")
