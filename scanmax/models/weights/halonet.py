"""HaloNet: the names of timm."""

import numpy as np

from scanmax.models.weights.table import KeyTable, Row, Shape, conv, linear, norm_rows, pointwise

_BLOCK = r"stages\.(\d)\.(\d+)\."
_OURS = "stage{0}_block_{1:02d}/"
_ATTENTION = f"params/{_OURS}attention/"


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
        Row(_BLOCK + r"conv(\d)_\w+\.conv\.weight", f"params/{_OURS}conv{{2}}/conv/kernel", conv),
        *norm_rows(_BLOCK + r"conv(\d)_\w+\.bn", _OURS + "conv{2}/norm"),
        Row(_BLOCK + r"attn\.fc1\.weight", f"params/{_OURS}channel_attention/squeeze", pointwise),
        Row(_BLOCK + r"attn\.fc1\.bias", f"params/{_OURS}channel_attention/squeeze_bias"),
        Row(_BLOCK + r"attn\.fc2\.weight", f"params/{_OURS}channel_attention/excite", pointwise),
        Row(_BLOCK + r"attn\.fc2\.bias", f"params/{_OURS}channel_attention/excite_bias"),
        Row(_BLOCK + r"attn\.conv\.weight", f"params/{_OURS}channel_attention/kernel"),
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
)
