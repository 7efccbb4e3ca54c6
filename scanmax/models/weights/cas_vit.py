"""CAS-ViT: the names of the authors' checkpoints."""

from scanmax.models.weights.network import BETWEEN, BLOCK, before_stage, of_block, shared
from scanmax.models.weights.table import KeyTable, Row, conv, linear, norm_rows, projection

_LOCAL, _MIXER = BLOCK + r"local_perception\.network\.", BLOCK + r"attn\."


def _gates(letter: str, ours: str) -> tuple[Row, ...]:
    gate = _MIXER + rf"oper_{letter}\."
    place = f"mixer/{ours}"
    return (
        Row(gate + r"0\.block\.0\.weight", of_block(f"{place}_conv/kernel"), conv),
        Row(gate + r"0\.block\.0\.bias", of_block(f"{place}_conv/bias")),
        *norm_rows(gate + r"0\.block\.1", of_block(f"{place}_norm", "")),
        Row(gate + r"0\.block\.3\.weight", of_block(f"{place}_spatial/kernel"), projection),
        Row(gate + r"1\.block\.1\.weight", of_block(f"{place}_channel/kernel"), projection),
    )


TABLE = KeyTable(
    rows=(
        # Each convolution of the stem, its norm and an activation.
        Row(r"patch_embed\.([03])\.weight", lambda i: f"params/stem{i // 3}/conv/kernel", conv),
        Row(r"patch_embed\.([03])\.bias", lambda i: f"params/stem{i // 3}/conv/bias"),
        *norm_rows(r"patch_embed\.([14])", lambda i: f"stem{i // 3}/norm"),
        Row(BETWEEN + r"proj\.weight", before_stage("/conv/kernel"), conv),
        Row(BETWEEN + r"proj\.bias", before_stage("/conv/bias")),
        *norm_rows(BETWEEN + r"norm", before_stage("/norm", "")),
        Row(_LOCAL + r"0\.weight", of_block("local/fc1/kernel"), projection),
        Row(_LOCAL + r"0\.bias", of_block("local/fc1/bias")),
        *norm_rows(_LOCAL + r"1", of_block("local/norm", "")),
        Row(_LOCAL + r"2\.weight", of_block("local/conv/kernel"), conv),
        Row(_LOCAL + r"2\.bias", of_block("local/conv/bias")),
        Row(_LOCAL + r"4\.weight", of_block("local/fc2/kernel"), projection),
        Row(_LOCAL + r"4\.bias", of_block("local/fc2/bias")),
        *norm_rows(BLOCK + r"norm([12])", of_block("norm{0}", "")),
        Row(_MIXER + r"qkv\.weight", of_block("mixer/qkv/kernel"), projection),
        *_gates("q", "query"),
        *_gates("k", "key"),
        Row(_MIXER + r"dwc\.weight", of_block("mixer/kernel"), conv),
        Row(_MIXER + r"dwc\.bias", of_block("mixer/bias")),
        Row(_MIXER + r"proj\.weight", of_block("mixer/out/kernel"), conv),
        Row(_MIXER + r"proj\.bias", of_block("mixer/out/bias")),
        *shared(projection),
        *norm_rows(r"norm", "norm"),
        Row(r"dist_head\.weight", "params/head_dist/kernel", linear),
        Row(r"dist_head\.bias", "params/head_dist/bias"),
    ),
    head=r"params/head(_dist)?/.*",
    stem=r"params/stem0/conv/kernel",
    layouts={"authors": "first"},
)
