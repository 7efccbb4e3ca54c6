"""MLP-Mixer, gMixer, ResMLP: the names of timm, and for ResMLP those of the original release."""

from scanmax.models.weights.table import KeyTable, Row, conv, linear

_BLOCK = r"blocks\.(\d+)\."
_OURS = "params/block_{0:02d}/"
_MIXER, _MLP = _OURS + "mixer/", _OURS + "mlp/"
_CHANNELS = r"mlp(?:_channels)?\."


def _perceptron(names: str, ours: str, joint: str) -> tuple[Row, ...]:
    """Rows of two maps; where the model has a gate, the first holds values and gate."""
    return (
        Row(
            names + r"fc1\.weight", (f"{ours}fc1{joint}kernel", f"{ours}gate{joint}kernel"), linear
        ),
        Row(names + r"fc1\.bias", (f"{ours}fc1{joint}bias", f"{ours}gate{joint}bias")),
        Row(names + r"fc([12])\.weight", f"{ours}fc{{1}}{joint}kernel", linear),
        Row(names + r"fc([12])\.bias", f"{ours}fc{{1}}{joint}bias"),
    )


TABLE = KeyTable(
    rows=(
        Row(r"(?:stem|patch_embed)\.proj\.weight", "params/patch_embed/kernel", conv),
        Row(r"(?:stem|patch_embed)\.proj\.bias", "params/patch_embed/bias"),
        Row(_BLOCK + r"norm([12])\.(?:weight|alpha)", _OURS + "norm{1}/scale"),
        Row(_BLOCK + r"norm([12])\.(?:bias|beta)", _OURS + "norm{1}/bias"),
        *_perceptron(_BLOCK + r"mlp_tokens\.", _MIXER, "_"),
        Row(_BLOCK + r"(?:linear_tokens|attn)\.weight", _MIXER + "fc1_kernel", linear),
        Row(_BLOCK + r"(?:linear_tokens|attn)\.bias", _MIXER + "fc1_bias"),
        *_perceptron(_BLOCK + _CHANNELS, _MLP, "/"),
        Row(_BLOCK + r"(?:ls|gamma_)([12])", _OURS + "layer_scale{1}/scale"),
        Row(r"norm\.(?:weight|alpha)", "params/norm/scale"),
        Row(r"norm\.(?:bias|beta)", "params/norm/bias"),
        Row(r"head\.weight", "params/head/kernel", linear),
        Row(r"head\.bias", "params/head/bias"),
    ),
    head=r"params/head/.*",
    stem=r"params/patch_embed/kernel",
)
