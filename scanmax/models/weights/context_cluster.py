"""Context clusters: the names of the authors' checkpoints."""

from scanmax.models.weights.network import BETWEEN, BLOCK, before_stage, of_block, shared
from scanmax.models.weights.table import (
    KeyTable,
    Row,
    bias,
    conv,
    linear,
    projection,
    projection_of_heads,
)

_MIXER = BLOCK + r"token_mixer\."

TABLE = KeyTable(
    rows=(
        Row(r"patch_embed\.proj\.weight", "params/patch_embed/kernel", conv),
        Row(r"patch_embed\.proj\.bias", "params/patch_embed/bias"),
        Row(BETWEEN + r"proj\.weight", before_stage("/kernel"), conv),
        Row(BETWEEN + r"proj\.bias", before_stage("/bias")),
        Row(BLOCK + r"norm([12])\.weight", of_block("norm{0}/scale")),
        Row(BLOCK + r"norm([12])\.bias", of_block("norm{0}/bias")),
        Row(_MIXER + r"f\.weight", of_block("mixer/feature/kernel"), projection),
        Row(_MIXER + r"f\.bias", of_block("mixer/feature/bias"), bias),
        Row(_MIXER + r"v\.weight", of_block("mixer/value/kernel"), projection),
        Row(_MIXER + r"v\.bias", of_block("mixer/value/bias"), bias),
        Row(_MIXER + r"proj\.weight", of_block("mixer/out/kernel"), projection_of_heads),
        Row(_MIXER + r"proj\.bias", of_block("mixer/out/bias")),
        Row(_MIXER + r"sim_alpha", of_block("mixer/alpha"), lead=1),
        Row(_MIXER + r"sim_beta", of_block("mixer/beta"), lead=1),
        Row(BLOCK + r"layer_scale_([12])", of_block("layer_scale{0}/scale")),
        *shared(linear),
        Row(r"norm\.weight", "params/norm/scale"),
        Row(r"norm\.bias", "params/norm/bias"),
    ),
    head=r"params/head/.*",
    layouts={"authors": "first"},
)
