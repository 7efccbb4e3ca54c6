"""ResNets: the names of timm and, for those that it has too, torchvision."""

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


def _block(tail: str) -> Callable[..., str]:
    """Path of a part of a block: the first of a stage has a name of its own."""

    def path(layer: int, index: int, *rest: int) -> str:
        name = f"block_{index - 1:02d}" if index else "first_00"
        return f"stage{layer - 1}_{name}/{tail.format(*rest)}"

    return path


def _params(tail: str) -> Callable[..., str]:
    return lambda *groups: f"params/{_block(tail)(*groups)}"


_GATE = _BLOCK + r"se\."
# Of selective kernels, whose blocks wrap a convolution and its norm together.
_SELECTIVE = _BLOCK + r"conv(\d)\."

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
        Row(_BLOCK + r"conv(\d)\.weight", _params("conv{0}/conv/kernel"), conv),
        *norm_rows(_BLOCK + r"bn(\d)", _block("conv{0}/norm")),
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
