"""UniRepLKNet: the names of the authors' checkpoints, in training and after it."""

from collections.abc import Callable

from scanmax.models.weights.table import KeyTable, Row, conv, linear, norm_rows, projection

_BLOCK = r"stages\.(\d)\.(\d+)\."
_DOWN = r"downsample_layers\.([1-3])\."
# A stage's first layers are the stem's: convolution, norm, activation, convolution, norm.
_STEM = r"downsample_layers\.0\."


def table(model) -> KeyTable:
    """The rows; ours count the turns of a stage, and the layers of a turn."""

    def ours(tail: str, collection: str = "params/") -> Callable[..., str]:
        def path(stage: int, index: int, *rest: int) -> str:
            turn, layer = divmod(index, len(model.kernel_sizes[stage]))
            return f"{collection}stage{stage}_block_{turn:02d}/layer{layer}/{tail.format(*rest)}"

        return path

    return KeyTable(
        rows=(
            Row(_STEM + r"([03])\.weight", lambda i: f"params/stem{i // 3}/kernel", conv),
            Row(_STEM + r"([03])\.bias", lambda i: f"params/stem{i // 3}/bias"),
            Row(_STEM + r"([14])\.weight", lambda i: f"params/stem{i // 3}_norm/scale"),
            Row(_STEM + r"([14])\.bias", lambda i: f"params/stem{i // 3}_norm/bias"),
            Row(_DOWN + r"0\.weight", "params/downsample{0}/kernel", conv),
            Row(_DOWN + r"0\.bias", "params/downsample{0}/bias"),
            Row(_DOWN + r"1\.weight", "params/downsample{0}_norm/scale"),
            Row(_DOWN + r"1\.bias", "params/downsample{0}_norm/bias"),
            Row(_BLOCK + r"dwconv\.(?:lk_origin\.)?weight", ours("mixer/large/kernel"), conv),
            Row(_BLOCK + r"dwconv\.(?:lk_origin\.)?bias", ours("mixer/large/bias")),
            *norm_rows(_BLOCK + r"dwconv\.origin_bn", ours("mixer/large_norm", "")),
            Row(
                _BLOCK + r"dwconv\.dil_conv_k(\d+)_(\d+)\.weight",
                ours("mixer/branch_{0}_{1}/kernel"),
                conv,
            ),
            *norm_rows(
                _BLOCK + r"dwconv\.dil_bn_k(\d+)_(\d+)", ours("mixer/branch_{0}_{1}_norm", "")
            ),
            *norm_rows(_BLOCK + r"norm", ours("mixer/norm", "")),
            Row(_BLOCK + r"se\.down\.weight", ours("mixer/gate/squeeze"), projection),
            Row(_BLOCK + r"se\.down\.bias", ours("mixer/gate/squeeze_bias")),
            Row(_BLOCK + r"se\.up\.weight", ours("mixer/gate/excite"), projection),
            Row(_BLOCK + r"se\.up\.bias", ours("mixer/gate/excite_bias")),
            Row(_BLOCK + r"pwconv1\.1\.weight", ours("mlp/fc1/kernel"), linear),
            Row(_BLOCK + r"pwconv1\.1\.bias", ours("mlp/fc1/bias")),
            Row(_BLOCK + r"act\.1\.gamma", ours("mlp/response_scale")),
            Row(_BLOCK + r"act\.1\.beta", ours("mlp/response_bias")),
            Row(_BLOCK + r"pwconv2\.0\.weight", ours("mlp/fc2/kernel"), linear),
            Row(_BLOCK + r"pwconv2\.0\.bias", ours("mlp/fc2/bias")),
            *norm_rows(_BLOCK + r"pwconv2\.2", ours("mlp/norm", "")),
            Row(_BLOCK + r"gamma", ours("layer_scale/scale")),
            Row(r"norm\.weight", "params/norm/scale"),
            Row(r"norm\.bias", "params/norm/bias"),
            Row(r"head\.weight", "params/head/kernel", linear),
            Row(r"head\.bias", "params/head/bias"),
        ),
        head=r"params/head/.*",
        stem=r"params/stem0/kernel",
    )
