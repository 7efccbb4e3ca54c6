"""iLLaMA: the names of the authors' checkpoints, ViT's with LLaMA's pairs and a third matrix."""

import dataclasses

import numpy as np

from scanmax.models.weights import vit
from scanmax.models.weights.table import Row, Shape, Transform, bias, linear, of_shape, same

_BLOCK = r"blocks\.(\d+)\."
_OURS = "params/block_{0:02d}/"


@of_shape(lambda ours: ours)
def last_first(x: np.ndarray, shape: Shape | None) -> np.ndarray:
    """A table whose last row is the class token's, to ours, where that is the first."""
    return np.roll(same(x, shape), 1, axis=-2)


def halves(transform: Transform) -> Transform:
    """Queries and keys whose features turn in pairs (2i, 2i + 1), to pairs (i, i + K / 2)."""

    @of_shape(transform.theirs)
    def paired(x: np.ndarray, shape: Shape) -> np.ndarray:
        x = transform(x, shape)
        turned = np.concatenate([x[..., ::2], x[..., 1::2]], axis=-1)
        # Values do not turn: the third along the axis in front of heads and features.
        is_value = np.arange(3)[:, None, None] == 2
        return np.where(is_value, x, turned)

    return paired


TABLE = dataclasses.replace(
    vit.TABLE,
    rows=(
        Row(r"pos_embed", "params/pos_embed", last_first, lead=1),
        Row(_BLOCK + r"attn\.qkv\.weight", _OURS + "mixer/qkv/kernel", halves(linear)),
        Row(_BLOCK + r"attn\.qkv\.bias", _OURS + "mixer/qkv/bias", halves(bias)),
        Row(_BLOCK + r"mlp\.fc1\.weight", _OURS + "mlp/gate/kernel", linear),
        Row(_BLOCK + r"mlp\.fc3\.weight", _OURS + "mlp/fc1/kernel", linear),
        *vit.TABLE.rows,
    ),
    layouts={"authors": "first"},
)
