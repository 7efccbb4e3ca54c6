"""RMT, MAViT and RAVLT: what names of the authors' checkpoints share."""

from scanmax.models.weights.table import (
    KeyTable,
    Row,
    bias,
    conv,
    linear,
    norm_rows,
    projection,
    projection_of_heads,
)

BLOCK = r"layers\.(\d+)\.blocks\.(\d+)\."
OURS = "params/stage{0}_block_{1:02d}/"
# The authors count a downsampling to the stage before it.
_DOWN = r"layers\.(\d+)\.downsample\."


def _before_stage(tail: str):
    return lambda stage: tail.format(stage + 1)


def table_of(
    *own: Row,
    norms: tuple[str, str],
    is_last: bool,
) -> KeyTable:
    """The whole table of a family.

    Args:
      *own: rows of its mixers.
      norms: what it calls the norms of its blocks.
      is_last: channels are the last axis of its maps: MLPs are linear layers, and its depthwise
        convolutions stand in modules of their own.
    """
    depthwise, mlp = (r"conv\.", linear) if is_last else ("", projection)
    scales = {"lead": 3} if is_last else {"lead": 1, "trail": 2}
    rows = []
    for index, pattern in enumerate(norms, 1):
        rows += [
            Row(BLOCK + pattern + r"\.weight", OURS + f"norm{index}/scale"),
            Row(BLOCK + pattern + r"\.bias", OURS + f"norm{index}/bias"),
        ]
    return KeyTable(
        rows=(
            # Each convolution of the stem, its norm and an activation.
            Row(
                r"patch_embed\.proj\.([0369])\.weight",
                lambda place: f"params/stem{place // 3}/conv/kernel",
                conv,
            ),
            Row(
                r"patch_embed\.proj\.([0369])\.bias",
                lambda place: f"params/stem{place // 3}/conv/bias",
            ),
            *norm_rows(r"patch_embed\.proj\.(1|4|7|10)", lambda place: f"stem{place // 3}/norm"),
            Row(
                _DOWN + r"reduction\.weight",
                _before_stage("params/downsample{0}/conv/kernel"),
                conv,
            ),
            Row(_DOWN + r"reduction\.bias", _before_stage("params/downsample{0}/conv/bias")),
            *norm_rows(_DOWN + r"norm", _before_stage("downsample{0}/norm")),
            *rows,
            *own,
            Row(BLOCK + rf"pos\.{depthwise}weight", OURS + "position_conv1/kernel", conv),
            Row(BLOCK + rf"pos\.{depthwise}bias", OURS + "position_conv1/bias"),
            Row(BLOCK + r"ffn\.fc([12])\.weight", OURS + "mlp/fc{2}/kernel", mlp),
            Row(BLOCK + r"ffn\.fc([12])\.bias", OURS + "mlp/fc{2}/bias"),
            Row(BLOCK + rf"ffn\.dwconv\.{depthwise}weight", OURS + "mlp/conv/kernel", conv),
            Row(BLOCK + rf"ffn\.dwconv\.{depthwise}bias", OURS + "mlp/conv/bias"),
            Row(BLOCK + r"gamma_([12])", OURS + "layer_scale{2}/scale", **scales),
            # Constants of positions and decays: computed here.
            Row(r"layers\.\d+\.(?:Relpos|RoPE)\.\w+", ()),
            Row(r"proj\.weight", "params/projection/kernel", mlp),
            Row(r"proj\.bias", "params/projection/bias"),
            *norm_rows(r"norm", "norm"),
            Row(r"head\.weight", "params/head/kernel", mlp),
            Row(r"head\.bias", "params/head/bias"),
        ),
        head=r"params/head/.*",
        stem=r"params/stem0/conv/kernel",
        layouts={"authors": "first"},
    )


def gated_table() -> KeyTable:
    """MAViT's and RAVLT's: query, key, value and gate are one map, the norms wrapped ones."""
    return table_of(
        Row(BLOCK + r"attn\.qkvo\.weight", OURS + "mixer/qkvo/kernel", projection),
        Row(BLOCK + r"attn\.qkvo\.bias", OURS + "mixer/qkvo/bias", bias),
        Row(BLOCK + r"attn\.lepe\.weight", OURS + "mixer/lepe/kernel", conv),
        Row(BLOCK + r"attn\.lepe\.bias", OURS + "mixer/lepe/bias"),
        Row(BLOCK + r"attn\.proj\.weight", OURS + "mixer/out/kernel", projection_of_heads),
        Row(BLOCK + r"attn\.proj\.bias", OURS + "mixer/out/bias"),
        norms=(r"norm1\.norm", r"norm2\.norm"),
        is_last=False,
    )
