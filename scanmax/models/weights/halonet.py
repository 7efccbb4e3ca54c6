"""HaloNet: the names of timm."""

import numpy as np

from scanmax.models.weights.table import (
    KeyTable,
    Row,
    Shape,
    conv,
    linear,
    norm_rows,
    of_shape,
    pointwise,
    projection,
)

_BLOCK = r"stages\.(\d)\.(\d+)\."
_OURS = "stage{0}_block_{1:02d}/"
# Those beside are of one pixel.
_CONV = _BLOCK + r"conv(?:([13])_1x1|(2)_kxk)\."
_ATTENTION = f"params/{_OURS}attention/"
_GATE, _GATED = _BLOCK + r"attn\.", f"params/{_OURS}channel_attention/"


@of_shape(projection.theirs)
def _heads(x: np.ndarray, shape: Shape) -> np.ndarray:
    """A 1x1 convolution to a linear map onto heads."""
    return linear(x.reshape(x.shape[:2]), shape)


TABLE = KeyTable(
    rows=(
        # Theirs count from one.
        Row(r"stem\.conv(\d)\.conv\.weight", lambda i: f"params/stem{i - 1}/conv/kernel", conv),
        *norm_rows(r"stem\.conv(\d)\.bn", lambda i: f"stem{i - 1}/norm"),
        Row(_BLOCK + r"shortcut\.conv\.weight", f"params/{_OURS}shortcut/conv/kernel", conv),
        *norm_rows(_BLOCK + r"shortcut\.bn", _OURS + "shortcut/norm"),
        Row(_CONV + r"conv\.weight", f"params/{_OURS}conv{{2}}{{3}}/conv/kernel", conv),
        *norm_rows(_CONV + r"bn", _OURS + "conv{2}{3}/norm"),
        Row(_GATE + r"fc1\.weight", _GATED + "squeeze", pointwise, trail=2),
        Row(_GATE + r"fc1\.bias", _GATED + "squeeze_bias"),
        Row(_GATE + r"fc2\.weight", _GATED + "excite", pointwise, trail=2),
        Row(_GATE + r"fc2\.bias", _GATED + "excite_bias"),
        Row(_GATE + r"conv\.weight", _GATED + "kernel", lead=2),
        Row(_BLOCK + r"self_attn\.q\.weight", _ATTENTION + "query/kernel", _heads),
        Row(_BLOCK + r"self_attn\.kv\.weight", _ATTENTION + "key_value/kernel", _heads),
        Row(_BLOCK + r"self_attn\.pos_embed\.height_rel", _ATTENTION + "relative_rows"),
        Row(_BLOCK + r"self_attn\.pos_embed\.width_rel", _ATTENTION + "relative_columns"),
        *norm_rows(_BLOCK + r"post_attn", _OURS + "attention_norm"),
        Row(r"final_conv\.conv\.weight", "params/last/conv/kernel", conv),
        *norm_rows(r"final_conv\.bn", "last/norm"),
        Row(r"head\.fc\.weight", "params/head/kernel", linear),
        Row(r"head\.fc\.bias", "params/head/bias"),
    ),
    head=r"params/head/.*",
    stem=r"params/stem0/conv/kernel",
    layouts={"timm": "first"},
)
