"""Next-ViT: the names of timm."""

from collections.abc import Callable

import flax.linen as nn

from scanmax.models.weights.table import (
    KeyTable,
    Row,
    bias,
    conv,
    linear,
    linear_of_heads,
    norm_rows,
    projection,
)

_BLOCK = r"stages\.(\d)\.blocks\.(\d+)\."


def table(model: nn.Module) -> KeyTable:
    """The rows; the names of blocks follow from how the model groups them."""
    names = [model.block_names(stage) for stage in range(len(model.depths))]

    def block(tail: str) -> Callable[..., str]:
        def path(stage: int, index: int, *rest: int) -> str:
            known = stage < len(names) and index < len(names[stage])
            name = names[stage][index] if known else f"stage{stage}_{index:02d}"
            return f"{name}/{tail.format(*rest)}"

        return path

    def params(tail: str) -> Callable[..., str]:
        return lambda *groups: f"params/{block(tail)(*groups)}"

    def conv_norm(theirs: str, ours: str) -> tuple[Row, ...]:
        pattern = _BLOCK + theirs
        return (
            Row(pattern + r"\.conv\.weight", params(f"{ours}/conv/kernel"), conv),
            *norm_rows(pattern + r"\.norm", block(f"{ours}/norm")),
        )

    joint = [
        row
        for index, letter in enumerate("kv")
        for row in (
            Row(
                _BLOCK + rf"e_mhsa\.{letter}\.weight",
                params("mixer/key_value/kernel"),
                linear,
                part=(index, 1),
            ),
            Row(
                _BLOCK + rf"e_mhsa\.{letter}\.bias",
                params("mixer/key_value/bias"),
                bias,
                part=(index, 0),
            ),
        )
    ]
    return KeyTable(
        rows=(
            Row(r"stem\.(\d)\.conv\.weight", "params/stem{0}/conv/kernel", conv),
            *norm_rows(r"stem\.(\d)\.norm", "stem{0}/norm"),
            *conv_norm("patch_embed", "patches"),
            *conv_norm("projection", "projection"),
            Row(_BLOCK + r"mhca\.group_conv3x3\.weight", params("heads/conv/kernel"), conv),
            *norm_rows(_BLOCK + r"mhca\.norm", block("heads/norm")),
            Row(_BLOCK + r"mhca\.projection\.weight", params("heads_out/kernel"), projection),
            *norm_rows(_BLOCK + r"norm", block("norm")),
            *norm_rows(_BLOCK + r"norm([12])", block("norm{0}")),
            *norm_rows(_BLOCK + r"e_mhsa\.norm", block("mixer/norm")),
            Row(_BLOCK + r"e_mhsa\.q\.weight", params("mixer/query/kernel"), linear),
            Row(_BLOCK + r"e_mhsa\.q\.bias", params("mixer/query/bias"), bias),
            *joint,
            Row(_BLOCK + r"e_mhsa\.proj\.weight", params("mixer/out/kernel"), linear_of_heads),
            Row(_BLOCK + r"e_mhsa\.proj\.bias", params("mixer/out/bias")),
            Row(_BLOCK + r"mlp\.fc([12])\.weight", params("mlp/fc{0}/kernel"), projection),
            Row(_BLOCK + r"mlp\.fc([12])\.bias", params("mlp/fc{0}/bias")),
            *norm_rows(r"norm", "norm"),
            Row(r"head\.fc\.weight", "params/head/kernel", linear),
            Row(r"head\.fc\.bias", "params/head/bias"),
        ),
        head=r"params/head/.*",
        stem=r"params/stem0/conv/kernel",
        layouts={"timm": "first"},
    )
