"""SOFT: the names of the authors' checkpoints."""

from collections.abc import Callable

import numpy as np

from scanmax.models.weights.table import (
    KeyTable,
    Row,
    Shape,
    bias,
    conv,
    linear,
    linear_of_heads,
    norm_rows,
    of_shape,
    same,
)

# Stages count from 1; what shrinks the map belongs to the stage behind it.
_BLOCK = r"block(\d)\.(\d+)\."
_SOFT, _KERNEL = _BLOCK + r"att\.", _BLOCK + r"att\.mha\.attn\."
_DOWN = r"patch_embed([2-4])\.proj\."


def _block(tail: str) -> Callable[..., str]:
    def path(stage: int, index: int, *rest: int) -> str:
        return f"params/stage{stage - 1}_block_{index:02d}/{tail.format(*rest)}"

    return path


def _stem(tail: str) -> Callable[..., str]:
    return lambda place: f"stem{place // 3}/{tail}"


def _down(tail: str) -> Callable[..., str]:
    return lambda stage: f"downsample{stage - 1}/{tail}"


def _param(path: Callable[..., str]) -> Callable[..., str]:
    return lambda *groups: "params/" + path(*groups)


@of_shape(lambda ours: (1, *ours))
def _positions(x: np.ndarray, shape: Shape | None) -> np.ndarray:
    """[1, N, D] to [N, D]; of the last stage the class token's is in front."""
    return x[0] if shape is None else same(x, shape)


TABLE = KeyTable(
    rows=(
        Row(r"patch_embed1\.proj\.([036])\.weight", _param(_stem("conv/kernel")), conv),
        Row(r"patch_embed1\.proj\.([036])\.bias", _param(_stem("conv/bias"))),
        *norm_rows(r"patch_embed1\.proj\.([147])", _stem("norm")),
        Row(_DOWN + r"0\.weight", _param(_down("conv/kernel")), conv),
        Row(_DOWN + r"0\.bias", _param(_down("conv/bias"))),
        *norm_rows(_DOWN + "1", _down("norm")),
        Row(r"pos_embed(\d)", lambda stage: f"params/pos_embed_{stage - 1}", _positions),
        Row(r"cls_token", "params/cls_token", lead=1),
        Row(_SOFT + r"mha\.W_q\.weight", _block("mixer/query/kernel"), linear),
        Row(_SOFT + r"mha\.W_q\.bias", _block("mixer/query/bias"), bias),
        Row(_SOFT + r"mha\.W_v\.weight", _block("mixer/value/kernel"), linear),
        Row(_SOFT + r"mha\.W_v\.bias", _block("mixer/value/bias"), bias),
        Row(_KERNEL + r"Qlandmark_op\.weight", _block("mixer/landmark_conv/kernel"), conv),
        Row(_KERNEL + r"Qnorm_act\.0\.weight", _block("mixer/landmark_norm/scale")),
        Row(_KERNEL + r"Qnorm_act\.0\.bias", _block("mixer/landmark_norm/bias")),
        Row(_KERNEL + r"conv\.weight", _block("mixer/conv_kernel"), conv),
        # Of the last stage's blocks, which attend as usual, the names are others.
        *(
            Row(f"{name}\\.{theirs}", _block(ours), transform, having=_block(only))
            for norm, layer, out, only in (
                (_SOFT + "norm", _SOFT + "ff", _SOFT + r"mha\.ff", "mixer/query/kernel"),
                (_BLOCK + "norm", _BLOCK + r"mlp\.fc", _BLOCK + r"attn\.proj", "mixer/qkv/kernel"),
            )
            for name, theirs, ours, transform in (
                (norm + "([12])", "weight", "norm{0}/scale", same),
                (norm + "([12])", "bias", "norm{0}/bias", same),
                (layer + "([12])", "weight", "mlp/fc{0}/kernel", linear),
                (layer + "([12])", "bias", "mlp/fc{0}/bias", same),
                (out, "weight", "mixer/out/kernel", linear_of_heads),
                (out, "bias", "mixer/out/bias", same),
            )
        ),
        Row(_BLOCK + r"attn\.q\.weight", _block("mixer/qkv/kernel"), linear, part=(0, 1)),
        Row(_BLOCK + r"attn\.q\.bias", _block("mixer/qkv/bias"), bias, part=(0, 0)),
        Row(_BLOCK + r"attn\.kv\.weight", _block("mixer/qkv/kernel"), linear, part=((1, 2), 1)),
        Row(_BLOCK + r"attn\.kv\.bias", _block("mixer/qkv/bias"), bias, part=((1, 2), 0)),
        Row(r"norm\.weight", "params/norm/scale"),
        Row(r"norm\.bias", "params/norm/bias"),
        Row(r"head\.weight", "params/head/kernel", linear),
        Row(r"head\.bias", "params/head/bias"),
    ),
    head=r"params/head/.*",
    positions=r"params/pos_embed_\d",
    stem=r"params/stem0/conv/kernel",
    layouts={"authors": "first"},
)
