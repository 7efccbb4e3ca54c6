"""ResKANet: the names of the authors' modules."""

from collections.abc import Callable

import flax.linen as nn

from scanmax.models.weights.simple_kan import kan_rows
from scanmax.models.weights.table import KeyTable, Row, linear

_BLOCK = r"layer([1-4])\.(\d+)\."


def _block(tail: str) -> Callable[..., str]:
    """Path of a part of a block: the first of a stage has a name of its own."""

    def path(layer: int, index: int, *rest: int) -> str:
        name = f"block_{index - 1:02d}" if index else "first_00"
        return f"stage{layer - 1}_{name}/{tail.format(*rest)}"

    return path


def table(model: nn.Module) -> KeyTable:
    """The table of a model without gates, of one group."""
    return KeyTable(
        (
            *kan_rows(model.kind, r"conv1\.", "stem0"),
            *kan_rows(model.kind, _BLOCK + r"conv([1-3])\.", _block("conv{0}")),
            *kan_rows(model.kind, _BLOCK + r"downsample\.", _block("shortcut")),
            Row(r"fc\.weight", "params/head/kernel", linear),
            Row(r"fc\.bias", "params/head/bias"),
        ),
        head=r"params/head/.*",
        stem=r"params/stem0/base/kernel",
        layouts={} if model.kind == "kan" or model.groups > 1 else {"authors": "first"},
    )
