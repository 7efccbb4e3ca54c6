"""SpectFormer: the names of the authors' checkpoints of the four-stage networks."""

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
)

# Stages count from 1; what shrinks the map belongs to the stage behind it.
_BLOCK, _DOWN = r"block(\d)\.(\d+)\.", r"patch_embed([2-4])\."
_POST = "params/class_block/"


def _block(tail: str) -> Callable[..., str]:
    def path(stage: int, index: int, *rest: int) -> str:
        return f"params/stage{stage - 1}_block_{index:02d}/{tail.format(*rest)}"

    return path


def _named(pattern: str) -> Callable[..., str]:
    return lambda stage: f"params/{pattern.format(stage - 1)}"


_READ = r"post_network\.0\."


def table(model: nn.Module) -> KeyTable:
    """The rows; the norm of the last stage is the network's."""
    return KeyTable(
        rows=(
            Row(
                r"patch_embed1\.conv\.([036])\.weight",
                lambda i: f"params/stem{i // 3}/conv/kernel",
                conv,
            ),
            *norm_rows(r"patch_embed1\.conv\.([147])", lambda i: f"stem{i // 3}/norm"),
            Row(r"patch_embed1\.proj\.weight", "params/patch_embed/kernel", conv),
            Row(r"patch_embed1\.proj\.bias", "params/patch_embed/bias"),
            Row(r"patch_embed1\.norm\.weight", "params/patch_embed_norm/scale"),
            Row(r"patch_embed1\.norm\.bias", "params/patch_embed_norm/bias"),
            Row(_DOWN + r"proj\.weight", _named("downsample{0}/kernel"), conv),
            Row(_DOWN + r"proj\.bias", _named("downsample{0}/bias")),
            Row(_DOWN + r"norm\.weight", _named("downsample{0}_norm/scale")),
            Row(_DOWN + r"norm\.bias", _named("downsample{0}_norm/bias")),
            Row(r"norm(\d)\.weight", _named("stage{0}_norm/scale")),
            Row(r"norm(\d)\.bias", _named("stage{0}_norm/bias")),
            Row(rf"norm{len(model.depths)}\.weight", "params/norm/scale"),
            Row(rf"norm{len(model.depths)}\.bias", "params/norm/bias"),
            Row(_BLOCK + r"norm([12])\.weight", _block("norm{0}/scale")),
            Row(_BLOCK + r"norm([12])\.bias", _block("norm{0}/bias")),
            Row(_BLOCK + r"attn\.complex_weight", _block("mixer/filter")),
            Row(_BLOCK + r"attn\.q\.weight", _block("mixer/query/kernel"), linear),
            Row(_BLOCK + r"attn\.q\.bias", _block("mixer/query/bias"), bias),
            Row(_BLOCK + r"attn\.kv\.weight", _block("mixer/key_value/kernel"), linear),
            Row(_BLOCK + r"attn\.kv\.bias", _block("mixer/key_value/bias"), bias),
            Row(_BLOCK + r"attn\.proj\.weight", _block("mixer/out/kernel"), linear_of_heads),
            Row(_BLOCK + r"attn\.proj\.bias", _block("mixer/out/bias")),
            Row(_BLOCK + r"mlp\.fc([12])\.weight", _block("mlp/fc{0}/kernel"), linear),
            Row(_BLOCK + r"mlp\.fc([12])\.bias", _block("mlp/fc{0}/bias")),
            Row(_BLOCK + r"mlp\.dwconv\.dwconv\.weight", _block("mlp/conv/kernel"), conv),
            Row(_BLOCK + r"mlp\.dwconv\.dwconv\.bias", _block("mlp/conv/bias")),
            Row(_READ + r"norm([12])\.weight", _POST + "norm{0}/scale"),
            Row(_READ + r"norm([12])\.bias", _POST + "norm{0}/bias"),
            Row(_READ + r"attn\.q\.weight", _POST + "attention/query/kernel", linear),
            Row(_READ + r"attn\.q\.bias", _POST + "attention/query/bias", bias),
            Row(
                _READ + r"attn\.kv\.weight",
                (_POST + "attention/key/kernel", _POST + "attention/value/kernel"),
                linear,
            ),
            Row(
                _READ + r"attn\.kv\.bias",
                (_POST + "attention/key/bias", _POST + "attention/value/bias"),
                bias,
            ),
            Row(_READ + r"attn\.proj\.weight", _POST + "attention/out/kernel", linear_of_heads),
            Row(_READ + r"attn\.proj\.bias", _POST + "attention/out/bias"),
            Row(_READ + r"mlp\.fc([12])\.weight", _POST + "mlp/fc{0}/kernel", linear),
            Row(_READ + r"mlp\.fc([12])\.bias", _POST + "mlp/fc{0}/bias"),
            Row(r"head\.weight", "params/head/kernel", linear),
            Row(r"head\.bias", "params/head/bias"),
            Row(r"aux_head\.weight", "params/pixel_head/kernel", linear),
            Row(r"aux_head\.bias", "params/pixel_head/bias"),
        ),
        head=r"params/(pixel_)?head/.*",
        stem=r"params/stem0/conv/kernel",
        layouts={"authors": "first"},
    )
