"""ParCNetV2: the names of the authors' checkpoints."""

import numpy as np

from scanmax.models.weights.table import (
    KeyTable,
    Row,
    Shape,
    conv,
    linear,
    of_shape,
    projection,
    same,
)

_BLOCK = r"stages\.(\d)\.(\d+)\."
_OURS = "params/stage{0}_block_{1:02d}/"
_MIXER = _BLOCK + r"token_mixer\."
_STEM, _DOWN = r"downsample_layers\.0\.", r"downsample_layers\.([1-3])\."


@of_shape(lambda ours: (ours[1], 1, ours[0], 1))
def _down(x: np.ndarray, shape: Shape) -> np.ndarray:
    """A depthwise kernel [C, 1, K, 1] to [K, C]."""
    return same(conv(x, None), shape)


@of_shape(lambda ours: (ours[1], 1, 1, ours[0]))
def _across(x: np.ndarray, shape: Shape) -> np.ndarray:
    """A depthwise kernel [C, 1, 1, K] to [K, C]."""
    return same(conv(x, None), shape)


TABLE = KeyTable(
    rows=(
        Row(_STEM + r"conv\.weight", "params/patch_embed/kernel", conv),
        Row(_STEM + r"conv\.bias", "params/patch_embed/bias"),
        Row(_STEM + r"post_norm\.weight", "params/patch_norm/scale"),
        Row(_DOWN + r"pre_norm\.weight", "params/downsample{0}_norm/scale"),
        Row(_DOWN + r"conv\.weight", "params/downsample{0}/kernel", conv),
        Row(_DOWN + r"conv\.bias", "params/downsample{0}/bias"),
        Row(_BLOCK + r"norm([12])\.weight", _OURS + "norm{2}/scale"),
        Row(_BLOCK + r"res_scale([12])\.scale", _OURS + "residual_scale{2}/scale"),
        Row(_BLOCK + r"layer_scale([12])\.scale", _OURS + "layer_scale{2}/scale"),
        Row(_MIXER + r"pwconv1\.weight", _OURS + "mixer/in_proj/kernel", projection),
        Row(_MIXER + r"pwconv1\.bias", _OURS + "mixer/in_proj/bias"),
        Row(_MIXER + r"dwconv1\.conv_h\.weight", _OURS + "mixer/column_kernel", _down),
        Row(_MIXER + r"dwconv1\.conv_w\.weight", _OURS + "mixer/row_kernel", _across),
        Row(_MIXER + r"dwconv2\.weight", _OURS + "mixer/local/kernel", conv),
        Row(_MIXER + r"pwconv2\.weight", _OURS + "mixer/out_proj/kernel", projection),
        # Values first, then gates.
        Row(
            _BLOCK + r"mlp\.fc1\.weight",
            (_OURS + "mlp/fc1/kernel", _OURS + "mlp/gate/kernel"),
            linear,
        ),
        Row(_BLOCK + r"mlp\.fc1\.bias", (_OURS + "mlp/fc1/bias", _OURS + "mlp/gate/bias")),
        Row(_BLOCK + r"mlp\.fc2\.weight", _OURS + "mlp/fc2/kernel", linear),
        Row(r"norm\.weight", "params/norm/scale"),
        Row(r"norm\.bias", "params/norm/bias"),
        Row(r"head\.weight", "params/head/kernel", linear),
        Row(r"head\.bias", "params/head/bias"),
    ),
    head=r"params/head/.*",
    layouts={"authors": "first"},
    stem=r"params/patch_embed/kernel",
)
