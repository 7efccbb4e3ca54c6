"""GLNet: the names of the authors' checkpoints."""

from collections.abc import Callable

from scanmax.models.weights.table import (
    NEVER,
    KeyTable,
    Row,
    Transform,
    bias,
    conv,
    linear,
    linear_of_heads,
    norm_rows,
    projection,
)

_BLOCK = r"stages\.(\d)\.blocks\.(\d+)\."
_STEM, _DOWN = r"downsample_layers\.0\.", r"downsample_layers\.([1-3])\."


def table(model) -> KeyTable:
    """The rows; ours count the turns of a stage, and the layers of a turn."""

    def ours(tail: str, collection: str = "params/") -> Callable[..., str]:
        def path(stage: int, index: int, *rest: int) -> str:
            return f"{collection}{model.layer_path(stage, index)}/{tail.format(*rest)}"

        return path

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
    slots = ours("mixer/conv_in/kernel")
    # Beside slots, or with a convolution in it, an MLP is of 1x1 convolutions.
    convolved = {} if model.conv_mlp else {"having": slots}
    flat = {"having": NEVER} if model.conv_mlp else {"lacking": slots}

    def attention(name: str, **when) -> tuple[Row, ...]:
        pattern = _BLOCK + rf"{name}\."
        return (
            Row(pattern + "in_proj_weight", ours("mixer/qkv/kernel"), linear, **when),
            Row(pattern + "in_proj_bias", ours("mixer/qkv/bias"), bias, **when),
            Row(pattern + r"out_proj\.weight", ours("mixer/out/kernel"), linear_of_heads, **when),
            Row(pattern + r"out_proj\.bias", ours("mixer/out/bias"), **when),
        )

    def mlp(places: tuple[int, int], transform: Transform, **when) -> list[Row]:
        rows = []
        for number, place in enumerate(places, 1):
            pattern, layer = _BLOCK + rf"mlp\.{place}\.", f"mlp/fc{number}"
            kernel = ours(f"{layer}/kernel")
            ndim = 2 if transform is linear else 4
            rows.append(Row(pattern + "weight", kernel, transform, ndim=ndim, **when))
            rows.append(Row(pattern + "bias", ours(f"{layer}/bias"), **when))
        return rows

    def scale(number: int, of_maps: dict, of_tokens: dict) -> tuple[Row, Row]:
        pattern, path = _BLOCK + rf"ls{number}\.gamma", ours(f"layer_scale{number}/scale")
        return (
            Row(pattern, path, ndim=4, lead=1, trail=2, **of_maps),
            Row(pattern, path, ndim=1, **of_tokens),
        )

    return KeyTable(
        rows=(
            *shrinking,
            Row(_BLOCK + r"pos_conv\.weight", ours("position_conv1/kernel"), conv),
            Row(_BLOCK + r"pos_conv\.bias", ours("position_conv1/bias")),
            Row(_BLOCK + "slot_scale", ours("mixer/slot_scale")),
            Row(_BLOCK + "init_slots", ours("mixer/slots"), lead=1),
            *norm_rows(_BLOCK + "norm([12])", ours("norm{0}", "")),
            *attention("relation_mha", having=slots),
            *attention("mha_op", lacking=slots),
            Row(_BLOCK + r"feature_conv\.0\.weight", ours("mixer/conv_in/kernel"), projection),
            Row(_BLOCK + r"feature_conv\.0\.bias", ours("mixer/conv_in/bias")),
            Row(_BLOCK + r"feature_conv\.1\.weight", ours("mixer/conv/kernel"), conv),
            Row(_BLOCK + r"feature_conv\.1\.bias", ours("mixer/conv/bias")),
            Row(
                _BLOCK + r"feature_conv\.2\.weight",
                ours("mixer/conv_out/kernel"),
                projection,
            ),
            Row(_BLOCK + r"feature_conv\.2\.bias", ours("mixer/conv_out/bias")),
            Row(_BLOCK + r"mlp\.1\.weight", ours("mlp/conv/kernel"), conv),
            Row(_BLOCK + r"mlp\.1\.bias", ours("mlp/conv/bias")),
            *mlp((0, 3), projection, **convolved),
            *mlp((0, 2), linear, **flat),
            *scale(1, {"having": slots}, {"lacking": slots}),
            *scale(2, convolved, flat),
            *norm_rows("norm", "norm"),
            Row(r"head\.weight", "params/head/kernel", linear),
            Row(r"head\.bias", "params/head/bias"),
        ),
        head=r"params/head/.*",
        stem=r"params/(stem0/conv|patch_embed)/kernel",
        layouts={"authors": "first"},
    )
