"""Swin: the names of timm."""

from collections.abc import Callable

from scanmax.models.weights.table import (
    KeyTable,
    Row,
    bias,
    conv,
    linear,
    linear_of_heads,
    relative_bias,
)

_BLOCK = r"layers\.(\d+)\.blocks\.(\d+)\."


def _ours(tail: str) -> Callable[..., str]:
    """Path of a part of a layer; ours come in pairs."""

    def path(stage: int, layer: int, *rest: int) -> str:
        place = "second" if layer % 2 else "first"
        return f"params/stage{stage}_block_{layer // 2:02d}/{place}/{tail.format(*rest)}"

    return path


TABLE = KeyTable(
    rows=(
        Row(r"patch_embed\.proj\.weight", "params/patch_embed/kernel", conv),
        Row(r"patch_embed\.proj\.bias", "params/patch_embed/bias"),
        Row(r"patch_embed\.norm\.weight", "params/patch_norm/scale"),
        Row(r"patch_embed\.norm\.bias", "params/patch_norm/bias"),
        Row(r"layers\.(\d+)\.downsample\.norm\.weight", "params/downsample{0}_norm/scale"),
        Row(r"layers\.(\d+)\.downsample\.norm\.bias", "params/downsample{0}_norm/bias"),
        Row(r"layers\.(\d+)\.downsample\.reduction\.weight", "params/downsample{0}/kernel", linear),
        Row(_BLOCK + r"norm([12])\.weight", _ours("norm{0}/scale")),
        Row(_BLOCK + r"norm([12])\.bias", _ours("norm{0}/bias")),
        Row(
            _BLOCK + r"attn\.relative_position_bias_table",
            _ours("mixer/relative_bias"),
            relative_bias,
        ),
        Row(_BLOCK + r"attn\.qkv\.weight", _ours("mixer/qkv/kernel"), linear),
        Row(_BLOCK + r"attn\.qkv\.bias", _ours("mixer/qkv/bias"), bias),
        Row(_BLOCK + r"attn\.proj\.weight", _ours("mixer/out/kernel"), linear_of_heads),
        Row(_BLOCK + r"attn\.proj\.bias", _ours("mixer/out/bias")),
        Row(_BLOCK + r"mlp\.fc([12])\.weight", _ours("mlp/fc{0}/kernel"), linear),
        Row(_BLOCK + r"mlp\.fc([12])\.bias", _ours("mlp/fc{0}/bias")),
        Row(r"norm\.weight", "params/norm/scale"),
        Row(r"norm\.bias", "params/norm/bias"),
        Row(r"head\.fc\.weight", "params/head/kernel", linear),
        Row(r"head\.fc\.bias", "params/head/bias"),
    ),
    head=r"params/head/.*",
    relative_positions=r"params/stage\d+_block_\d+/(first|second)/mixer/relative_bias",
    stem=r"params/patch_embed/kernel",
    layouts={"timm": "first"},
)
