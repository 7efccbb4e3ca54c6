"""VGG-KAGN: the names of the authors' checkpoints, which count pools among the layers."""

import re

import flax.linen as nn

from scanmax.models.weights.simple_kan import kan_rows
from scanmax.models.weights.table import KeyTable, Row, linear


def table(model: nn.Module) -> KeyTable:
    """The table of a model of these depths."""
    rows, place = [], 0
    for stage, depth in enumerate(model.depths):
        for index in range(depth):
            theirs, ours = re.escape(f"features.{place}."), f"stage{stage}_conv{index}"
            rows += kan_rows(model.kind, theirs, ours)
            place += 1
        place += 1
    rows += [
        Row(r"classifier\.1\.weight", "params/head/kernel", linear),
        Row(r"classifier\.1\.bias", "params/head/bias"),
    ]
    return KeyTable(
        tuple(rows),
        head=r"params/head/.*",
        stem=r"params/stage0_conv0/base/kernel",
        layouts={} if model.kind == "kan" or model.groups > 1 else {"authors": "first"},
    )
