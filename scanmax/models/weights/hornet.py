"""HorNet: the names of the authors' checkpoints, around the mixers those of ConvNeXt's release."""

from collections.abc import Callable

import numpy as np

from scanmax.models.weights import convnext
from scanmax.models.weights.table import KeyTable, Row, Shape, conv, of_shape, projection

_BLOCK = r"stages\.(\d+)\.(\d+)\."
_MIXER = _BLOCK + r"gnconv\."
_OURS = "params/stage{0}_block_{1:02d}/"


def _gate(kind: str) -> Callable[..., str]:
    """Ours are counted from one, by the gate that they lead to."""
    return lambda stage, block, index: _OURS.format(stage, block) + f"mixer/gate_{kind}{index + 1}"


@of_shape(lambda ours: (ours[2], ours[0], ours[1], ours[3]))
def channels_last(x: np.ndarray, shape: Shape) -> np.ndarray:
    """[C, rows, columns, 2] to [rows, columns, C, 2]."""
    if x.ndim != 4 or (*x.shape[1:3], x.shape[0], x.shape[3]) != tuple(shape):
        raise ValueError(f"has shape {tuple(x.shape)}, ours is {tuple(shape)}")
    return x.transpose(1, 2, 0, 3)


TABLE = KeyTable(
    rows=(
        Row(_BLOCK + r"norm([12])\.weight", _OURS + "norm{2}/scale"),
        Row(_BLOCK + r"norm([12])\.bias", _OURS + "norm{2}/bias"),
        Row(_BLOCK + r"gamma([12])", _OURS + "layer_scale{2}/scale"),
        Row(_MIXER + r"proj_(in|out)\.weight", _OURS + "mixer/{2}_proj/kernel", projection),
        Row(_MIXER + r"proj_(in|out)\.bias", _OURS + "mixer/{2}_proj/bias"),
        Row(_MIXER + r"dwconv\.weight", _OURS + "mixer/filter/kernel", conv),
        Row(_MIXER + r"dwconv\.bias", _OURS + "mixer/filter/bias"),
        Row(_MIXER + r"dwconv\.dw\.weight", _OURS + "mixer/filter/local/kernel", conv),
        Row(_MIXER + r"dwconv\.complex_weight", _OURS + "mixer/filter/filter", channels_last),
        Row(_MIXER + r"dwconv\.(pre|post)_norm\.weight", _OURS + "mixer/filter/{2}_norm/scale"),
        Row(_MIXER + r"dwconv\.(pre|post)_norm\.bias", _OURS + "mixer/filter/{2}_norm/bias"),
        Row(_MIXER + r"pws\.(\d+)\.weight", _gate("kernel"), projection),
        Row(_MIXER + r"pws\.(\d+)\.bias", _gate("bias")),
        *convnext.TABLE.rows,
    ),
    head=convnext.TABLE.head,
    stem=convnext.TABLE.stem,
    layouts={"authors": "last"},
)
