"""LSNet: the names of the authors' checkpoints."""

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

# Stages are counted from one.
_BLOCK = r"blocks(\d)\.(\d+)\."


@of_shape(lambda ours: (ours[0], math.prod(ours[1:])))
def _distances(x: np.ndarray, shape: Shape) -> np.ndarray:
    """[H, rows columns] to [H, rows, columns]."""
    if x.ndim != 2 or x.shape != (shape[0], math.prod(shape[1:])):
        raise ValueError(f"has shape {tuple(x.shape)}, ours is {tuple(shape)}")
    return x.reshape(shape)


def table(model) -> KeyTable:
    """The rows; ours count the turns of a stage, and the layers of a turn."""

    def ours(tail: str, collection: str = "params/") -> Callable[..., str]:
        def path(stage: int, place: int, *rest: int) -> str:
            # Two convolutions stand before all stages but the first.
            index = place - (2 if stage > 1 else 0)
            turn, layer = divmod(index, 1 if model.depths[stage - 1] % 2 else 2)
            return (
                f"{collection}stage{stage - 1}_block_{turn:02d}/layer{layer}/{tail.format(*rest)}"
            )

        return path

    def convolved(names: str, tail: str) -> tuple[Row, ...]:
        """A convolution of a block and its norm."""
        pattern = _BLOCK + names
        kernel = Row(pattern + r"\.c\.weight", ours(f"{tail}/conv/kernel"), conv)
        return kernel, *norm_rows(pattern + r"\.bn", ours(f"{tail}/norm", ""))

    def near(name: str, branch: str) -> tuple[Row, ...]:
        pattern, place = _BLOCK + rf"mixer\.{name}", f"mixer/{branch}"
        kernel = Row(pattern + r"\.c\.weight", ours(f"{place}/kernel"), conv)
        return kernel, *norm_rows(pattern + r"\.bn", ours(f"{place}_norm", ""))

    def between(place: int, tail: str) -> tuple[Row, ...]:
        """A convolution of what halves the map; ours is of the stage behind it."""
        pattern = rf"blocks([2-9])\.{place}"

        def path(leaf: str) -> Callable[[int], str]:
            return lambda stage: leaf.format(f"downsample{stage - 1}{tail}")

        kernel = Row(pattern + r"\.c\.weight", path("params/{0}/conv/kernel"), conv)
        return kernel, *norm_rows(pattern + r"\.bn", path("{0}/norm"))

    look = {"cv1": "into", "cv2": "look", "cv3": "onward"}
    attend = {"qkv": "qkv", r"proj\.1": "out", "dw": "query_conv"}
    return KeyTable(
        rows=(
            # Every other module of the stem is an activation.
            Row(
                r"patch_embed\.(\d)\.c\.weight",
                lambda index: f"params/stem{index // 2}/conv/kernel",
                conv,
            ),
            *norm_rows(r"patch_embed\.(\d)\.bn", lambda index: f"stem{index // 2}/norm"),
            *between(0, "_depthwise"),
            *between(1, ""),
            *near("conv", "large"),
            *near("conv1", "branch_1_1"),
            Row(_BLOCK + r"se\.fc1\.weight", ours("gate/squeeze"), projection),
            Row(_BLOCK + r"se\.fc1\.bias", ours("gate/squeeze_bias")),
            Row(_BLOCK + r"se\.fc2\.weight", ours("gate/excite"), projection),
            Row(_BLOCK + r"se\.fc2\.bias", ours("gate/excite_bias")),
            *(
                row
                for name, part in look.items()
                for row in convolved(rf"mixer\.lkp\.{name}", f"mixer/{part}")
            ),
            Row(_BLOCK + r"mixer\.lkp\.cv4\.weight", ours("mixer/taps/kernel"), projection),
            Row(_BLOCK + r"mixer\.lkp\.cv4\.bias", ours("mixer/taps/bias")),
            Row(_BLOCK + r"mixer\.lkp\.norm\.weight", ours("mixer/norm_scale")),
            Row(_BLOCK + r"mixer\.lkp\.norm\.bias", ours("mixer/norm_bias")),
            *norm_rows(_BLOCK + r"mixer\.bn", ours("mixer/norm", "")),
            *(
                row
                for name, part in attend.items()
                for row in convolved(rf"mixer\.m\.{name}", f"mixer/{part}")
            ),
            Row(_BLOCK + r"mixer\.m\.attention_biases", ours("mixer/bias"), _distances),
            # Which of them each pair of places reads.
            Row(_BLOCK + r"mixer\.m\.attention_bias_idxs", ()),
            *convolved(r"ffn\.m\.pw([12])", "mlp/fc{0}"),
            *norm_rows(r"(head|head_dist)\.bn", "{0}_norm"),
            Row(r"(head|head_dist)\.l\.weight", "params/{0}/kernel", linear),
            Row(r"(head|head_dist)\.l\.bias", "params/{0}/bias"),
        ),
        head=r"(params|batch_stats)/head(_dist)?(_norm)?/.*",
        stem=r"params/stem0/conv/kernel",
        layouts={"authors": "first"},
    )
