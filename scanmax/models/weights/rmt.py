"""RMT: the names of the authors' checkpoints."""

from scanmax.models.weights.projected_pyramid import BLOCK, OURS, table_of
from scanmax.models.weights.table import Row, bias, conv, linear, linear_of_heads

_MIXER = BLOCK + r"retention\."


def _projections() -> list[Row]:
    rows = []
    for index, letter in enumerate("qkv"):
        pattern = _MIXER + rf"{letter}_proj\."
        part = (index, 1)
        rows.append(Row(pattern + "weight", OURS + "mixer/qkv/kernel", linear, part=part))
        rows.append(Row(pattern + "bias", OURS + "mixer/qkv/bias", bias, part=(index, 0)))
    return rows


TABLE = table_of(
    *_projections(),
    Row(_MIXER + r"lepe\.conv\.weight", OURS + "mixer/lepe/kernel", conv),
    Row(_MIXER + r"lepe\.conv\.bias", OURS + "mixer/lepe/bias"),
    Row(_MIXER + r"out_proj\.weight", OURS + "mixer/out/kernel", linear_of_heads),
    Row(_MIXER + r"out_proj\.bias", OURS + "mixer/out/bias"),
    norms=("retention_layer_norm", "final_layer_norm"),
    is_last=True,
)
