"""CrossViT: the names of timm and of the original release."""

from scanmax.models.weights.table import KeyTable, Row, bias, conv, linear, linear_of_heads

_BLOCK = r"blocks\.(\d+)\.blocks\.(\d)\.(\d+)\."
_OURS = "params/stage{0}_branch{1}_block_{2:02d}/"
_FUSION = "params/stage{0}_fusion{1}/"


def _projection(theirs: str, ours: str) -> tuple[Row, ...]:
    pattern = rf"blocks\.(\d+)\.{theirs}\.(\d)\."
    return (
        Row(pattern + r"0\.weight", _FUSION + f"{ours}_norm/scale"),
        Row(pattern + r"0\.bias", _FUSION + f"{ours}_norm/bias"),
        Row(pattern + r"2\.weight", _FUSION + f"{ours}/kernel", linear),
        Row(pattern + r"2\.bias", _FUSION + f"{ours}/bias"),
    )


def _attention() -> list[Row]:
    pattern = r"blocks\.(\d+)\.fusion\.(\d)\."
    rows = [
        Row(pattern + r"norm1\.weight", _FUSION + "norm/scale"),
        Row(pattern + r"norm1\.bias", _FUSION + "norm/bias"),
        Row(pattern + r"attn\.proj\.weight", _FUSION + "attention/out/kernel", linear_of_heads),
        Row(pattern + r"attn\.proj\.bias", _FUSION + "attention/out/bias"),
    ]
    for letter, name in (("q", "query"), ("k", "key"), ("v", "value")):
        ours = _FUSION + f"attention/{name}/"
        rows.append(Row(pattern + rf"attn\.w{letter}\.weight", ours + "kernel", linear))
        rows.append(Row(pattern + rf"attn\.w{letter}\.bias", ours + "bias", bias))
    return rows


def _stems() -> list[Row]:
    rows = []
    # An activation stands between convolutions, and has a number.
    for index in range(3):
        pattern, ours = rf"patch_embed\.(\d)\.proj\.{2 * index}\.", f"conv{index}/"
        rows.append(Row(pattern + "weight", "params/patch_embed_{0}/" + ours + "kernel", conv))
        rows.append(Row(pattern + "bias", "params/patch_embed_{0}/" + ours + "bias"))
    return rows


TABLE = KeyTable(
    rows=(
        Row(r"cls_token[._](\d)", "params/cls_token_{0}", lead=1),
        Row(r"pos_embed[._](\d)", "params/pos_embed_{0}", lead=1),
        Row(r"patch_embed\.(\d)\.proj\.weight", "params/patch_embed_{0}/kernel", conv),
        Row(r"patch_embed\.(\d)\.proj\.bias", "params/patch_embed_{0}/bias"),
        *_stems(),
        Row(_BLOCK + r"norm([12])\.weight", _OURS + "norm{3}/scale"),
        Row(_BLOCK + r"norm([12])\.bias", _OURS + "norm{3}/bias"),
        Row(_BLOCK + r"attn\.qkv\.weight", _OURS + "mixer/qkv/kernel", linear),
        Row(_BLOCK + r"attn\.qkv\.bias", _OURS + "mixer/qkv/bias", bias),
        Row(_BLOCK + r"attn\.proj\.weight", _OURS + "mixer/out/kernel", linear_of_heads),
        Row(_BLOCK + r"attn\.proj\.bias", _OURS + "mixer/out/bias"),
        Row(_BLOCK + r"mlp\.fc([12])\.weight", _OURS + "mlp/fc{3}/kernel", linear),
        Row(_BLOCK + r"mlp\.fc([12])\.bias", _OURS + "mlp/fc{3}/bias"),
        *_projection("projs", "in"),
        *_projection("revert_projs", "out"),
        *_attention(),
        Row(r"norm\.(\d)\.weight", "params/norm{0}/scale"),
        Row(r"norm\.(\d)\.bias", "params/norm{0}/bias"),
        Row(r"head\.(\d)\.weight", "params/head{0}/kernel", linear),
        Row(r"head\.(\d)\.bias", "params/head{0}/bias"),
    ),
    head=r"params/head\d/.*",
    positions=r"params/pos_embed_\d",
    stem=r"params/patch_embed_\d/(conv0/)?kernel",
    layouts={"timm": "last", "authors": "first"},
)
