"""TransNeXt: the names of the authors' checkpoints, PVTv2's but for its own mixers and gates."""

import dataclasses

import numpy as np

from scanmax.models.weights import pvt_v2
from scanmax.models.weights.pvt_v2 import BLOCK, of_block
from scanmax.models.weights.table import Row, Shape, bias, linear, pointwise

_MIXER = BLOCK + r"attn\."


def _offsets(x: np.ndarray, shape: Shape) -> np.ndarray:
    """[H, k k] to [H, k, k], rows first."""
    return bias(x.ravel(), shape)


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
        pattern = rf"block{stage + 1}\.(\d+)\.mlp\.fc1\."
        ours = f"params/stage{stage}_block_{{0:02d}}/mlp/"
        kernels = (ours + "gate/kernel", ours + "fc1/kernel")
        rows.append(Row(pattern + "weight", kernels, linear))
        rows.append(Row(pattern + "bias", (ours + "gate/bias", ours + "fc1/bias")))
    return rows


TABLE = dataclasses.replace(
    pvt_v2.TABLE,
    rows=(
        Row(
            _MIXER + r"(temperature|query_embedding|learnable_tokens|learnable_bias)",
            of_block("mixer/{0}"),
        ),
        Row(_MIXER + r"relative_pos_bias_local", of_block("mixer/local_bias"), _offsets),
        *_positions(),
        Row(_MIXER + r"qkv\.weight", of_block("mixer/qkv/kernel"), linear),
        Row(_MIXER + r"qkv\.bias", of_block("mixer/qkv/bias"), bias),
        Row(_MIXER + r"sr\.weight", of_block("mixer/reduce/kernel"), pointwise),
        *_gates(),
        *pvt_v2.TABLE.rows,
    ),
)
