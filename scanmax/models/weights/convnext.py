"""ConvNeXt: the names of timm, and those of the original release."""

from scanmax.models.weights.table import KeyTable, Row, conv, linear, pointwise

_BLOCK = r"stages\.(\d+)\.(?:blocks\.)?(\d+)\."
_OURS = "params/stage{0}_block_{1:02d}/"
_DOWN = r"(?:stages\.([1-3])\.downsample|downsample_layers\.([1-3]))\."

TABLE = KeyTable(
    rows=(
        Row(r"(?:stem|downsample_layers\.0)\.0\.weight", "params/patch_embed/kernel", conv),
        Row(r"(?:stem|downsample_layers\.0)\.0\.bias", "params/patch_embed/bias"),
        Row(r"(?:stem|downsample_layers\.0)\.1\.weight", "params/patch_norm/scale"),
        Row(r"(?:stem|downsample_layers\.0)\.1\.bias", "params/patch_norm/bias"),
        # Whichever of the two groups did not take part is empty.
        Row(_DOWN + r"0\.weight", "params/downsample{0}{1}_norm/scale"),
        Row(_DOWN + r"0\.bias", "params/downsample{0}{1}_norm/bias"),
        Row(_DOWN + r"1\.weight", "params/downsample{0}{1}/kernel", conv),
        Row(_DOWN + r"1\.bias", "params/downsample{0}{1}/bias"),
        Row(_BLOCK + r"(?:conv_dw|dwconv)\.weight", _OURS + "conv/kernel", conv),
        Row(_BLOCK + r"(?:conv_dw|dwconv)\.bias", _OURS + "conv/bias"),
        Row(_BLOCK + r"norm\.weight", _OURS + "norm/scale"),
        Row(_BLOCK + r"norm\.bias", _OURS + "norm/bias"),
        Row(_BLOCK + r"(?:mlp\.fc|pwconv)([12])\.weight", _OURS + "mlp/fc{2}/kernel", pointwise),
        Row(_BLOCK + r"(?:mlp\.fc|pwconv)([12])\.bias", _OURS + "mlp/fc{2}/bias"),
        Row(_BLOCK + r"gamma", _OURS + "layer_scale/scale"),
        Row(r"(?:head\.)?norm\.weight", "params/norm/scale"),
        Row(r"(?:head\.)?norm\.bias", "params/norm/bias"),
        Row(r"head\.(?:fc\.)?weight", "params/head/kernel", linear),
        Row(r"head\.(?:fc\.)?bias", "params/head/bias"),
    ),
    head=r"params/head/.*",
    stem=r"params/patch_embed/kernel",
    layouts={"timm": "first", "authors": "last"},
)
