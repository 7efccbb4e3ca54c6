"""InLine-DeiT: the names of the authors' checkpoints, ViT's and those of the image's own taps."""

import dataclasses

import numpy as np

from scanmax.models.weights import vit
from scanmax.models.weights.table import Row, Shape, bias, of_shape

# Grouped 1x1 convolutions with an activation between.
_TAPS = r"blocks\.(\d+)\.attn\.residual\.([02])\."


def _ours(leaf: str):
    return lambda block, place: f"params/block_{block:02d}/mixer/residual{1 + place // 2}/{leaf}"


@of_shape(lambda ours: (ours[0] * ours[2], ours[1], 1))
def _grouped(x: np.ndarray, shape: Shape) -> np.ndarray:
    """torch's [H out, in, 1] to [H, in, out]."""
    heads, width, features = shape
    if x.shape != (heads * features, width, 1):
        raise ValueError(f"has shape {tuple(x.shape)}, ours is {tuple(shape)}")
    return x.reshape(heads, features, width).swapaxes(1, 2)


TABLE = dataclasses.replace(
    vit.TABLE,
    rows=(
        Row(_TAPS + "weight", _ours("kernel"), _grouped),
        Row(_TAPS + "bias", _ours("bias"), bias),
        *vit.TABLE.rows,
    ),
    layouts={"authors": "first"},
)
