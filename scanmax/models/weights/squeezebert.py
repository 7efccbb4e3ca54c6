"""SqueezeBERT: the names of transformers, of the model alone or with its head of classification."""

import dataclasses

import flax.linen as nn
import numpy as np

from scanmax.models.weights.table import KeyTable, Row, Shape, linear, of_shape, pointwise

_EMBED = r"(?:transformer\.)?embeddings\."
_LAYER = r"(?:transformer\.)?encoder\.layers\.(\d+)\."
_OURS = "params/block_{0:02d}/"
_PARTS = (
    (r"attention\.query", "query"),
    (r"attention\.key", "key"),
    (r"attention\.value", "value"),
    (r"post_attention\.conv1d", "out_proj"),
    (r"intermediate\.conv1d", "fc1"),
    (r"output\.conv1d", "fc2"),
)


@of_shape(lambda ours: (ours[0] * ours[2], ours[1], 1) if len(ours) == 3 else (*ours[::-1], 1))
def grouped(x: np.ndarray, shape: Shape) -> np.ndarray:
    """torch's grouped [out, in / groups, 1] to [groups, in / groups, out / groups]."""
    if len(shape) == 2:
        return pointwise(x, shape)
    groups, inputs, outputs = shape
    if x.shape != (groups * outputs, inputs, 1):
        raise ValueError(f"has shape {tuple(x.shape)}, ours is {tuple(shape)}")
    return x.reshape(groups, outputs, inputs).transpose(0, 2, 1)


def embedding_rows(prefix: str) -> tuple[Row, ...]:
    """BERT's tables of tokens, places and segments, and their norm."""
    return (
        Row(prefix + r"word_embeddings\.weight", "params/embed/embedding"),
        Row(prefix + r"position_embeddings\.weight", "params/positions"),
        Row(prefix + r"token_type_embeddings\.weight", "params/segments"),
        Row(prefix + r"LayerNorm\.weight", "params/embed_norm/scale"),
        Row(prefix + r"LayerNorm\.bias", "params/embed_norm/bias"),
        # Older versions kept what it counts.
        Row(prefix + r"position_ids", ()),
    )


def layer_norm_rows(pattern: str, path: str) -> tuple[Row, ...]:
    """A layer norm."""
    return (
        Row(pattern + r"\.weight", f"{path}/scale"),
        Row(pattern + r"\.bias", f"{path}/bias"),
    )


TABLE = KeyTable(
    rows=(
        *embedding_rows(_EMBED),
        *(
            row
            for theirs, ours in _PARTS
            for row in (
                Row(_LAYER + theirs + r"\.weight", f"{_OURS}{ours}/kernel", grouped),
                Row(_LAYER + theirs + r"\.bias", f"{_OURS}{ours}/bias"),
            )
        ),
        *layer_norm_rows(_LAYER + r"post_attention\.layernorm", _OURS + "norm1"),
        *layer_norm_rows(_LAYER + r"output\.layernorm", _OURS + "norm2"),
        Row(r"(?:transformer\.)?pooler\.dense\.weight", "params/pooler/kernel", linear),
        Row(r"(?:transformer\.)?pooler\.dense\.bias", "params/pooler/bias"),
        Row(r"classifier\.weight", "params/head/kernel", linear),
        Row(r"classifier\.bias", "params/head/bias"),
        # Pre-training's.
        Row(r"cls\..*", ()),
    ),
    head=r"params/head/.*",
    layouts={"transformers": "first"},
)


def table(model: nn.Module) -> KeyTable:
    """The rows; without a head the layout is that of the model alone, whose names are shorter."""
    return dataclasses.replace(
        TABLE, layouts={"transformers": "first" if model.num_classes else "last"}
    )
