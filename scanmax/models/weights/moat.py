"""MOAT: the names of the variables in the authors' checkpoints, which TensorFlow reads.

    reader = tf.train.load_checkpoint(path)
    tensors = {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}

Averages of the weights have a suffix there: keep these or the others, and drop the step's count.
"""

from collections.abc import Callable

import numpy as np

from scanmax.models.weights.table import KeyTable, Row, Shape, of_shape, same

_BLOCK = r"moat/block_(\d\d)_(\d\d)/"
_STEM = r"(?:moat/stem/)?"
_AVERAGED = r"(?:/ExponentialMovingAverage)?"

# Of a norm, parameters and averages.
_NORM = (
    ("gamma", "params", "scale"),
    ("beta", "params", "bias"),
    ("moving_mean", "batch_stats", "mean"),
    ("moving_variance", "batch_stats", "variance"),
)


def _block(tail: str, collection: str = "params") -> Callable[..., str]:
    def path(stage: int, index: int) -> str:
        name = f"stage{stage}_block_{index - 1:02d}" if index else f"stage{stage}_start"
        return f"{collection}/{name}/{tail}"

    return path


def _row(pattern: str, path, **fields) -> Row:
    return Row(pattern + _AVERAGED, path, **fields)


def _norm(name: str, ours: str) -> tuple[Row, ...]:
    return tuple(
        _row(_BLOCK + f"{name}/{leaf}", _block(f"{ours}/{own}", collection))
        for leaf, collection, own in _NORM
    )


def _layer(name: str, ours: str, kernel: str = "kernel", lead: int = 2) -> tuple[Row, ...]:
    """A layer, of 1x1 convolutions where the kernel has axes in front."""
    return (
        _row(_BLOCK + f"{name}/{kernel}", _block(f"{ours}/kernel"), lead=lead),
        _row(_BLOCK + f"{name}/bias", _block(f"{ours}/bias")),
    )


@of_shape(lambda ours: (*ours[:2], ours[3], ours[2]))
def _depthwise(x: np.ndarray, shape: Shape) -> np.ndarray:
    """[ky, kx, channels, 1] to [ky, kx, 1, channels]."""
    return same(x, shape)


TABLE = KeyTable(
    rows=(
        _row(_STEM + r"conv_(\d)/kernel", "params/stem{0}/kernel"),
        _row(_STEM + r"conv_(\d)/bias", "params/stem{0}/bias"),
        *(
            _row(_STEM + f"norm_0/{leaf}", f"{collection}/stem_norm/{own}")
            for leaf, collection, own in _NORM
        ),
        *_norm("pre_norm", "conv/norm0"),
        *_norm("expand_norm", "conv/norm1"),
        *_norm("depthwise_norm", "conv/norm2"),
        *_norm("attention_norm", "norm"),
        *_layer("expand_conv", "conv/expand"),
        *_layer("se/reduce_conv2d", "conv/squeeze"),
        *_layer("se/expand_conv2d", "conv/excite"),
        *_layer("shrink_conv", "conv/project"),
        *_layer("shortcut_conv", "shortcut"),
        *_layer("attention/o", "mixer/out", "weight", 0),
        _row(
            _BLOCK + "depthwise_conv/depthwise_kernel",
            _block("conv/conv/kernel"),
            transform=_depthwise,
        ),
        _row(
            _BLOCK + "attention/relative_position_embedding",
            _block("mixer/relative_bias"),
        ),
        *(
            row
            for index, name in enumerate("qkv")
            for row in (
                _row(
                    _BLOCK + f"attention/{name}/weight",
                    _block("mixer/qkv/kernel"),
                    part=(index, 1),
                ),
                _row(_BLOCK + f"attention/{name}/bias", _block("mixer/qkv/bias"), part=(index, 0)),
            )
        ),
        _row(r"moat/final_layer_norm/gamma", "params/norm/scale"),
        _row(r"moat/final_layer_norm/beta", "params/norm/bias"),
        _row(r"moat/logits_head/kernel", "params/head/kernel", lead=2),
        _row(r"moat/logits_head/bias", "params/head/bias"),
    ),
    head=r"params/head/.*",
    stem=r"params/stem0/kernel",
    layouts={"authors": "last"},
)
