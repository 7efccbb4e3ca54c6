"""GLNet: the names of the authors' checkpoints."""

from collections.abc import Callable

from scanmax.models.weights.table import KeyTable, Row, bias, conv, linear, norm_rows, pointwise

_BLOCK = r"stages\.(\d)\.blocks\.(\d+)\."
_STEM, _DOWN = r"downsample_layers\.0\.", r"downsample_layers\.([1-3])\."


def table(model) -> KeyTable:
    """The rows; ours count the turns of a stage, and the layers of a turn."""

    def ours(tail: str, collection: str = "params/") -> Callable[..., str]:
        def path(stage: int, index: int, *rest: int) -> str:
            return f"{collection}{model.layer_path(stage, index)}/{tail.format(*rest)}"

        return path

    def layer(tail: str) -> Callable[..., str]:
        # The last of an MLP has one or two places of others before it.
        return lambda stage, index, place: ours(tail.format(2 if place else 1))(stage, index)

    def stem(tail: str) -> Callable[..., str]:
        return lambda place: f"params/stem{place // 4}/{tail}"

    if model.overlap:
        shrinking = (
            Row(_STEM + r"([14])\.weight", stem("conv/kernel"), conv),
            Row(_STEM + r"([14])\.bias", stem("conv/bias")),
            *norm_rows(_STEM + "([25])", lambda place: f"stem{place // 5}/norm"),
            Row(_DOWN + r"0\.weight", "params/downsample{0}/conv/kernel", conv),
            Row(_DOWN + r"0\.bias", "params/downsample{0}/conv/bias"),
            *norm_rows(_DOWN + "1", "downsample{0}/norm"),
        )
    else:
        shrinking = (
            Row(_STEM + r"0\.weight", "params/patch_embed/kernel", conv),
            Row(_STEM + r"0\.bias", "params/patch_embed/bias"),
            *norm_rows(_STEM + "1", "patch_norm"),
            Row(_DOWN + r"1\.weight", "params/downsample{0}/kernel", conv),
            Row(_DOWN + r"1\.bias", "params/downsample{0}/bias"),
            *norm_rows(_DOWN + "0", "downsample{0}_norm"),
        )
    attention = _BLOCK + r"(?:relation_mha|mha_op)\."
    return KeyTable(
        rows=(
            *shrinking,
            Row(_BLOCK + r"pos_conv\.weight", ours("position_conv1/kernel"), conv),
            Row(_BLOCK + r"pos_conv\.bias", ours("position_conv1/bias")),
            Row(_BLOCK + "slot_scale", ours("mixer/slot_scale")),
            Row(_BLOCK + "init_slots", ours("mixer/slots")),
            *norm_rows(_BLOCK + "norm([12])", ours("norm{0}", "")),
            Row(attention + "in_proj_weight", ours("mixer/qkv/kernel"), linear),
            Row(attention + "in_proj_bias", ours("mixer/qkv/bias"), bias),
            Row(attention + r"out_proj\.weight", ours("mixer/out/kernel"), linear),
            Row(attention + r"out_proj\.bias", ours("mixer/out/bias")),
            Row(_BLOCK + r"feature_conv\.0\.weight", ours("mixer/conv_in/kernel"), pointwise),
            Row(_BLOCK + r"feature_conv\.0\.bias", ours("mixer/conv_in/bias")),
            Row(_BLOCK + r"feature_conv\.1\.weight", ours("mixer/conv/kernel"), conv),
            Row(_BLOCK + r"feature_conv\.1\.bias", ours("mixer/conv/bias")),
            Row(_BLOCK + r"feature_conv\.2\.weight", ours("mixer/conv_out/kernel"), pointwise),
            Row(_BLOCK + r"feature_conv\.2\.bias", ours("mixer/conv_out/bias")),
            Row(_BLOCK + r"mlp\.1\.weight", ours("mlp/conv/kernel"), conv),
            Row(_BLOCK + r"mlp\.1\.bias", ours("mlp/conv/bias")),
            Row(_BLOCK + r"mlp\.([023])\.weight", layer("mlp/fc{0}/kernel"), pointwise),
            Row(_BLOCK + r"mlp\.([023])\.bias", layer("mlp/fc{0}/bias")),
            Row(_BLOCK + r"ls([12])\.gamma", ours("layer_scale{0}/scale")),
            *norm_rows("norm", "norm"),
            Row(r"head\.weight", "params/head/kernel", linear),
            Row(r"head\.bias", "params/head/bias"),
        ),
        head=r"params/head/.*",
        stem=r"params/(stem0/conv|patch_embed)/kernel",
    )
