"""UniRepLKNet: the names of the authors' checkpoints, in training and after it."""

from collections.abc import Callable

from scanmax.models.weights.table import KeyTable, Row, conv, linear, norm_rows, projection

_BLOCK = r"stages\.([0-3])\.(\d+)\."
_ORIGIN = _BLOCK + r"dwconv\.lk_origin\."
# Side of a branch's kernel, and its dilation.
_BRANCH = r"k([3579])_(\d)"
# The smallest kernel with branches.
BRANCHED = 7
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

    def large(stage: int, index: int, *_: int) -> str:
        """The kernel of a layer that has branches, or had them before it was merged."""
        sizes = model.kernel_sizes[stage]
        large = sizes[index % len(sizes)] >= BRANCHED
        return ours("mixer/large/kernel")(stage, index) if large else ""

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
            Row(_BLOCK + r"dwconv\.weight", ours("mixer/large/kernel"), conv, lacking=large),
            Row(_BLOCK + r"dwconv\.bias", ours("mixer/large/bias"), lacking=large),
            Row(_ORIGIN + "weight", ours("mixer/large/kernel"), conv, having=large),
            Row(_ORIGIN + "bias", ours("mixer/large/bias"), having=large),
            *norm_rows(_BLOCK + r"dwconv\.origin_bn", ours("mixer/large_norm", "")),
            Row(
                _BLOCK + rf"dwconv\.dil_conv_{_BRANCH}\.weight",
                ours("mixer/branch_{0}_{1}/kernel"),
                conv,
            ),
            *norm_rows(
                _BLOCK + rf"dwconv\.dil_bn_{_BRANCH}", ours("mixer/branch_{0}_{1}_norm", "")
            ),
            *norm_rows(_BLOCK + r"norm", ours("mixer/norm", "")),
            Row(_BLOCK + r"se\.down\.weight", ours("mixer/gate/squeeze"), projection),
            Row(_BLOCK + r"se\.down\.bias", ours("mixer/gate/squeeze_bias")),
            Row(_BLOCK + r"se\.up\.weight", ours("mixer/gate/excite"), projection),
            Row(_BLOCK + r"se\.up\.bias", ours("mixer/gate/excite_bias")),
            Row(_BLOCK + r"pwconv1\.1\.weight", ours("mlp/fc1/kernel"), linear),
            Row(_BLOCK + r"pwconv1\.1\.bias", ours("mlp/fc1/bias")),
            Row(_BLOCK + r"act\.1\.gamma", ours("mlp/response_scale"), lead=3),
            Row(_BLOCK + r"act\.1\.beta", ours("mlp/response_bias"), lead=3),
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
        layouts={"authors": "first"},
    )
