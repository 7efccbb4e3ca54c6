"""UniFormer: the names of the authors' checkpoints."""

from collections.abc import Callable

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

# Stages count from 1; what shrinks the map belongs to the stage behind it.
_BLOCK, _DOWN = r"blocks(\d)\.(\d+)\.", r"patch_embed([2-4])\."


def _block(tail: str, collection: str = "params/") -> Callable[..., str]:
    def path(stage: int, index: int, *rest: int) -> str:
        return f"{collection}stage{stage - 1}_block_{index:02d}/{tail.format(*rest)}"

    return path


def _down(tail: str, collection: str = "params/") -> Callable[..., str]:
    return lambda stage: f"{collection}downsample{stage - 1}{tail}"


def _stem(tail: str, collection: str = "params/") -> Callable[..., str]:
    # Two convolutions, each with its norm, and an activation between.
    return lambda place: f"{collection}stem{place // 3}/{tail}"


_MLP = _BLOCK + r"mlp\.fc([12])\.weight"
_LOCAL = _block("mixer/value/kernel")

TABLE = KeyTable(
    rows=(
        Row(r"patch_embed1\.proj\.weight", "params/patch_embed/kernel", conv),
        Row(r"patch_embed1\.proj\.bias", "params/patch_embed/bias"),
        Row(r"patch_embed1\.norm\.weight", "params/patch_embed_norm/scale"),
        Row(r"patch_embed1\.norm\.bias", "params/patch_embed_norm/bias"),
        Row(_DOWN + r"proj\.weight", _down("/kernel"), conv),
        Row(_DOWN + r"proj\.bias", _down("/bias")),
        Row(_DOWN + r"norm\.weight", _down("_norm/scale")),
        Row(_DOWN + r"norm\.bias", _down("_norm/bias")),
        # Of overlapping patches.
        Row(r"patch_embed1\.proj\.([03])\.weight", _stem("conv/kernel"), conv),
        Row(r"patch_embed1\.proj\.([03])\.bias", _stem("conv/bias")),
        *norm_rows(r"patch_embed1\.proj\.([14])", _stem("norm", "")),
        Row(_DOWN + r"proj\.0\.weight", _down("/conv/kernel"), conv),
        Row(_DOWN + r"proj\.0\.bias", _down("/conv/bias")),
        *norm_rows(_DOWN + r"proj\.1", _down("/norm", "")),
        Row(_BLOCK + r"pos_embed\.weight", _block("position_conv1/kernel"), conv),
        Row(_BLOCK + r"pos_embed\.bias", _block("position_conv1/bias")),
        *norm_rows(_BLOCK + r"norm([12])", _block("norm{0}", "")),
        Row(_BLOCK + r"conv1\.weight", _block("mixer/value/kernel"), projection),
        Row(_BLOCK + r"conv1\.bias", _block("mixer/value/bias")),
        Row(_BLOCK + r"conv2\.weight", _block("mixer/out/kernel"), projection, having=_LOCAL),
        Row(_BLOCK + r"conv2\.bias", _block("mixer/out/bias"), having=_LOCAL),
        Row(_BLOCK + r"attn\.weight", _block("mixer/affinity/kernel"), conv),
        Row(_BLOCK + r"attn\.bias", _block("mixer/affinity/bias")),
        Row(_BLOCK + r"attn\.qkv\.weight", _block("mixer/qkv/kernel"), linear),
        Row(_BLOCK + r"attn\.qkv\.bias", _block("mixer/qkv/bias"), bias),
        Row(
            _BLOCK + r"attn\.proj\.weight",
            _block("mixer/out/kernel"),
            linear_of_heads,
            lacking=_LOCAL,
        ),
        Row(_BLOCK + r"attn\.proj\.bias", _block("mixer/out/bias"), lacking=_LOCAL),
        # Of 1x1 convolutions beside local relations.
        Row(_MLP, _block("mlp/fc{0}/kernel"), projection, ndim=4, having=_LOCAL),
        Row(_MLP, _block("mlp/fc{0}/kernel"), linear, ndim=2, lacking=_LOCAL),
        Row(_BLOCK + r"mlp\.fc([12])\.bias", _block("mlp/fc{0}/bias")),
        Row(_BLOCK + r"gamma_([12])", _block("layer_scale{0}/scale")),
        *norm_rows(r"norm", "norm"),
        Row(r"head\.weight", "params/head/kernel", linear),
        Row(r"head\.bias", "params/head/bias"),
    ),
    head=r"params/head/.*",
    stem=r"params/(patch_embed|stem0/conv)/kernel",
    layouts={"authors": "first"},
)
