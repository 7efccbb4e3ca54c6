"""ConvBERT: the names of transformers, of the model alone or with its head of classification."""

import dataclasses

import flax.linen as nn
import numpy as np

from scanmax.models.weights.squeezebert import embedding_rows, layer_norm_rows
from scanmax.models.weights.table import (
    KeyTable,
    Row,
    Shape,
    bias,
    causal_conv,
    linear,
    of_shape,
    pointwise,
    same,
)

_PREFIX = r"(?:convbert\.)?"
_LAYER = _PREFIX + r"encoder\.layer\.(\d+)\."
_SELF = _LAYER + r"attention\.self\."
_OURS = "params/block_{0:02d}/"


@of_shape(lambda ours: (ours[3], 1, ours[0]))
def _depthwise(x: np.ndarray, shape: Shape) -> np.ndarray:
    """torch's [channels, 1, width] to a kernel over tokens, [width, 1, 1, channels]."""
    return causal_conv(x, (shape[0], shape[-1])).reshape(shape)


@of_shape(lambda ours: ours if len(ours) == 3 else ours[::-1])
def _maybe_grouped(x: np.ndarray, shape: Shape) -> np.ndarray:
    """A linear layer, or a grouped one, which lies as ours does."""
    return same(x, shape) if len(shape) == 3 else linear(x, shape)


def _linear_rows(theirs: str, ours: str, transform=linear) -> tuple[Row, ...]:
    return (
        Row(theirs + r"\.weight", f"{ours}/kernel", transform),
        Row(theirs + r"\.bias", f"{ours}/bias", bias),
    )


TABLE = KeyTable(
    rows=(
        *embedding_rows(_PREFIX + r"embeddings\."),
        Row(_PREFIX + r"embeddings\.token_type_ids", ()),
        *_linear_rows(_PREFIX + r"embeddings_project", "params/embed_proj"),
        *_linear_rows(_SELF + r"(query|key|value)", _OURS + "{1}"),
        Row(
            _SELF + r"key_conv_attn_layer\.depthwise\.weight",
            _OURS + "span_depthwise/kernel",
            _depthwise,
        ),
        Row(
            _SELF + r"key_conv_attn_layer\.pointwise\.weight",
            _OURS + "span_pointwise/kernel",
            pointwise,
            trail=1,
        ),
        Row(_SELF + r"key_conv_attn_layer\.bias", _OURS + "span_pointwise/bias", trail=1),
        *_linear_rows(_SELF + r"conv_kernel_layer", _OURS + "taps"),
        *_linear_rows(_SELF + r"conv_out_layer", _OURS + "conv_value"),
        *_linear_rows(_LAYER + r"attention\.output\.dense", _OURS + "out_proj"),
        *layer_norm_rows(_LAYER + r"attention\.output\.LayerNorm", _OURS + "norm1"),
        *_linear_rows(_LAYER + r"intermediate\.dense", _OURS + "fc1", _maybe_grouped),
        *_linear_rows(_LAYER + r"output\.dense", _OURS + "fc2", _maybe_grouped),
        *layer_norm_rows(_LAYER + r"output\.LayerNorm", _OURS + "norm2"),
        *_linear_rows(r"classifier\.dense", "params/pooler"),
        *_linear_rows(r"classifier\.out_proj", "params/head"),
        # Pre-training's.
        Row(r"(?:generator|discriminator)_.*", ()),
    ),
    head=r"params/(?:pooler|head)/.*",
    layouts={"transformers": "first"},
)


def table(model: nn.Module) -> KeyTable:
    """The rows; without a head the layout is that of the model alone, whose names are shorter."""
    return dataclasses.replace(
        TABLE, layouts={"transformers": "first" if model.num_classes else "last"}
    )
