"""ResNets: the names of timm, for those that they have of torchvision and of IBN-Net's authors."""

from collections.abc import Callable

from scanmax.models.weights.table import (
    KeyTable,
    Row,
    conv,
    linear,
    norm_rows,
    pointwise,
    projection,
)

_BLOCK = r"layer(\d)\.(\d+)\."


def _block(tail: str, last: bool = False) -> Callable[..., str]:
    """Path of a part of a block: the first of a stage has a name of its own, others' last too."""

    def path(layer: int, index: int, *rest: int) -> str:
        name = "last_00" if last else f"block_{index - 1:02d}" if index else "first_00"
        return f"stage{layer - 1}_{name}/{tail.format(*rest)}"

    return path


def _params(tail: str, last: bool = False) -> Callable[..., str]:
    return lambda *groups: f"params/{_block(tail, last)(*groups)}"


_GATE = _BLOCK + r"se\."
# Of selective kernels, whose blocks wrap a convolution and its norm together.
_SELECTIVE = _BLOCK + r"conv(\d)\."

# Of norms of an image by itself.
_INSTANCE = {"weight": "instance_scale", "bias": "instance_bias"}

TABLE = KeyTable(
    rows=(
        # One convolution, or the first, second and third of a deep stem.
        Row(r"conv1(?:\.0)?\.weight", "params/stem0/conv/kernel", conv),
        Row(r"conv1\.3\.weight", "params/stem1/conv/kernel", conv),
        Row(r"conv1\.6\.weight", "params/stem2/conv/kernel", conv),
        *norm_rows(r"conv1\.1", "stem0/norm"),
        *norm_rows(r"conv1\.4", "stem1/norm"),
        # The last of the stem's; of several paths the first that the model has is taken.
        *norm_rows(r"bn1", "stem2/norm"),
        *norm_rows(r"bn1", "stem0/norm"),
        Row(r"bn1\.(weight|bias)", lambda leaf: f"params/stem0/norm/{_INSTANCE[leaf]}"),
        Row(_BLOCK + r"conv(\d)\.weight", _params("conv{0}/conv/kernel"), conv),
        *norm_rows(_BLOCK + r"bn(\d)", _block("conv{0}/norm")),
        *norm_rows(_BLOCK + r"bn(\d)\.BN", _block("conv{0}/norm")),
        *(
            Row(_BLOCK + rf"bn(\d)\.IN\.{leaf}", _params(f"conv{{0}}/norm/{ours}"))
            for leaf, ours in _INSTANCE.items()
        ),
        # The last block of a stage that norms its sum is of another kind.
        Row(_BLOCK + r"conv(\d)\.weight", _params("conv{0}/conv/kernel", last=True), conv),
        *norm_rows(_BLOCK + r"bn(\d)", _block("conv{0}/norm", last=True)),
        *(
            Row(_BLOCK + rf"IN\.{leaf}", _params(f"norm/{ours}", last=True))
            for leaf, ours in _INSTANCE.items()
        ),
        Row(_SELECTIVE + r"conv\.weight", _params("conv{0}/conv/kernel"), conv),
        *norm_rows(_SELECTIVE + r"bn", _block("conv{0}/norm")),
        Row(
            _SELECTIVE + r"paths\.(\d)\.conv\.weight",
            _params("conv{0}/path{1}/conv/kernel"),
            conv,
        ),
        *norm_rows(_SELECTIVE + r"paths\.(\d)\.bn", _block("conv{0}/path{1}/norm")),
        Row(_SELECTIVE + r"attn\.fc_reduce\.weight", _params("conv{0}/squeeze/kernel"), projection),
        Row(_SELECTIVE + r"attn\.fc_select\.weight", _params("conv{0}/select/kernel"), projection),
        *norm_rows(_SELECTIVE + r"attn\.bn", _block("conv{0}/norm")),
        # Behind an average the convolution is the second of the shortcut, else the norm is.
        Row(_BLOCK + r"downsample\.[01]\.weight", _params("shortcut/conv/kernel"), conv, ndim=4),
        *norm_rows(_BLOCK + r"downsample\.[12]", _block("shortcut/norm")),
        Row(_GATE + r"fc1\.weight", _params("channel_attention/squeeze"), pointwise),
        Row(_GATE + r"fc1\.bias", _params("channel_attention/squeeze_bias")),
        Row(_GATE + r"fc2\.weight", _params("channel_attention/excite"), pointwise),
        Row(_GATE + r"fc2\.bias", _params("channel_attention/excite_bias")),
        Row(_GATE + r"conv\.weight", _params("channel_attention/kernel")),
        Row(r"fc\.weight", "params/head/kernel", linear),
        Row(r"fc\.bias", "params/head/bias"),
    ),
    head=r"params/head/.*",
    stem=r"params/stem0/conv/kernel",
)
