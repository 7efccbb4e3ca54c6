"""ViT and DeiT: the names of timm, which are those of the original DeiT too."""

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
# Branches side by side, counted in their block; the norm and scale of a branch are its own.
_MIXER, _MLP = _BLOCK + r"attns\.(\d+)\.", _BLOCK + r"ffns\.(\d+)\."
_OURS = "params/block_{0:02d}/"


def _parallel(pattern: str, branch: int) -> tuple[Row, ...]:
    return (
        Row(pattern + r"norm\.weight", _OURS + f"norm{branch}_{{1}}/scale"),
        Row(pattern + r"norm\.bias", _OURS + f"norm{branch}_{{1}}/bias"),
        Row(pattern + r"ls\.gamma", _OURS + f"layer_scale{branch}_{{1}}/scale"),
    )


TABLE = KeyTable(
    rows=(
        Row(r"cls_token", "params/cls_token", lead=1),
        Row(r"dist_token", "params/dist_token", lead=1),
        Row(r"reg_token", "params/reg_token", lead=1),
        Row(r"pos_embed", "params/pos_embed", lead=1),
        Row(r"patch_embed\.proj\.weight", "params/patch_embed/kernel", conv),
        Row(r"patch_embed\.proj\.bias", "params/patch_embed/bias"),
        Row(_BLOCK + r"norm([12])\.weight", "params/block_{0:02d}/norm{1}/scale"),
        Row(_BLOCK + r"norm([12])\.bias", "params/block_{0:02d}/norm{1}/bias"),
        Row(_BLOCK + r"attn\.qkv\.weight", "params/block_{0:02d}/mixer/qkv/kernel", linear),
        Row(_BLOCK + r"attn\.qkv\.bias", "params/block_{0:02d}/mixer/qkv/bias", bias),
        Row(
            _BLOCK + r"attn\.proj\.weight", "params/block_{0:02d}/mixer/out/kernel", linear_of_heads
        ),
        Row(_BLOCK + r"attn\.proj\.bias", "params/block_{0:02d}/mixer/out/bias"),
        Row(_BLOCK + r"attn\.q_norm\.weight", "params/block_{0:02d}/mixer/query_norm/scale"),
        Row(_BLOCK + r"attn\.q_norm\.bias", "params/block_{0:02d}/mixer/query_norm/bias"),
        Row(_BLOCK + r"attn\.k_norm\.weight", "params/block_{0:02d}/mixer/key_norm/scale"),
        Row(_BLOCK + r"attn\.k_norm\.bias", "params/block_{0:02d}/mixer/key_norm/bias"),
        Row(_BLOCK + r"ls([12])\.gamma", "params/block_{0:02d}/layer_scale{1}/scale"),
        Row(_BLOCK + r"mlp\.fc([12])\.weight", "params/block_{0:02d}/mlp/fc{1}/kernel", linear),
        Row(_BLOCK + r"mlp\.fc([12])\.bias", "params/block_{0:02d}/mlp/fc{1}/bias"),
        # The stem of several convolutions: each is followed by its norm and an activation.
        Row(
            r"patch_embed\.proj\.([036])\.weight",
            lambda place: f"params/patch_embed/conv{place // 3}/kernel",
            conv,
        ),
        Row(
            r"patch_embed\.proj\.([036])\.bias",
            lambda place: f"params/patch_embed/conv{place // 3}/bias",
        ),
        *norm_rows(r"patch_embed\.proj\.([147])", lambda place: f"patch_embed/norm{place // 3}"),
        *_parallel(_MIXER, 1),
        Row(_MIXER + r"attn\.qkv\.weight", _OURS + "mixer_{1}/qkv/kernel", linear),
        Row(_MIXER + r"attn\.qkv\.bias", _OURS + "mixer_{1}/qkv/bias", bias),
        Row(_MIXER + r"attn\.proj\.weight", _OURS + "mixer_{1}/out/kernel", linear_of_heads),
        Row(_MIXER + r"attn\.proj\.bias", _OURS + "mixer_{1}/out/bias"),
        *_parallel(_MLP, 2),
        Row(_MLP + r"mlp\.fc([12])\.weight", _OURS + "mlp_{1}/fc{2}/kernel", linear),
        Row(_MLP + r"mlp\.fc([12])\.bias", _OURS + "mlp_{1}/fc{2}/bias"),
        # In front of the pooling, and behind it.
        Row(r"(norm|fc_norm)\.weight", "params/{0}/scale"),
        Row(r"(norm|fc_norm)\.bias", "params/{0}/bias"),
        Row(r"(head|head_dist)\.weight", "params/{0}/kernel", linear),
        Row(r"(head|head_dist)\.bias", "params/{0}/bias"),
    ),
    head=r"params/head(_dist)?/.*",
    positions=r"params/pos_embed",
    stem=r"params/patch_embed/(conv0/)?kernel",
    layouts={"timm": "first", "authors": "first"},
)
