"""InceptionNeXt: the names of timm."""

from scanmax.models.weights.table import KeyTable, Row, conv, linear, norm_rows, projection

_BLOCK = r"stages\.(\d+)\.blocks\.(\d+)\."
_OURS = "stage{0}_block_{1:02d}/"
_MIXER = f"params/{_OURS}mixer/"

TABLE = KeyTable(
    rows=(
        Row(r"stem\.0\.weight", "params/patch_embed/kernel", conv),
        Row(r"stem\.0\.bias", "params/patch_embed/bias"),
        *norm_rows(r"stem\.1", "patch_norm"),
        *norm_rows(r"stages\.(\d+)\.downsample\.0", "downsample{0}_norm"),
        Row(r"stages\.(\d+)\.downsample\.1\.weight", "params/downsample{0}/kernel", conv),
        Row(r"stages\.(\d+)\.downsample\.1\.bias", "params/downsample{0}/bias"),
        Row(_BLOCK + r"token_mixer\.dwconv_hw\.weight", _MIXER + "square_kernel", conv),
        Row(_BLOCK + r"token_mixer\.dwconv_hw\.bias", _MIXER + "square_bias"),
        Row(_BLOCK + r"token_mixer\.dwconv_w\.weight", _MIXER + "row_kernel", conv),
        Row(_BLOCK + r"token_mixer\.dwconv_w\.bias", _MIXER + "row_bias"),
        Row(_BLOCK + r"token_mixer\.dwconv_h\.weight", _MIXER + "column_kernel", conv),
        Row(_BLOCK + r"token_mixer\.dwconv_h\.bias", _MIXER + "column_bias"),
        *norm_rows(_BLOCK + r"norm", _OURS + "norm"),
        Row(_BLOCK + r"mlp\.fc([12])\.weight", f"params/{_OURS}mlp/fc{{2}}/kernel", projection),
        Row(_BLOCK + r"mlp\.fc([12])\.bias", f"params/{_OURS}mlp/fc{{2}}/bias"),
        Row(_BLOCK + r"gamma", f"params/{_OURS}layer_scale/scale"),
        Row(r"head\.fc1\.weight", "params/head_fc/kernel", linear),
        Row(r"head\.fc1\.bias", "params/head_fc/bias"),
        Row(r"head\.norm\.weight", "params/head_norm/scale"),
        Row(r"head\.norm\.bias", "params/head_norm/bias"),
        Row(r"head\.fc2\.weight", "params/head/kernel", linear),
        Row(r"head\.fc2\.bias", "params/head/bias"),
    ),
    head=r"params/head(_fc|_norm)?/.*",
    stem=r"params/patch_embed/kernel",
    layouts={"timm": "first"},
)
