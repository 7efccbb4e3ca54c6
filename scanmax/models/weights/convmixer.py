"""ConvMixer: the names of timm."""

from scanmax.models.weights.table import KeyTable, Row, conv, linear, norm_rows, pointwise

_BLOCK = r"blocks\.(\d+)\."

TABLE = KeyTable(
    rows=(
        Row(r"stem\.0\.weight", "params/patch_embed/kernel", conv),
        Row(r"stem\.0\.bias", "params/patch_embed/bias"),
        *norm_rows(r"stem\.2", "stem_act/norm"),
        Row(_BLOCK + r"0\.fn\.0\.weight", "params/block_{0:02d}/depthwise/kernel", conv),
        Row(_BLOCK + r"0\.fn\.0\.bias", "params/block_{0:02d}/depthwise/bias"),
        *norm_rows(_BLOCK + r"0\.fn\.2", "block_{0:02d}/act1/norm"),
        Row(_BLOCK + r"1\.weight", "params/block_{0:02d}/pointwise/kernel", pointwise, trail=2),
        Row(_BLOCK + r"1\.bias", "params/block_{0:02d}/pointwise/bias"),
        *norm_rows(_BLOCK + r"3", "block_{0:02d}/act2/norm"),
        Row(r"head\.weight", "params/head/kernel", linear),
        Row(r"head\.bias", "params/head/bias"),
    ),
    head=r"params/head/.*",
    stem=r"params/patch_embed/kernel",
    layouts={"timm": "first"},
)
