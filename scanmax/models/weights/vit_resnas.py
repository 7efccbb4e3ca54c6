"""ViT-Res and ViT-ResNAS: the names of the authors' checkpoints."""

from collections.abc import Callable

from scanmax.models.weights.table import (
    KeyTable,
    Row,
    bias,
    conv,
    linear,
    linear_of_heads,
    norm_rows,
)

_BLOCK = r"blocks\.(\d+)\."


def table(model) -> KeyTable:
    """The rows; blocks and what shrinks the map between stages are numbered through as one."""
    places: list[str] = []
    for stage, blocks in enumerate(model.head_counts):
        places += [f"reduce{stage}/"] if stage else []
        places += [f"stage{stage}_block_{index:02d}/" for index in range(len(blocks))]

    def place(tail: str) -> Callable[..., str]:
        return lambda index, *rest: f"params/{places[index]}{tail.format(*rest)}"

    stem = r"patch_embed\.conv([123])\."
    return KeyTable(
        rows=(
            Row("tokens", "params/cls_token", lead=1),
            Row("pos_embed", "params/pos_embed", lead=1),
            Row(
                stem + r"conv\.weight",
                lambda index: f"params/stem{index - 1}/conv/kernel",
                conv,
            ),
            *norm_rows(stem + "bn", lambda index: f"stem{index - 1}/norm"),
            Row(r"patch_embed\.conv_proj\.weight", "params/patch_embed/kernel", conv),
            Row(r"patch_embed\.conv_proj\.bias", "params/patch_embed/bias"),
            Row(_BLOCK + r"norm([12])\.weight", place("norm{0}/scale")),
            Row(_BLOCK + r"norm([12])\.bias", place("norm{0}/bias")),
            Row(_BLOCK + r"attn\.qkv\.weight", place("mixer/qkv/kernel"), linear),
            Row(_BLOCK + r"attn\.qkv\.bias", place("mixer/qkv/bias"), bias),
            Row(_BLOCK + r"attn\.proj\.weight", place("mixer/out/kernel"), linear_of_heads),
            Row(_BLOCK + r"attn\.proj\.bias", place("mixer/out/bias")),
            Row(_BLOCK + r"mlp\.fc([12])\.weight", place("mlp/fc{0}/kernel"), linear),
            Row(_BLOCK + r"mlp\.fc([12])\.bias", place("mlp/fc{0}/bias")),
            Row(_BLOCK + r"norm\.weight", place("norm/scale")),
            Row(_BLOCK + r"norm\.bias", place("norm/bias")),
            Row(_BLOCK + r"patch_reduce\.weight", place("conv/kernel"), conv),
            Row(_BLOCK + r"patch_reduce\.bias", place("conv/bias")),
            Row(_BLOCK + r"token_transform\.weight", place("tokens/kernel"), linear),
            Row(_BLOCK + r"token_transform\.bias", place("tokens/bias")),
            Row(_BLOCK + "pos_embed", place("pos_embed"), lead=1),
            Row(r"norm\.weight", "params/norm/scale"),
            Row(r"norm\.bias", "params/norm/bias"),
            Row(r"cls_head\.weight", "params/head/kernel", linear),
            Row(r"cls_head\.bias", "params/head/bias"),
            # Of what patches are told to be in training, when their tokens are mixed.
            Row(r"patch_head\..*", ()),
        ),
        head=r"params/head/.*",
        positions=r"params/(reduce\d/)?pos_embed",
        stem=r"params/stem0/conv/kernel",
        layouts={"authors": "first"},
    )
