"""T2T-ViT: the names of the authors' checkpoints; those of its blocks are ViT's."""

from scanmax.models.weights import vit
from scanmax.models.weights.table import KeyTable, Row, bias, linear

_LAYER = r"tokens_to_token\.attention(\d)\."


def _ours(tail: str, collection: str = "params"):
    return lambda layer, *rest: f"{collection}/tokens{layer - 1}/{tail.format(*rest)}"


TABLE = KeyTable(
    rows=(
        Row(_LAYER + r"norm([12])\.weight", _ours("norm{0}/scale")),
        Row(_LAYER + r"norm([12])\.bias", _ours("norm{0}/bias")),
        Row(_LAYER + r"(?:attn\.)?(qkv|kqv)\.weight", _ours("{0}/kernel"), linear),
        Row(_LAYER + r"kqv\.bias", _ours("kqv/bias"), bias),
        Row(_LAYER + r"(?:attn\.)?proj\.weight", _ours("out/kernel"), linear),
        Row(_LAYER + r"(?:attn\.)?proj\.bias", _ours("out/bias")),
        Row(_LAYER + r"mlp\.(?:fc1|0)\.weight", _ours("mlp/fc1/kernel"), linear),
        Row(_LAYER + r"mlp\.(?:fc1|0)\.bias", _ours("mlp/fc1/bias")),
        Row(_LAYER + r"mlp\.(?:fc2|2)\.weight", _ours("mlp/fc2/kernel"), linear),
        Row(_LAYER + r"mlp\.(?:fc2|2)\.bias", _ours("mlp/fc2/bias")),
        Row(_LAYER + r"w", _ours("directions", "batch_stats")),
        Row(r"tokens_to_token\.project\.weight", "params/patch_embed/kernel", linear),
        Row(r"tokens_to_token\.project\.bias", "params/patch_embed/bias"),
        # Fixed, and computed here.
        Row(r"pos_embed", ()),
        *vit.TABLE.rows,
    ),
    head=r"params/head/.*",
)
