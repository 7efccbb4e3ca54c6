"""DDRNet: the names of the authors' ImageNet checkpoints."""

import flax.linen as nn

from scanmax.models.weights.table import KeyTable, Row, conv, linear, norm_rows


def _conv_rows(theirs: str, norm: str, ours: str) -> tuple[Row, ...]:
    return (
        Row(rf"{theirs}\.weight", f"params/{ours}/conv/kernel", conv),
        *norm_rows(norm, f"{ours}/norm"),
    )


def _block_rows(theirs: str, ours: str) -> tuple[Row, ...]:
    """Rows of a sequence of blocks."""
    block = rf"{theirs}\.(\d+)\."
    path = ours + "_{0:02d}"
    return (
        *_conv_rows(block + r"conv([1-3])", block + r"bn([1-3])", path + "/conv{1}"),
        *_conv_rows(block + r"downsample\.0", block + r"downsample\.1", path + "/shortcut"),
    )


def _shrink_rows(theirs: str, ours: str, times: int) -> tuple[Row, ...]:
    rows: list[Row] = []
    for index in range(times):
        # Each convolution, its norm, its activation.
        place = 3 * index
        names = (rf"{theirs}\.{place}", rf"{theirs}\.{place + 1}")
        rows += _conv_rows(*names, f"{ours}_{index}")
    return tuple(rows)


def table(model: nn.Module) -> KeyTable:
    """The table of a model of these steps: those of one stride are parts of a layer there."""
    rows: list[Row] = []
    for index in (0, 1):
        rows += _conv_rows(rf"conv1\.{3 * index}", rf"conv1\.{3 * index + 1}", f"stem{index}")
        rows.append(Row(rf"conv1\.{3 * index}\.bias", f"params/stem{index}/conv/bias"))
        rows += _block_rows(f"layer{index + 1}", f"stage{index}")
    times, part = 0, 0
    for step, stride in enumerate(model.strides):
        times, part = (times + 1, 1) if stride == 2 else (times, part + 1)
        following = model.strides[step + 1 : step + 2]
        alone = part == 1 and following != (1,)
        name = f"{times + 2}" if alone else f"{times + 2}_{part}"
        rows += _block_rows(f"layer{name}", f"coarse{step}")
        rows += _block_rows(f"layer{name}_", f"fine{step}")
        names = (rf"compression{name}\.0", rf"compression{name}\.1")
        rows += _conv_rows(*names, f"enlarge{step}")
        rows += _shrink_rows(f"down{name}", f"shrink{step}", times)
    rows += [
        *_block_rows(f"layer{times + 3}", "coarse_top"),
        *_block_rows(f"layer{times + 3}_", "fine_top"),
        *_shrink_rows(f"down{times + 3}", "shrink_top", times),
        *_conv_rows(r"last_layer\.0", r"last_layer\.1", "last"),
        Row(r"linear\.weight", "params/head/kernel", linear),
        Row(r"linear\.bias", "params/head/bias"),
    ]
    return KeyTable(
        tuple(rows),
        head=r"params/head/.*",
        stem=r"params/stem0/conv/kernel",
        layouts={"authors": "first"},
    )
