"""T2T-ViT: the names of the authors' checkpoints; those of its blocks are ViT's."""

from scanmax.models.weights import vit
from scanmax.models.weights.table import KeyTable, Row, bias, linear, linear_of_heads

_LAYER = r"tokens_to_token\.attention(\d)\."


def _ours(tail: str, collection: str = "params"):
    return lambda layer, *rest: f"{collection}/tokens{layer - 1}/{tail.format(*rest)}"


def _layer(kind: str, joint: str, out: str, mlp: tuple[str, str]) -> list[Row]:
    """Attention and MLP of a layer, whose names are those of a Transformer's or a Performer's."""
    names = {joint: kind, out: "out", **{rf"mlp\.{mlp[i]}": f"mlp/fc{i + 1}" for i in (0, 1)}}
    having = {"having": _ours(f"{kind}/kernel")}
    rows = []
    for theirs, ours in names.items():
        turn = linear_of_heads if ours == "out" else linear
        rows.append(Row(_LAYER + rf"{theirs}\.weight", _ours(f"{ours}/kernel"), turn, **having))
        rows.append(Row(_LAYER + rf"{theirs}\.bias", _ours(f"{ours}/bias"), bias, **having))
    return rows


TABLE = KeyTable(
    rows=(
        Row(_LAYER + r"norm([12])\.weight", _ours("norm{0}/scale")),
        Row(_LAYER + r"norm([12])\.bias", _ours("norm{0}/bias")),
        *_layer("qkv", "attn\\.qkv", "attn\\.proj", ("fc1", "fc2")),
        *_layer("kqv", "kqv", "proj", ("0", "2")),
        Row(_LAYER + r"w", _ours("directions", "batch_stats")),
        Row(r"tokens_to_token\.project\.weight", "params/patch_embed/kernel", linear),
        Row(r"tokens_to_token\.project\.bias", "params/patch_embed/bias"),
        # Fixed, and computed here.
        Row(r"pos_embed", ()),
        *vit.TABLE.rows,
    ),
    head=r"params/head/.*",
    layouts={"authors": "first"},
)
