"""ConViT: the names of timm, which are those of the original release."""

from collections.abc import Callable

import flax.linen as nn

from scanmax.models.weights.table import KeyTable, Row, bias, conv, linear, linear_of_heads

_BLOCK = r"blocks\.(\d+)\."


def table(model: nn.Module) -> KeyTable:
    """The rows; blocks with the class token are counted on from those without."""

    def block(tail: str) -> Callable[..., str]:
        def path(index: int, *rest: int) -> str:
            late = index - model.depth
            name = f"block_{index:02d}" if late < 0 else f"class_block_{late:02d}"
            return f"params/{name}/{tail.format(*rest)}"

        return path

    return KeyTable(
        rows=(
            Row(r"cls_token", "params/cls_token", lead=1),
            Row(r"pos_embed", "params/pos_embed", lead=1),
            Row(r"patch_embed\.proj\.weight", "params/patch_embed/kernel", conv),
            Row(r"patch_embed\.proj\.bias", "params/patch_embed/bias"),
            Row(_BLOCK + r"norm([12])\.weight", block("norm{0}/scale")),
            Row(_BLOCK + r"norm([12])\.bias", block("norm{0}/bias")),
            Row(_BLOCK + r"attn\.qk\.weight", block("mixer/query_key/kernel"), linear),
            Row(_BLOCK + r"attn\.qk\.bias", block("mixer/query_key/bias"), bias),
            Row(_BLOCK + r"attn\.v\.weight", block("mixer/value/kernel"), linear),
            Row(_BLOCK + r"attn\.v\.bias", block("mixer/value/bias"), bias),
            Row(_BLOCK + r"attn\.pos_proj\.weight", block("mixer/position")),
            Row(_BLOCK + r"attn\.pos_proj\.bias", block("mixer/position_bias")),
            Row(_BLOCK + r"attn\.gating_param", block("mixer/gate")),
            # Of old releases: offsets of places, computed here.
            Row(_BLOCK + r"attn\.rel_indices", ()),
            Row(_BLOCK + r"attn\.qkv\.weight", block("mixer/qkv/kernel"), linear),
            Row(_BLOCK + r"attn\.qkv\.bias", block("mixer/qkv/bias"), bias),
            Row(_BLOCK + r"attn\.proj\.weight", block("mixer/out/kernel"), linear_of_heads),
            Row(_BLOCK + r"attn\.proj\.bias", block("mixer/out/bias")),
            Row(_BLOCK + r"mlp\.fc([12])\.weight", block("mlp/fc{0}/kernel"), linear),
            Row(_BLOCK + r"mlp\.fc([12])\.bias", block("mlp/fc{0}/bias")),
            Row(r"norm\.weight", "params/norm/scale"),
            Row(r"norm\.bias", "params/norm/bias"),
            Row(r"head\.weight", "params/head/kernel", linear),
            Row(r"head\.bias", "params/head/bias"),
        ),
        head=r"params/head/.*",
        positions=r"params/pos_embed",
        stem=r"params/patch_embed/kernel",
        layouts={"timm": "first", "authors": "first"},
    )
