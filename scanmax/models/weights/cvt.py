"""CvT: the names of transformers and of the original release."""

import dataclasses

import flax.linen as nn

from scanmax.models.weights.table import (
    KeyTable,
    Row,
    bias,
    conv,
    linear,
    linear_of_heads,
    norm_rows,
)

_STAGE = r"(?:cvt\.encoder\.stages\.|stage)(\d)\."
_EMBED = _STAGE + r"(?:embedding\.convolution_embeddings|patch_embed)\."
_BLOCK = _STAGE + r"(?:layers|blocks)\.(\d+)\."
_OURS = "stage{0}_block_{1:02d}/"
# Of the three projections: theirs, either way, and ours.
_PROJECTIONS = {
    "query": ("query", "q"),
    "key": ("key", "k"),
    "value": ("value", "v"),
}


def _embedding() -> tuple[Row, ...]:
    def named(tail: str):
        def path(stage: int) -> str:
            name = f"downsample{stage}" if stage else "patch_embed"
            return f"params/{name}{tail}"

        return path

    return (
        Row(_EMBED + r"proj(?:ection)?\.weight", named("/kernel"), conv),
        Row(_EMBED + r"proj(?:ection)?\.bias", named("/bias")),
        Row(_EMBED + r"norm(?:alization)?\.weight", named("_norm/scale")),
        Row(_EMBED + r"norm(?:alization)?\.bias", named("_norm/bias")),
    )


def _projections() -> tuple[Row, ...]:
    rows = []
    for ours, (long, short) in _PROJECTIONS.items():
        inner = rf"attention\.convolution_projection_{long}\.convolution_projection"
        theirs = _BLOCK + rf"(?:attention\.{inner}|attn\.conv_proj_{short})\."
        place = _OURS + f"mixer/{ours}"
        rows.append(Row(theirs + r"conv(?:olution)?\.weight", f"params/{place}_conv/kernel", conv))
        rows += norm_rows(theirs + r"(?:normalization|bn)", f"{place}_norm")
        theirs = _BLOCK + rf"(?:attention\.attention\.projection_{long}|attn\.proj_{short})\."
        rows.append(Row(theirs + r"weight", f"params/{place}/kernel", linear))
        rows.append(Row(theirs + r"bias", f"params/{place}/bias", bias))
    return tuple(rows)


_PARAMS = "params/" + _OURS
_FC1 = _BLOCK + r"(?:intermediate\.dense|mlp\.fc1)\."
_FC2 = _BLOCK + r"(?:output\.dense|mlp\.fc2)\."

TABLE = KeyTable(
    rows=(
        *_embedding(),
        *_projections(),
        Row(_BLOCK + r"(?:layernorm_before|norm1)\.weight", _PARAMS + "norm1/scale"),
        Row(_BLOCK + r"(?:layernorm_before|norm1)\.bias", _PARAMS + "norm1/bias"),
        Row(_BLOCK + r"(?:layernorm_after|norm2)\.weight", _PARAMS + "norm2/scale"),
        Row(_BLOCK + r"(?:layernorm_after|norm2)\.bias", _PARAMS + "norm2/bias"),
        Row(
            _BLOCK + r"(?:attention\.output\.dense|attn\.proj)\.weight",
            _PARAMS + "mixer/out/kernel",
            linear_of_heads,
        ),
        Row(_BLOCK + r"(?:attention\.output\.dense|attn\.proj)\.bias", _PARAMS + "mixer/out/bias"),
        Row(
            _BLOCK + r"(?:intermediate\.dense|mlp\.fc1)\.weight", _PARAMS + "mlp/fc1/kernel", linear
        ),
        Row(_BLOCK + r"(?:intermediate\.dense|mlp\.fc1)\.bias", _PARAMS + "mlp/fc1/bias"),
        Row(_BLOCK + r"(?:output\.dense|mlp\.fc2)\.weight", _PARAMS + "mlp/fc2/kernel", linear),
        Row(_BLOCK + r"(?:output\.dense|mlp\.fc2)\.bias", _PARAMS + "mlp/fc2/bias"),
        Row(r"(?:layernorm|norm)\.weight", "params/norm/scale"),
        Row(r"(?:layernorm|norm)\.bias", "params/norm/bias"),
        Row(r"(?:classifier|head)\.weight", "params/head/kernel", linear),
        Row(r"(?:classifier|head)\.bias", "params/head/bias"),
    ),
    head=r"params/head/.*",
    stem=r"params/patch_embed/kernel",
    layouts={"transformers": "first", "authors": "last"},
)


def table(model: nn.Module) -> KeyTable:
    """The rows; the class token is the last stage's."""
    last = len(model.dims) - 1
    names = rf"(?:cvt\.encoder\.stages\.|stage){last}\.cls_token"
    token = Row(names, "params/cls_token", lead=1)
    return dataclasses.replace(TABLE, rows=(token, *TABLE.rows))
