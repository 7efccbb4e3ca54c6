"""EfficientNet and its CondConv kin: the names of timm."""

import math
from collections.abc import Callable

import numpy as np

from scanmax.models.weights.table import (
    KeyTable,
    Row,
    Shape,
    conv,
    linear,
    norm_rows,
    of_shape,
    projection,
)

_BLOCK = r"blocks\.(\d)\.(\d+)\."
# Blocks of the first stage have no expansion, and count from their depthwise convolution.
_FIRST = r"blocks\.(0)\.(\d+)\."
_LATER = r"blocks\.([1-9])\.(\d+)\."


@of_shape(lambda ours: conv.theirs(ours) if len(ours) == 4 else (ours[0], math.prod(ours[1:])))
def kernels(x: np.ndarray, shape: Shape) -> np.ndarray:
    """A convolution, or kernels to mix: timm's [n, out in ky kx] to [n, ky, kx, in, out]."""
    if len(shape) == 4:
        return conv(x, shape)
    count, rows, columns, inputs, outputs = shape
    if x.shape != (count, math.prod(shape[1:])):
        raise ValueError(f"has shape {tuple(x.shape)}, ours is {tuple(shape)}")
    return x.reshape(count, outputs, inputs, rows, columns).transpose(0, 3, 4, 2, 1)


def _block(tail: str) -> Callable[..., str]:
    def path(stage: int, index: int, *rest) -> str:
        name = f"stage{stage}_block_{index - 1:02d}" if index else f"stage{stage}_start"
        return f"{name}/{tail.format(*rest)}"

    return path


def _param(tail: str) -> Callable[..., str]:
    return lambda *groups: "params/" + _block(tail)(*groups)


def _conv_norm(block: str, name: str, norm: str, ours: str) -> tuple[Row, ...]:
    return (
        Row(block + name + r"\.weight", _param(f"{ours}/conv/kernel"), kernels),
        *norm_rows(block + norm, _block(f"{ours}/norm")),
    )


TABLE = KeyTable(
    rows=(
        Row(r"conv_stem\.weight", "params/stem0/conv/kernel", conv),
        *norm_rows(r"bn1", "stem0/norm"),
        *_conv_norm(_FIRST, "conv_dw", "bn1", "conv"),
        *_conv_norm(_FIRST, "conv_pw", "bn2", "project"),
        *_conv_norm(_LATER, "conv_pw", "bn1", "expand"),
        *_conv_norm(_LATER, "conv_dw", "bn2", "conv"),
        *_conv_norm(_LATER, "conv_pwl", "bn3", "project"),
        Row(_BLOCK + r"se\.conv_reduce\.weight", _param("squeeze/kernel"), projection),
        Row(_BLOCK + r"se\.conv_reduce\.bias", _param("squeeze/bias")),
        Row(_BLOCK + r"se\.conv_expand\.weight", _param("excite/kernel"), projection),
        Row(_BLOCK + r"se\.conv_expand\.bias", _param("excite/bias")),
        Row(_BLOCK + r"routing_fn\.weight", _param("routing/kernel"), linear),
        Row(_BLOCK + r"routing_fn\.bias", _param("routing/bias")),
        Row(r"conv_head\.weight", "params/last/conv/kernel", conv),
        *norm_rows(r"bn2", "last/norm"),
        Row(r"classifier\.weight", "params/head/kernel", linear),
        Row(r"classifier\.bias", "params/head/bias"),
    ),
    head=r"params/head/.*",
    stem=r"params/stem0/conv/kernel",
    layouts={"timm": "first"},
)
