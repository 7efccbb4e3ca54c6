"""Inception v3: the names of timm, which are those of torchvision too."""

from scanmax.models.weights.table import KeyTable, Row, conv, linear, norm_rows

_STEM = r"Conv2d_(?:(1a|2a|2b|4a)_3x3|(3b)_1x1)"
_BRANCHES = (
    "1x1|_pool|3x3|3x3_[12][ab]?|5x5_[12]|3x3dbl_[123][ab]?|7x7_[123]|7x7dbl_[1-5]|7x7x3_[1-4]"
)
_BLOCK = rf"Mixed_([5-7][a-e])\.(branch(?:{_BRANCHES}))"
_AUX = r"AuxLogits\.(conv[01])"

TABLE = KeyTable(
    rows=(
        Row(_STEM + r"\.conv\.weight", "params/conv{0}{1}/conv/kernel", conv),
        *norm_rows(_STEM + r"\.bn", "conv{0}{1}/norm"),
        Row(_BLOCK + r"\.conv\.weight", "params/mixed{0}/{1}/conv/kernel", conv),
        *norm_rows(_BLOCK + r"\.bn", "mixed{0}/{1}/norm"),
        Row(_AUX + r"\.conv\.weight", "params/aux/{0}/conv/kernel", conv),
        *norm_rows(_AUX + r"\.bn", "aux/{0}/norm"),
        Row(r"AuxLogits\.fc\.weight", "params/aux/fc/kernel", linear),
        Row(r"AuxLogits\.fc\.bias", "params/aux/fc/bias"),
        Row(r"fc\.weight", "params/head/kernel", linear),
        Row(r"fc\.bias", "params/head/bias"),
    ),
    # The auxiliary head comes and goes whole.
    head=r"params/head/.*|(params|batch_stats)/aux/.*",
    stem=r"params/conv1a/conv/kernel",
    layouts={"timm": "first", "torchvision": "first"},
)
