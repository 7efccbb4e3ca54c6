"""WaveMix: the names of the authors' checkpoints."""

import dataclasses

from scanmax.models.weights.table import (
    KeyTable,
    Row,
    conv,
    conv_transpose,
    linear,
    norm_rows,
    projection,
)

_BLOCK = r"layers\.(\d+)\."
_LEVEL = _BLOCK + r"feedforward([1-9])\."


def _of_level(tail: str):
    return lambda block, level: f"block_{block:02d}/mixer/" + tail.format(level or 1)


def _param(tail: str):
    path = _of_level(tail)
    return lambda *groups: "params/" + path(*groups)


_LEVELS = (
    Row(_LEVEL + r"0\.weight", _param("fc1_{}/kernel"), projection),
    Row(_LEVEL + r"0\.bias", _param("fc1_{}/bias")),
    Row(_LEVEL + r"3\.weight", _param("fc2_{}/kernel"), projection),
    Row(_LEVEL + r"3\.bias", _param("fc2_{}/bias")),
    Row(_LEVEL + r"4\.weight", _param("up_{}/kernel"), conv_transpose),
    Row(_LEVEL + r"4\.bias", _param("up_{}/bias")),
    *norm_rows(_LEVEL + "5", _of_level("norm_{}")),
)
_SECOND = _param("fc1_2/kernel")

TABLE = KeyTable(
    rows=(
        Row(r"conv\.([012])\.weight", "params/stem{0}/kernel", conv),
        Row(r"conv\.([012])\.bias", "params/stem{0}/bias"),
        *norm_rows(r"conv\.4", "stem_norm"),
        Row(
            _BLOCK + r"reduction\.weight", "params/block_{0:02d}/mixer/reduction/kernel", projection
        ),
        Row(_BLOCK + r"reduction\.bias", "params/block_{0:02d}/mixer/reduction/bias"),
        *(dataclasses.replace(row, having=_SECOND) for row in _LEVELS),
        # The perceptron of a network of one level has no number.
        *(
            dataclasses.replace(row, pattern=row.pattern.replace("[1-9]", ""), lacking=_SECOND)
            for row in _LEVELS
        ),
        Row(r"pool\.2\.weight", "params/head/kernel", linear),
        Row(r"pool\.2\.bias", "params/head/bias"),
    ),
    head=r"params/head/.*",
    stem=r"params/stem0/kernel",
    layouts={"authors": "first"},
)
