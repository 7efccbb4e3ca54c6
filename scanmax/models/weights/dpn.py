"""Dual Path Networks: the names of timm."""

from collections.abc import Callable

from scanmax.models.weights.table import KeyTable, Row, conv, norm_rows, pointwise

_BLOCK = r"features\.conv(\d)_(\d+)\."
# The suffixes of a branch's convolutions there, in order.
_PLACES = {"1x1_a": 1, "3x3_b": 2, "1x1_c": 3}
_CONV = _BLOCK + r"c(1x1_a|3x3_b|1x1_c)\."
# Of the first stage's the stride is one.
_SHORTCUTS = (
    r"features\.conv(2)_(\d+)\.c1x1_w_s1\.",
    r"features\.conv([3-5])_(\d+)\.c1x1_w_s2\.",
)


def _ours(tail: str, collection: str = "params/") -> Callable[..., str]:
    """Path of a part of a block; theirs count from one, and the stem is the first stage."""

    def path(stage: int, index: int, *rest: int | str) -> str:
        places = (_PLACES.get(part, part) for part in rest)
        block = f"stage{stage - 2}_block_{index - 1:02d}"
        return f"{collection}{block}/{tail.format(*places)}"

    return path


TABLE = KeyTable(
    rows=(
        Row(r"features\.conv1_1\.conv\.weight", "params/stem0/conv/kernel", conv),
        *norm_rows(r"features\.conv1_1\.bn", "stem0/norm"),
        *(
            row
            for shortcut in _SHORTCUTS
            for row in (
                Row(shortcut + r"conv\.weight", _ours("shortcut/conv/kernel"), conv),
                *norm_rows(shortcut + r"bn", _ours("shortcut/norm", "")),
            )
        ),
        Row(_CONV + r"conv\.weight", _ours("conv{0}/conv/kernel"), conv),
        *norm_rows(_CONV + r"bn", _ours("conv{0}/norm", "")),
        # Of split ends, the residual path's convolution and the dense path's.
        Row(_BLOCK + r"c1x1_c1\.weight", _ours("conv3/conv0/kernel"), conv),
        Row(_BLOCK + r"c1x1_c2\.weight", _ours("conv3/conv1/kernel"), conv),
        *norm_rows(r"features\.conv5_bn_ac\.bn", "norm"),
        Row(r"classifier\.weight", "params/head/kernel", pointwise, trail=2),
        Row(r"classifier\.bias", "params/head/bias"),
    ),
    head=r"params/head/.*",
    stem=r"params/stem0/conv/kernel",
    layouts={"timm": "first"},
)
