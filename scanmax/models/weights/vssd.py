"""VSSD: the names of the authors' checkpoints."""

from scanmax.models.weights.table import KeyTable, Row, bias, conv, linear, linear_of_heads

# Place of each of the stem's convolutions.
_STEM = {0: r"conv1", 1: r"conv2\.0", 2: r"conv2\.1", 3: r"conv3\.0", 4: r"conv3\.1"}
_BLOCK = r"layers\.(\d+)\.blocks\.(\d+)\."
_OURS = "params/stage{0}_block_{1:02d}/"


def _batch_norm(pattern: str, ours: str) -> list[Row]:
    return [
        Row(pattern + r"norm\.weight", f"params/{ours}_norm/scale"),
        Row(pattern + r"norm\.bias", f"params/{ours}_norm/bias"),
        Row(pattern + r"norm\.running_mean", f"batch_stats/{ours}_norm/mean"),
        Row(pattern + r"norm\.running_var", f"batch_stats/{ours}_norm/variance"),
        # How many batches the averages have seen: nothing of ours.
        Row(pattern + r"norm\.num_batches_tracked", ()),
    ]


def _stem() -> list[Row]:
    rows = []
    for index, place in _STEM.items():
        pattern = rf"patch_embed\.{place}\."
        rows.append(Row(pattern + r"conv\.weight", f"params/stem{index}/kernel", conv))
        rows += _batch_norm(pattern, f"stem{index}")
    return rows


def _downsampling() -> list[Row]:
    rows = []
    # The authors count a downsampling to the stage before it.
    for stage in range(3):
        ours = f"downsample{stage + 1}"
        for index, part in enumerate(("expand", "depthwise", "project")):
            pattern = rf"layers\.{stage}\.downsample\.conv\.{index}\."
            rows.append(Row(pattern + r"conv\.weight", f"params/{ours}_{part}/kernel", conv))
            rows.append(Row(pattern + r"conv\.bias", f"params/{ours}_{part}/bias"))
        rows += _batch_norm(rf"layers\.{stage}\.downsample\.conv\.2\.", ours)
    return rows


TABLE = KeyTable(
    rows=(
        *_stem(),
        *_downsampling(),
        Row(_BLOCK + r"cpe([12])\.weight", _OURS + "position_conv{2}/kernel", conv),
        Row(_BLOCK + r"cpe([12])\.bias", _OURS + "position_conv{2}/bias"),
        Row(_BLOCK + r"norm([12])\.weight", _OURS + "norm{2}/scale"),
        Row(_BLOCK + r"norm([12])\.bias", _OURS + "norm{2}/bias"),
        Row(_BLOCK + r"attn\.(dt_bias|A_log|D)", _OURS + "mixer/{2}"),
        Row(_BLOCK + r"attn\.(in|out)_proj\.weight", _OURS + "mixer/{2}_proj/kernel", linear),
        Row(_BLOCK + r"attn\.conv2d\.weight", _OURS + "mixer/conv_kernel", conv),
        Row(_BLOCK + r"attn\.conv2d\.bias", _OURS + "mixer/conv_bias"),
        Row(_BLOCK + r"attn\.norm\.weight", _OURS + "mixer/norm/scale"),
        Row(_BLOCK + r"attn\.norm\.bias", _OURS + "mixer/norm/bias"),
        Row(_BLOCK + r"attn\.to_qkv\.weight", _OURS + "mixer/qkv/kernel", linear),
        Row(_BLOCK + r"attn\.to_qkv\.bias", _OURS + "mixer/qkv/bias", bias),
        Row(_BLOCK + r"attn\.to_out\.weight", _OURS + "mixer/out/kernel", linear_of_heads),
        Row(_BLOCK + r"attn\.to_out\.bias", _OURS + "mixer/out/bias"),
        Row(_BLOCK + r"mlp\.fc([12])\.weight", _OURS + "mlp/fc{2}/kernel", linear),
        Row(_BLOCK + r"mlp\.fc([12])\.bias", _OURS + "mlp/fc{2}/bias"),
        Row(r"norm\.weight", "params/norm/scale"),
        Row(r"norm\.bias", "params/norm/bias"),
        Row(r"head\.weight", "params/head/kernel", linear),
        Row(r"head\.bias", "params/head/bias"),
    ),
    head=r"params/head/.*",
    stem=r"params/stem0/kernel",
    layouts={"authors": "first"},
)
