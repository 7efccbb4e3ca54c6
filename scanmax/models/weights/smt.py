"""SMT: the names of the authors' checkpoints."""

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
    projection,
)

# Stages count from 1; what shrinks the map belongs to the stage behind it.
_BLOCK, _DOWN = r"block(\d)\.(\d+)\.", r"patch_embed([2-4])\."


@of_shape(lambda ours: (ours[1] * ours[2], ours[0], 1, 1))
def _aggregation(x: np.ndarray, shape: Shape) -> np.ndarray:
    """A grouped 1x1 convolution [G E, H, 1, 1] to [H, G, E]."""
    heads, width, outputs = shape
    if x.shape != (width * outputs, heads, 1, 1):
        raise ValueError(f"has shape {tuple(x.shape)}, ours is {tuple(shape)}")
    return x.reshape(width, outputs, heads).transpose(2, 0, 1)


def table(model) -> KeyTable:
    """The rows; ours count the turns of a stage, and the layers of a turn."""

    def ours(tail: str, collection: str = "params/") -> Callable[..., str]:
        def path(stage: int, index: int, *rest: int) -> str:
            return f"{collection}{model.layer_path(stage - 1, index)}/{tail.format(*rest)}"

        return path

    def down(tail: str) -> Callable[..., str]:
        return lambda stage: f"params/downsample{stage - 1}{tail}"

    def of_head(leaf: str) -> Callable[..., str]:
        # Heads count from 1.
        return lambda stage, index, head: ours(f"mixer/convs/{leaf}{head - 1}")(stage, index)

    attention = _BLOCK + r"attn\."
    return KeyTable(
        rows=(
            Row(r"patch_embed1\.conv\.0\.weight", "params/stem0/conv/kernel", conv),
            *norm_rows(r"patch_embed1\.conv\.1", "stem0/norm"),
            Row(r"patch_embed1\.conv\.3\.weight", "params/patch_embed/kernel", conv),
            Row(r"patch_embed1\.conv\.3\.bias", "params/patch_embed/bias"),
            Row(r"patch_embed1\.norm\.weight", "params/patch_embed_norm/scale"),
            Row(r"patch_embed1\.norm\.bias", "params/patch_embed_norm/bias"),
            Row(_DOWN + r"proj\.weight", down("/kernel"), conv),
            Row(_DOWN + r"proj\.bias", down("/bias")),
            Row(_DOWN + r"norm\.weight", down("_norm/scale")),
            Row(_DOWN + r"norm\.bias", down("_norm/bias")),
            Row(_BLOCK + r"norm([12])\.weight", ours("norm{0}/scale")),
            Row(_BLOCK + r"norm([12])\.bias", ours("norm{0}/bias")),
            Row(attention + r"v\.weight", ours("mixer/value/kernel"), linear),
            Row(attention + r"v\.bias", ours("mixer/value/bias")),
            Row(attention + r"s\.weight", ours("mixer/signal/kernel"), linear),
            Row(attention + r"s\.bias", ours("mixer/signal/bias")),
            Row(attention + r"local_conv_(\d)\.weight", of_head("kernel"), conv),
            Row(attention + r"local_conv_(\d)\.bias", of_head("bias")),
            Row(attention + r"proj0\.weight", ours("mixer/aggregate/kernel"), _aggregation),
            Row(attention + r"proj0\.bias", ours("mixer/aggregate/bias")),
            *norm_rows(attention + "bn", ours("mixer/norm", "")),
            Row(attention + r"proj1\.weight", ours("mixer/modulator/kernel"), projection),
            Row(attention + r"proj1\.bias", ours("mixer/modulator/bias")),
            Row(attention + r"q\.weight", ours("mixer/qkvo/kernel"), linear, part=(0, 1)),
            Row(attention + r"q\.bias", ours("mixer/qkvo/bias"), bias, part=(0, 0)),
            Row(attention + r"kv\.weight", ours("mixer/qkvo/kernel"), linear, part=((1, 2), 1)),
            Row(attention + r"kv\.bias", ours("mixer/qkvo/bias"), bias, part=((1, 2), 0)),
            Row(attention + r"local_conv\.weight", ours("mixer/lepe/kernel"), conv),
            Row(attention + r"local_conv\.bias", ours("mixer/lepe/bias")),
            Row(attention + r"proj\.weight", ours("mixer/out/kernel"), linear_of_heads),
            Row(attention + r"proj\.bias", ours("mixer/out/bias")),
            Row(_BLOCK + r"mlp\.fc([12])\.weight", ours("mlp/fc{0}/kernel"), linear),
            Row(_BLOCK + r"mlp\.fc([12])\.bias", ours("mlp/fc{0}/bias")),
            Row(_BLOCK + r"mlp\.dwconv\.dwconv\.weight", ours("mlp/conv/kernel"), conv),
            Row(_BLOCK + r"mlp\.dwconv\.dwconv\.bias", ours("mlp/conv/bias")),
            Row(_BLOCK + r"gamma_([12])", ours("layer_scale{0}/scale")),
            Row(r"norm(\d)\.weight", lambda stage: f"params/stage{stage - 1}_norm/scale"),
            Row(r"norm(\d)\.bias", lambda stage: f"params/stage{stage - 1}_norm/bias"),
            Row(r"head\.weight", "params/head/kernel", linear),
            Row(r"head\.bias", "params/head/bias"),
        ),
        head=r"params/head/.*",
        stem=r"params/stem0/conv/kernel",
        layouts={"authors": "first"},
    )
