"""DHVT: the names of the authors' checkpoints, timm's ViT's but for its own parts."""

import dataclasses

from scanmax.models.weights import vit
from scanmax.models.weights.table import Row, bias, conv, linear, norm_rows, projection

_BLOCK = r"blocks\.(\d+)\."
_OURS = "block_{0:02d}/"
# Activations are counted too.
_STEM = r"patch_embed\.proj\.([0246])\."
_AFFINE = r"patch_embed\.{}_affine\."


def _stem(tail: str):
    return lambda place: tail.format(place // 2)


TABLE = dataclasses.replace(
    vit.TABLE,
    rows=(
        Row(_AFFINE.format("pre") + "alpha", "params/patch_embed/before/scale", lead=1, trail=2),
        Row(_AFFINE.format("pre") + "beta", "params/patch_embed/before/bias", lead=1, trail=2),
        Row(_AFFINE.format("post") + "alpha", "params/patch_embed/behind/scale", lead=1, trail=2),
        Row(_AFFINE.format("post") + "beta", "params/patch_embed/behind/bias", lead=1, trail=2),
        Row(_STEM + r"0\.weight", _stem("params/patch_embed/conv{}/conv/kernel"), conv),
        *norm_rows(_STEM + "1", _stem("patch_embed/conv{}/norm")),
        Row(_BLOCK + r"attn\.pos_embed", f"params/{_OURS}mixer/position", lead=1),
        Row(_BLOCK + r"attn\.ht_proj\.weight", f"params/{_OURS}mixer/project/kernel", linear),
        Row(_BLOCK + r"attn\.ht_proj\.bias", f"params/{_OURS}mixer/project/bias", bias),
        Row(_BLOCK + r"attn\.ht_norm\.weight", f"params/{_OURS}mixer/norm/scale"),
        Row(_BLOCK + r"attn\.ht_norm\.bias", f"params/{_OURS}mixer/norm/bias"),
        Row(_BLOCK + r"mlp\.conv1\.weight", f"params/{_OURS}mlp/fc1/kernel", projection),
        Row(_BLOCK + r"mlp\.conv1\.bias", f"params/{_OURS}mlp/fc1/bias"),
        Row(_BLOCK + r"mlp\.conv2\.weight", f"params/{_OURS}mlp/conv/kernel", conv),
        Row(_BLOCK + r"mlp\.conv2\.bias", f"params/{_OURS}mlp/conv/bias"),
        Row(_BLOCK + r"mlp\.conv3\.weight", f"params/{_OURS}mlp/fc2/kernel", projection),
        Row(_BLOCK + r"mlp\.conv3\.bias", f"params/{_OURS}mlp/fc2/bias"),
        *norm_rows(_BLOCK + r"mlp\.bn([123])", _OURS + "mlp/norm{1}"),
        Row(_BLOCK + r"mlp\.compress\.weight", f"params/{_OURS}mlp/compress/kernel", linear),
        Row(_BLOCK + r"mlp\.compress\.bias", f"params/{_OURS}mlp/compress/bias"),
        Row(_BLOCK + r"mlp\.excitation\.weight", f"params/{_OURS}mlp/expand/kernel", linear),
        Row(_BLOCK + r"mlp\.excitation\.bias", f"params/{_OURS}mlp/expand/bias"),
        *vit.TABLE.rows,
    ),
    stem=r"params/patch_embed/conv0/conv/kernel",
    layouts={"authors": "first"},
)
