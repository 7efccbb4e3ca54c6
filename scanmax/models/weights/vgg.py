"""VGG: the names of timm and torchvision, which count activations and pools among the layers."""

import re

import flax.linen as nn
import numpy as np

from scanmax.models.weights.table import (
    KeyTable,
    Row,
    Shape,
    conv,
    linear,
    norm_rows,
    of_shape,
    pointwise,
)


@of_shape(lambda ours: (ours[3], ours[2] * ours[0] * ours[1]))
def _flattened(x: np.ndarray, shape: Shape) -> np.ndarray:
    """A linear layer of a flattened map [C, Y, X] as the convolution over it."""
    if x.ndim != 2 or x.size != np.prod(shape):
        raise ValueError(f"has shape {tuple(x.shape)}, ours is {tuple(shape)}")
    rows, columns, channels, _ = shape
    return conv(x.reshape(-1, channels, rows, columns), shape)


def table(model: nn.Module) -> KeyTable:
    """The table of a model of these depths, with batch norms or without."""
    rows, place = [], 0
    for stage, depth in enumerate(model.depths):
        for index in range(depth):
            ours, theirs = f"stage{stage}_conv{index}", re.escape(f"features.{place}")
            rows.append(Row(rf"{theirs}\.weight", f"params/{ours}/conv/kernel", conv))
            rows.append(Row(rf"{theirs}\.bias", f"params/{ours}/conv/bias"))
            if model.batch_norm:
                rows += norm_rows(re.escape(f"features.{place + 1}"), f"{ours}/norm")
            # The convolution, its norm, its activation.
            place += 2 + model.batch_norm
        place += 1
    rows += [
        Row(r"pre_logits\.fc1\.weight", "params/hidden1/kernel", conv),
        Row(r"classifier\.0\.weight", "params/hidden1/kernel", _flattened),
        Row(r"(?:pre_logits\.fc1|classifier\.0)\.bias", "params/hidden1/bias"),
        Row(r"pre_logits\.fc2\.weight", "params/hidden2/kernel", pointwise, trail=2),
        Row(r"classifier\.3\.weight", "params/hidden2/kernel", pointwise),
        Row(r"(?:pre_logits\.fc2|classifier\.3)\.bias", "params/hidden2/bias"),
        Row(r"(?:head\.fc|classifier\.6)\.weight", "params/head/kernel", linear),
        Row(r"(?:head\.fc|classifier\.6)\.bias", "params/head/bias"),
    ]
    return KeyTable(
        tuple(rows),
        head=r"params/(hidden\d|head)/.*",
        stem=r"params/stage0_conv0/conv/kernel",
        layouts={"timm": "first", "torchvision": "last"},
    )
