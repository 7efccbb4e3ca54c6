"""MLP-Mixer, gMixer, ResMLP: the names of timm, and for ResMLP those of the original release."""

from dataclasses import replace

import flax.linen as nn

from scanmax.models.weights.table import KeyTable, Row, conv, linear

_BLOCK = r"blocks\.(\d+)\."
_OURS = "params/block_{0:02d}/"
_MIXER, _MLP = _OURS + "mixer/", _OURS + "mlp/"
_CHANNELS = r"mlp(?:_channels)?\."
# Of tokens two maps, or ResMLP's one.
_TOKENS, _ALONE = _BLOCK + r"mlp_tokens\.", _BLOCK + r"(?:linear_tokens|attn)\."
_SECOND = _MIXER + "fc2_kernel"


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


def _norm(names: str, ours: str, scale: str) -> list[Row]:
    """Rows of a norm, of ResMLP's, which scale and shift alone, beside the scales of its blocks."""
    rows = []
    for usual, own, leaf in (("weight", "alpha", "scale"), ("bias", "beta", "bias")):
        rows += [
            Row(names + usual, f"{ours}/{leaf}", lacking=scale),
            # timm's has axes that the release's has not.
            Row(names + own, f"{ours}/{leaf}", having=scale, lead=2),
            Row(names + own, f"{ours}/{leaf}", having=scale),
        ]
    return rows


TABLE = KeyTable(
    rows=(
        Row(r"(?:stem|patch_embed)\.proj\.weight", "params/patch_embed/kernel", conv),
        Row(r"(?:stem|patch_embed)\.proj\.bias", "params/patch_embed/bias"),
        *_norm(_BLOCK + r"norm([12])\.", _OURS + "norm{1}", _OURS + "layer_scale1/scale"),
        *(replace(row, having=_SECOND) for row in _perceptron(_TOKENS, _MIXER, "_")),
        Row(_ALONE + "weight", _MIXER + "fc1_kernel", linear, lacking=_SECOND),
        Row(_ALONE + "bias", _MIXER + "fc1_bias", lacking=_SECOND),
        *_perceptron(_BLOCK + _CHANNELS, _MLP, "/"),
        Row(_BLOCK + r"(?:ls|gamma_)([12])", _OURS + "layer_scale{1}/scale"),
        *_norm(r"norm\.", "params/norm", "params/block_00/layer_scale1/scale"),
        Row(r"head\.weight", "params/head/kernel", linear),
        Row(r"head\.bias", "params/head/bias"),
    ),
    head=r"params/head/.*",
    stem=r"params/patch_embed/kernel",
    layouts={"timm": "first"},
)


def table(model: nn.Module) -> KeyTable:
    """The rows; ResMLP has a release of this kind too."""
    layouts = {"timm": "first", "authors": "last"} if model.norm == "affine" else TABLE.layouts
    return replace(TABLE, layouts=layouts)
