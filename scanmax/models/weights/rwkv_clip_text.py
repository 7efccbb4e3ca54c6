"""RWKV-CLIP's text tower: the names of the authors' checkpoints, alone or of both towers."""

from scanmax.models.weights.rwkv_clip import block_rows, norm_rows_of
from scanmax.models.weights.table import KeyTable, Row, linear

_TOWER = r"(?:text_model\.)?"

TABLE = KeyTable(
    rows=(
        Row(_TOWER + r"emb\.weight", "params/embed/embedding"),
        *norm_rows_of(_TOWER + r"blocks\.0\.ln0", "embed_norm"),
        *block_rows(_TOWER + r"blocks\.(\d+)\.", "time_maa"),
        *norm_rows_of(_TOWER + "ln_out", "norm"),
        # The other tower, and what joins them; the release has no head.
        Row(r"image_model\..*|logit_scale", ()),
        Row(r"head\.weight", "params/head/kernel", linear),
        Row(r"head\.bias", "params/head/bias"),
    ),
    head=r"params/head/.*",
    layouts={"authors": "last"},
)
