"""SPANet: the names of the authors' checkpoints."""

from scanmax.models.weights.network import BETWEEN, BLOCK, before_stage, of_block, shared
from scanmax.models.weights.table import KeyTable, Row, conv, projection

_MIXER = BLOCK + r"token_mixer\."
# The convolution of a row stands before that of a column.
_LINES = ("row", "column")


def _line(leaf: str):
    return lambda place, index, line: of_block(f"mixer/{_LINES[line]}/{leaf}")(place, index)


TABLE = KeyTable(
    rows=(
        Row(r"patch_embed\.proj\.weight", "params/patch_embed/kernel", conv),
        Row(r"patch_embed\.proj\.bias", "params/patch_embed/bias"),
        Row(BETWEEN + r"proj\.weight", before_stage("/kernel"), conv),
        Row(BETWEEN + r"proj\.bias", before_stage("/bias")),
        Row(BLOCK + r"norm([12])\.weight", of_block("norm{0}/scale")),
        Row(BLOCK + r"norm([12])\.bias", of_block("norm{0}/bias")),
        Row(_MIXER + r"proj_(in|out)\.weight", of_block("mixer/{0}_proj/kernel"), projection),
        Row(_MIXER + r"proj_(in|out)\.bias", of_block("mixer/{0}_proj/bias")),
        Row(_MIXER + r"conv\.(\d)\.weight", _line("kernel"), conv),
        Row(_MIXER + r"conv\.(\d)\.bias", _line("bias")),
        Row(_MIXER + r"pws\.(\d)\.weight", of_block("mixer/context{0}/kernel"), projection),
        Row(_MIXER + r"pws\.(\d)\.bias", of_block("mixer/context{0}/bias")),
        # Circles that are drawn, not learned.
        Row(_MIXER + r"sps\.\d\.filter", ()),
        Row(BLOCK + r"res_scale([12])\.scale", of_block("residual_scale{0}/scale")),
        *shared(projection),
        Row(r"norm\.weight", "params/norm/scale"),
        Row(r"norm\.bias", "params/norm/bias"),
    ),
    head=r"params/head/.*",
    stem=r"params/patch_embed/kernel",
    layouts={"authors": "first"},
)
