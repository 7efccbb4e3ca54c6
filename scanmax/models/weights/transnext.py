"""TransNeXt: the names of the authors' checkpoints, PVTv2's but for its own mixers and gates."""

import dataclasses

import numpy as np

from scanmax.models.weights import pvt_v2
from scanmax.models.weights.pvt_v2 import BLOCK, of_block
from scanmax.models.weights.table import Row, Shape, bias, linear, of_shape, pointwise, same

_MIXER = BLOCK + r"attn\."


@of_shape(lambda ours: (ours[0], ours[1] * ours[2]))
def _offsets(x: np.ndarray, shape: Shape) -> np.ndarray:
    """[H, k k] to [H, k, k], rows first."""
    return bias(x.ravel(), shape)


@of_shape(lambda ours: (ours[0], 1, ours[1]))
def _of_queries(x: np.ndarray, shape: Shape) -> np.ndarray:
    """[H, 1, N], of which queries are the axis of one, to [H, N]."""
    return same(x, shape)


def _positions() -> list[Row]:
    """The MLP of distances, to pooled keys in one mixer and to all pixels in the other."""
    pattern, rows = _MIXER + r"cpb_fc([12])\.", []
    for module in ("pooled_bias", "position_bias"):
        ours = f"mixer/{module}/fc{{0}}/"
        rows.append(Row(pattern + "weight", of_block(ours + "kernel"), linear))
        rows.append(Row(pattern + "bias", of_block(ours + "bias")))
    return rows


def _gates() -> list[Row]:
    """The first map of an MLP makes the gate, then what it is a gate of."""
    rows = []
    for stage in range(4):
        pattern = rf"(?:stages\.{stage}\.blocks|block{stage + 1})\.(\d+)\.mlp\.fc1\."
        ours = f"params/stage{stage}_block_{{0:02d}}/mlp/"
        kernels = (ours + "gate/kernel", ours + "fc1/kernel")
        rows.append(Row(pattern + "weight", kernels, linear))
        rows.append(Row(pattern + "bias", (ours + "gate/bias", ours + "fc1/bias")))
    return rows


TABLE = dataclasses.replace(
    pvt_v2.TABLE,
    rows=(
        Row(_MIXER + r"temperature", of_block("mixer/temperature"), trail=2),
        Row(_MIXER + r"(query_embedding|learnable_bias)", of_block("mixer/{0}"), _of_queries),
        Row(_MIXER + r"learnable_tokens", of_block("mixer/learnable_tokens")),
        Row(_MIXER + r"relative_pos_bias_local", of_block("mixer/local_bias"), _offsets),
        *_positions(),
        Row(_MIXER + r"qkv\.weight", of_block("mixer/qkv/kernel"), linear),
        Row(_MIXER + r"qkv\.bias", of_block("mixer/qkv/bias"), bias),
        Row(_MIXER + r"sr\.weight", of_block("mixer/reduce/kernel"), pointwise, trail=2),
        *_gates(),
        *pvt_v2.TABLE.rows,
    ),
    layouts={"authors": "last"},
)
