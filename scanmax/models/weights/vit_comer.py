"""ViT-CoMer: the names of the authors' checkpoints, a backbone's alone or in front of its heads."""

from collections.abc import Callable

import numpy as np

from scanmax.models.weights.table import (
    KeyTable,
    Row,
    Shape,
    bias,
    conv,
    conv_transpose,
    linear,
    linear_of_heads,
    norm_rows,
    of_shape,
    pointwise,
)

_ROOT = r"(?:backbone\.)?"
_BLOCK = _ROOT + r"blocks\.(\d+)\."
_STAGE = _ROOT + r"interactions\.(\d+)\."
# Theirs count through all levels: 3x3 and 5x5 of the first, of the second, of the third.
_SIZES = (3, 5)


@of_shape(linear.theirs)
def _offsets(x: np.ndarray, shape: Shape) -> np.ndarray:
    """Columns come before rows there."""
    return linear(x, shape)[..., ::-1]


@of_shape(bias.theirs)
def _offset_starts(x: np.ndarray, shape: Shape) -> np.ndarray:
    return bias(x, shape)[..., ::-1]


def _layer(pattern: str, path: str, transform=linear) -> tuple[Row, Row]:
    return (
        Row(pattern + r"\.weight", f"params/{path}/kernel", transform),
        Row(pattern + r"\.bias", f"params/{path}/bias"),
    )


def _layer_norm(pattern: str, path: str) -> tuple[Row, Row]:
    return (
        Row(pattern + r"\.weight", f"params/{path}/scale"),
        Row(pattern + r"\.bias", f"params/{path}/bias"),
    )


def _branch(pattern: str, path: str) -> tuple[Row, ...]:
    """An MLP that convolves, and its norm."""
    return (
        *_layer_norm(pattern + "ffn_norm", f"{path}/branch/norm"),
        *_layer(pattern + r"ffn\.fc1", f"{path}/branch/mlp/fc1"),
        *_layer(pattern + r"ffn\.dwconv\.dwconv", f"{path}/branch/mlp/conv", conv),
        *_layer(pattern + r"ffn\.fc2", f"{path}/branch/mlp/fc2"),
    )


def _mixing(pattern: str, path: str) -> tuple[Row, ...]:
    attention, ours = pattern + r"attn\.", f"params/{path}/attention/"
    return (
        *_layer_norm(pattern + "query_norm", f"{path}/query_norm"),
        *_layer_norm(pattern + "feat_norm", f"{path}/key_norm"),
        Row(attention + r"sampling_offsets\.weight", ours + "offsets/kernel", _offsets),
        Row(attention + r"sampling_offsets\.bias", ours + "offsets/bias", _offset_starts),
        Row(attention + r"attention_weights\.weight", ours + "weights/kernel", linear),
        Row(attention + r"attention_weights\.bias", ours + "weights/bias", bias),
        Row(attention + r"value_proj\.weight", ours + "value/kernel", linear),
        Row(attention + r"value_proj\.bias", ours + "value/bias", bias),
        Row(attention + r"output_proj\.weight", ours + "out/kernel", linear_of_heads),
        Row(attention + r"output_proj\.bias", ours + "out/bias"),
        *_branch(pattern, path),
    )


def _to_levels(pattern: str, path: str) -> tuple[Row, ...]:
    return (
        *_layer_norm(pattern + "query_norm", f"{path}/query_norm"),
        *_layer_norm(pattern + "feat_norm", f"{path}/key_norm"),
        *_mixing(pattern + r"cfinter\.", f"{path}/mixing"),
    )


def _pyramid() -> tuple[Row, ...]:
    pattern, rows = _STAGE + r"mrfp\.", []
    for level in range(3):
        for index, size in enumerate(_SIZES):
            theirs = pattern + rf"dwconv\.dwconv{2 * level + index + 1}"
            rows += _layer(theirs, f"pyramid{{0}}/level{level}_conv{size}", conv)
        rows += norm_rows(pattern + rf"dwconv\.bn{level + 1}", f"pyramid{{0}}/level{level}_norm")
    return (*rows, *_layer(pattern + "fc([12])", "pyramid{0}/fc{1}"))


def _of_convolutions() -> tuple[Row, ...]:
    rows = []
    for index in range(3):
        for pattern, path in (
            (rf"spm\.stem\.{3 * index}", f"stem{index}"),
            (rf"spm\.conv{index + 2}\.0", f"shrink{index}"),
        ):
            rows.append(Row(_ROOT + pattern + r"\.weight", f"params/{path}/conv/kernel", conv))
        rows += norm_rows(_ROOT + rf"spm\.stem\.{3 * index + 1}", f"stem{index}/norm")
        rows += norm_rows(_ROOT + rf"spm\.conv{index + 2}\.1", f"shrink{index}/norm")
    for index in range(4):
        theirs = _ROOT + rf"spm\.fc{index + 1}"
        rows.append(Row(theirs + r"\.weight", f"params/project{index}/kernel", pointwise, trail=2))
        rows.append(Row(theirs + r"\.bias", f"params/project{index}/bias"))
        rows += norm_rows(_ROOT + f"norm{index + 1}", f"norm{index}")
    return tuple(rows)


def table(model) -> KeyTable:
    """The rows; blocks are numbered through, what follows the last belongs to the last stage."""
    # By the number through the whole ViT; beyond its last block there is none.
    places = [
        f"params/stage{stage}_block_{index:02d}/"
        for stage, depth in enumerate(model.depths)
        for index in range(depth)
    ]

    def block(tail: str) -> Callable[..., str]:
        return lambda index, *rest: places[index] + tail.format(*rest)

    extra = rf"{_ROOT}interactions\.{len(model.depths) - 1}\.extra_CTIs\.(\d+)\."

    return KeyTable(
        rows=(
            Row(_ROOT + "level_embed", "params/level_embed"),
            Row(_ROOT + "pos_embed", "params/pos_embed", lead=1),
            Row(_ROOT + r"patch_embed\.proj\.weight", "params/patch_embed/kernel", conv),
            Row(_ROOT + r"patch_embed\.proj\.bias", "params/patch_embed/bias"),
            Row(_BLOCK + r"norm([12])\.weight", block("norm{0}/scale")),
            Row(_BLOCK + r"norm([12])\.bias", block("norm{0}/bias")),
            Row(_BLOCK + r"attn\.qkv\.weight", block("mixer/qkv/kernel"), linear),
            Row(_BLOCK + r"attn\.qkv\.bias", block("mixer/qkv/bias"), bias),
            Row(_BLOCK + r"attn\.proj\.weight", block("mixer/out/kernel"), linear_of_heads),
            Row(_BLOCK + r"attn\.proj\.bias", block("mixer/out/bias")),
            Row(_BLOCK + r"gamma([12])", block("layer_scale{0}/scale")),
            Row(_BLOCK + r"mlp\.fc([12])\.weight", block("mlp/fc{0}/kernel"), linear),
            Row(_BLOCK + r"mlp\.fc([12])\.bias", block("mlp/fc{0}/bias")),
            *_of_convolutions(),
            *_pyramid(),
            *_mixing(_STAGE + r"cti_tov\.", "to_tokens{0}/mixing"),
            Row(_STAGE + r"cti_tov\.gamma", "params/to_tokens{0}/layer_scale/scale"),
            *_to_levels(_STAGE + r"cti_toc\.", "to_levels{0}"),
            *_to_levels(extra, "extra{0}"),
            *_branch(extra, "extra{0}"),
            *_layer(_ROOT + "up", "enlarge", conv_transpose),
            Row(r"head\.weight", "params/head/kernel", linear),
            Row(r"head\.bias", "params/head/bias"),
            # What segments and detects with the maps.
            Row(r"(decode_head|auxiliary_head|neck|rpn_head|roi_head)\..*", ()),
        ),
        head=r"params/head/.*",
        positions=r"params/pos_embed",
        stem=r"params/(patch_embed|stem0/conv)/kernel",
        # Without the prefix that detectors and segmenters give the backbone.
        layouts={"authors": "last"},
    )
