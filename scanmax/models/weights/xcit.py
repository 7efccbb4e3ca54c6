"""XCiT: the names of timm and of the original release."""

from scanmax.models.weights.table import (
    KeyTable,
    Row,
    bias,
    conv,
    linear,
    linear_of_heads,
    norm_rows,
    projection,
)

_BLOCK = r"blocks\.(\d+)\."
_OURS = "block_{0:02d}/"
_PARAMS = f"params/{_OURS}"
_CLASS = r"cls_attn_blocks\.(\d+)\."
_LATE = "params/class_block_{0:02d}/"
_QKV = tuple(f"{_LATE}attention/{name}/" for name in ("query", "key", "value"))


def _stem() -> list[Row]:
    rows = []
    # An activation stands between convolutions, and has a number.
    for index in range(4):
        pattern = rf"patch_embed\.proj\.{2 * index}\."
        rows.append(Row(pattern + r"0\.weight", f"params/stem{index}/conv/kernel", conv))
        rows += norm_rows(pattern + "1", f"stem{index}/norm")
    return rows


def _class_projection(index: int, letter: str) -> tuple[Row, Row]:
    pattern = _CLASS + rf"attn\.{letter}\."
    return (
        Row(pattern + "weight", _QKV[index] + "kernel", linear),
        Row(pattern + "bias", _QKV[index] + "bias", bias),
    )


TABLE = KeyTable(
    rows=(
        Row(r"cls_token", "params/cls_token", lead=1),
        *_stem(),
        Row(
            r"pos_embed(?:er)?\.token_projection\.weight",
            "params/pos_projection/kernel",
            projection,
        ),
        Row(r"pos_embed(?:er)?\.token_projection\.bias", "params/pos_projection/bias"),
        Row(_BLOCK + r"norm([123])\.weight", _PARAMS + "norm{1}/scale"),
        Row(_BLOCK + r"norm([123])\.bias", _PARAMS + "norm{1}/bias"),
        Row(_BLOCK + r"gamma([123])", _PARAMS + "layer_scale{1}/scale"),
        Row(_BLOCK + r"attn\.temperature", _PARAMS + "mixer/temperature", trail=2),
        Row(_BLOCK + r"attn\.qkv\.weight", _PARAMS + "mixer/qkv/kernel", linear),
        Row(_BLOCK + r"attn\.qkv\.bias", _PARAMS + "mixer/qkv/bias", bias),
        Row(_BLOCK + r"attn\.proj\.weight", _PARAMS + "mixer/out/kernel", linear_of_heads),
        Row(_BLOCK + r"attn\.proj\.bias", _PARAMS + "mixer/out/bias"),
        Row(_BLOCK + r"local_mp\.conv([12])\.weight", _PARAMS + "local/conv{1}/kernel", conv),
        Row(_BLOCK + r"local_mp\.conv([12])\.bias", _PARAMS + "local/conv{1}/bias"),
        *norm_rows(_BLOCK + r"local_mp\.bn", _OURS + "local/norm"),
        Row(_BLOCK + r"mlp\.fc([12])\.weight", _PARAMS + "mlp/fc{1}/kernel", linear),
        Row(_BLOCK + r"mlp\.fc([12])\.bias", _PARAMS + "mlp/fc{1}/bias"),
        Row(_CLASS + r"norm([12])\.weight", _LATE + "norm{1}/scale"),
        Row(_CLASS + r"norm([12])\.bias", _LATE + "norm{1}/bias"),
        Row(_CLASS + r"gamma([12])", _LATE + "layer_scale{1}/scale"),
        # The release has one matrix for the three.
        Row(_CLASS + r"attn\.qkv\.weight", tuple(path + "kernel" for path in _QKV), linear),
        Row(_CLASS + r"attn\.qkv\.bias", tuple(path + "bias" for path in _QKV), bias),
        *(row for index, letter in enumerate("qkv") for row in _class_projection(index, letter)),
        Row(_CLASS + r"attn\.proj\.weight", _LATE + "attention/out/kernel", linear_of_heads),
        Row(_CLASS + r"attn\.proj\.bias", _LATE + "attention/out/bias"),
        Row(_CLASS + r"mlp\.fc([12])\.weight", _LATE + "mlp/fc{1}/kernel", linear),
        Row(_CLASS + r"mlp\.fc([12])\.bias", _LATE + "mlp/fc{1}/bias"),
        Row(r"norm\.weight", "params/norm/scale"),
        Row(r"norm\.bias", "params/norm/bias"),
        Row(r"head\.weight", "params/head/kernel", linear),
        Row(r"head\.bias", "params/head/bias"),
    ),
    head=r"params/head/.*",
    stem=r"params/stem0/conv/kernel",
    layouts={"timm": "last", "authors": "first"},
)
