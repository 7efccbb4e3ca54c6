"""SimpleKAN, and what all networks of KAN convolutions share: the names of the authors' layers.

Those layers keep a list of modules, one a group of channels; a table knows layers of one group.
Layers of splines have no names here: their knots are no tensors of the release.
"""

import math
from collections.abc import Callable

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
)


def _misfit(x: np.ndarray, shape: Shape) -> ValueError:
    return ValueError(f"has shape {tuple(x.shape)}, ours is {tuple(shape)}")


@of_shape(lambda ours: (1, ours[4], ours[3] * ours[2], ours[0], ours[1]))
def _by_degree(x: np.ndarray, shape: Shape) -> np.ndarray:
    """[1, out, N in, ky, kx], inputs of one polynomial side by side, to [ky, kx, in, N, out]."""
    rows, columns, inputs, count, outputs = shape
    if x.shape != (1, outputs, count * inputs, rows, columns):
        raise _misfit(x, shape)
    return x[0].reshape(outputs, count, inputs, rows, columns).transpose(3, 4, 2, 1, 0)


@of_shape(lambda ours: (ours[4], ours[2] * ours[3], ours[0], ours[1]))
def _by_channel(x: np.ndarray, shape: Shape) -> np.ndarray:
    """[out, in N, ky, kx], functions of one input side by side, to [ky, kx, in, N, out]."""
    rows, columns, inputs, count, outputs = shape
    if x.shape != (outputs, inputs * count, rows, columns):
        raise _misfit(x, shape)
    return x.reshape(outputs, inputs, count, rows, columns).transpose(3, 4, 1, 2, 0)


@of_shape(lambda ours: (1, ours[1], ours[0], 1, 1))
def _edges(x: np.ndarray, shape: Shape) -> np.ndarray:
    """[1, out, in, 1, 1] to [in, out]."""
    if x.size != math.prod(shape) or x.shape[1:3] != shape[::-1]:
        raise _misfit(x, shape)
    return x.reshape(shape[::-1]).T


# What the authors' layers call the coefficients of their functions.
_COEFFICIENTS = {
    "kan": (r"spline_conv\.0\.weight", _by_channel),
    "fastkan": (r"spline_conv\.0\.weight", _by_channel),
    "kacn": (r"poly_conv\.0\.weight", _by_channel),
    "kaln": (r"poly_weights", _by_degree),
    "kagn": (r"poly_weights", _by_degree),
}


def kan_rows(kind: str, pattern: str, path: str | Callable[..., str]) -> tuple[Row, ...]:
    """Rows of a `KanConvNorm` of a kind: what stands before its tensors there, its path here."""

    def place(tail: str, collection: str = "params") -> Callable[..., str]:
        def filled(*groups) -> str:
            where = path(*groups) if callable(path) else path.format(*groups)
            return f"{collection}/{where}/{tail}"

        return filled

    coefficients = [
        Row(pattern + leaf, place("functions/coefficients"), transform)
        for leaf, transform in ([_COEFFICIENTS[kind]] if kind in _COEFFICIENTS else ())
    ]
    return (
        *coefficients,
        Row(pattern + r"base_conv\.0\.weight", place("base/kernel"), conv),
        Row(pattern + r"inner_proj\.0\.weight", place("squeeze/kernel"), conv),
        Row(pattern + r"out_proj\.0\.weight", place("expand/kernel"), conv),
        Row(pattern + r"beta_weights", place("functions/basis/weight")),
        Row(pattern + r"wavelet_conv\.0\.scale", place("functions/scale"), _edges),
        Row(pattern + r"wavelet_conv\.0\.translation", place("functions/translation"), _edges),
        Row(
            pattern + r"wavelet_conv\.0\.wavelet_weights\.weight",
            place("functions/kernel"),
            conv,
        ),
        Row(
            pattern + r"wavelet_conv\.0\.wavelet_out\.weight",
            place("functions/out/kernel"),
            conv,
        ),
        *norm_rows(
            pattern + r"layer_norm\.0",
            lambda *groups: place("norm")(*groups).removeprefix("params/"),
            having=place("norm/mean", "batch_stats"),
        ),
        Row(pattern + r"layer_norm\.0\.weight", place("norm/instance_scale")),
        Row(pattern + r"layer_norm\.0\.bias", place("norm/instance_bias")),
        Row(pattern + r"prelus\.0\.weight", place("slope")),
        # Degrees and centres, which are not learned.
        Row(pattern + r"(?:arange|rbf\.grid)", ()),
    )


def table(model: nn.Module) -> KeyTable:
    """The table of a model of these layers; a wrapper is around all but the first."""
    return KeyTable(
        (
            *kan_rows(model.kind, r"layers\.0\.", "layer0"),
            *kan_rows(model.kind, r"layers\.(\d+)\.module\.", "layer{0}"),
            Row(r"output\.1\.weight", "params/head/kernel", linear),
            Row(r"output\.1\.bias", "params/head/bias"),
        ),
        head=r"params/head/.*",
        stem=r"params/layer0/base/kernel",
        layouts={} if model.kind == "kan" or model.groups > 1 else {"authors": "first"},
    )
