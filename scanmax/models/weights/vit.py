"""ViT and DeiT: the names of timm, which are those of the original DeiT too."""

from scanmax.models.weights.table import KeyTable, Row, bias, conv, linear

_BLOCK = r"blocks\.(\d+)\."

TABLE = KeyTable(
    rows=(
        Row(r"cls_token", "params/cls_token"),
        Row(r"dist_token", "params/dist_token"),
        Row(r"reg_token", "params/reg_token"),
        Row(r"pos_embed", "params/pos_embed"),
        Row(r"patch_embed\.proj\.weight", "params/patch_embed/kernel", conv),
        Row(r"patch_embed\.proj\.bias", "params/patch_embed/bias"),
        Row(_BLOCK + r"norm([12])\.weight", "params/block_{0:02d}/norm{1}/scale"),
        Row(_BLOCK + r"norm([12])\.bias", "params/block_{0:02d}/norm{1}/bias"),
        Row(_BLOCK + r"attn\.qkv\.weight", "params/block_{0:02d}/mixer/qkv/kernel", linear),
        Row(_BLOCK + r"attn\.qkv\.bias", "params/block_{0:02d}/mixer/qkv/bias", bias),
        Row(_BLOCK + r"attn\.proj\.weight", "params/block_{0:02d}/mixer/out/kernel", linear),
        Row(_BLOCK + r"attn\.proj\.bias", "params/block_{0:02d}/mixer/out/bias"),
        Row(_BLOCK + r"attn\.q_norm\.weight", "params/block_{0:02d}/mixer/query_norm/scale"),
        Row(_BLOCK + r"attn\.q_norm\.bias", "params/block_{0:02d}/mixer/query_norm/bias"),
        Row(_BLOCK + r"attn\.k_norm\.weight", "params/block_{0:02d}/mixer/key_norm/scale"),
        Row(_BLOCK + r"attn\.k_norm\.bias", "params/block_{0:02d}/mixer/key_norm/bias"),
        Row(_BLOCK + r"ls([12])\.gamma", "params/block_{0:02d}/layer_scale{1}/scale"),
        Row(_BLOCK + r"mlp\.fc([12])\.weight", "params/block_{0:02d}/mlp/fc{1}/kernel", linear),
        Row(_BLOCK + r"mlp\.fc([12])\.bias", "params/block_{0:02d}/mlp/fc{1}/bias"),
        # In front of the pooling, and behind it.
        Row(r"(norm|fc_norm)\.weight", "params/{0}/scale"),
        Row(r"(norm|fc_norm)\.bias", "params/{0}/bias"),
        Row(r"(head|head_dist)\.weight", "params/{0}/kernel", linear),
        Row(r"(head|head_dist)\.bias", "params/{0}/bias"),
    ),
    head=r"params/head(_dist)?/.*",
    positions=r"params/pos_embed",
    stem=r"params/patch_embed/kernel",
)
