"""MS-MLP: the names of the authors' checkpoints."""

from collections.abc import Callable

from scanmax.models.weights.table import KeyTable, Row, conv, linear

_BLOCK = r"layers\.(\d+)\.blocks\.(\d+)\."
_OURS = "params/stage{0}_block_{1:02d}/"
# What shrinks the map stands at the end of the stage before.
_DOWN = r"layers\.(\d+)\.downsample\."
_KINDS = {"lr": "row", "td": "column"}


def _group(leaf: str) -> Callable[..., str]:
    """ "lr" shifts from left to right, along rows; "td" from the top down."""
    return lambda stage, block, kind, group: (
        _OURS.format(stage, block) + f"mixer/{_KINDS[kind]}_{leaf}{group}"
    )


def _down(tail: str) -> Callable[..., str]:
    return lambda stage: f"params/downsample{stage + 1}{tail}"


TABLE = KeyTable(
    rows=(
        Row(r"patch_embed\.proj\.weight", "params/patch_embed/kernel", conv),
        Row(r"patch_embed\.proj\.bias", "params/patch_embed/bias"),
        Row(r"patch_embed\.norm\.weight", "params/patch_norm/scale"),
        Row(r"patch_embed\.norm\.bias", "params/patch_norm/bias"),
        Row(_DOWN + r"proj\.weight", _down("/kernel"), conv),
        Row(_DOWN + r"proj\.bias", _down("/bias")),
        Row(_DOWN + r"norm\.weight", _down("_norm/scale")),
        Row(_DOWN + r"norm\.bias", _down("_norm/bias")),
        Row(_BLOCK + r"dwconv_(lr|td)\.(\d+)\.weight", _group("kernel"), conv),
        Row(_BLOCK + r"dwconv_(lr|td)\.(\d+)\.bias", _group("bias")),
        Row(_BLOCK + r"norm\.weight", _OURS + "norm/scale"),
        Row(_BLOCK + r"norm\.bias", _OURS + "norm/bias"),
        Row(_BLOCK + r"pwconv([12])\.weight", _OURS + "mlp/fc{2}/kernel", linear),
        Row(_BLOCK + r"pwconv([12])\.bias", _OURS + "mlp/fc{2}/bias"),
        Row(_BLOCK + r"gamma", _OURS + "layer_scale/scale"),
        Row(r"norm\.weight", "params/norm/scale"),
        Row(r"norm\.bias", "params/norm/bias"),
        Row(r"head\.weight", "params/head/kernel", linear),
        Row(r"head\.bias", "params/head/bias"),
    ),
    head=r"params/head/.*",
    stem=r"params/patch_embed/kernel",
    layouts={"authors": "first"},
)
