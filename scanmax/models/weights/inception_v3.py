"""Inception v3: the names of timm, which are those of torchvision too."""

from scanmax.models.weights.table import KeyTable, Row, conv, linear, norm_rows

_STEM = r"Conv2d_(\d\w)_\dx\d"
_BLOCK = r"Mixed_(\d\w)\.(branch\w+)"
_AUX = r"AuxLogits\.(conv\d)"

TABLE = KeyTable(
    rows=(
        Row(_STEM + r"\.conv\.weight", "params/conv{0}/conv/kernel", conv),
        *norm_rows(_STEM + r"\.bn", "conv{0}/norm"),
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
)
