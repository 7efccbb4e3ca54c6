"""ResNets: the names of timm, for those that they have of torchvision and of IBN-Net's authors."""

from collections.abc import Callable

import flax.linen as nn

from scanmax.models.weights.table import (
    NEVER,
    KeyTable,
    Row,
    conv,
    linear,
    norm_rows,
    pointwise,
    projection,
)

_BLOCK = r"layer([1-4])\.(\d+)\."


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
_SELECTIVE = _BLOCK + r"conv([1-3])\."
_GATED = _params("conv{0}/squeeze/kernel")

# Of norms of an image by itself.
_INSTANCE = {"weight": "instance_scale", "bias": "instance_bias"}


def table(model: nn.Module) -> KeyTable:
    """The rows; names tell a deep stem, selective kernels and averages of shortcuts by places."""
    deep = "params/stem1/conv/kernel"
    plain, wrapped = ({}, {"having": NEVER})[:: -1 if model.selective_kernel is not None else 1]
    # A shortcut that averages has a place for it before its convolution.
    place = int(model.average_down)
    half = _params("conv{0}/norm/instance_scale")

    def last(tail: str) -> Callable[..., str]:
        """Path of a part of the last block of a stage that norms its sum: it is of another kind."""

        def path(layer: int, index: int, *rest: int) -> str:
            is_last = index + 1 == model.depths[layer - 1]
            return f"stage{layer - 1}_last_00/{tail.format(*rest)}" if is_last else ""

        return path

    def last_params(tail: str) -> Callable[..., str]:
        return lambda *groups: f"params/{last(tail)(*groups)}"

    rows = (
        # One convolution, or the first, second and third of a deep stem.
        Row(r"conv1\.weight", "params/stem0/conv/kernel", conv, lacking=deep),
        Row(r"conv1\.0\.weight", "params/stem0/conv/kernel", conv, having=deep),
        Row(r"conv1\.3\.weight", "params/stem1/conv/kernel", conv),
        Row(r"conv1\.6\.weight", "params/stem2/conv/kernel", conv),
        *norm_rows(r"conv1\.1", "stem0/norm", having=deep),
        *norm_rows(r"conv1\.4", "stem1/norm"),
        # The last of the stem's; of several paths the first that the model has is taken.
        *norm_rows(r"bn1", "stem2/norm"),
        *norm_rows(r"bn1", "stem0/norm", lacking=deep),
        Row(r"bn1\.(weight|bias)", lambda leaf: f"params/stem0/norm/{_INSTANCE[leaf]}"),
        Row(_BLOCK + r"conv([1-3])\.weight", _params("conv{0}/conv/kernel"), conv, **plain),
        *norm_rows(_BLOCK + r"bn([1-3])", _block("conv{0}/norm"), lacking=half, **plain),
        *norm_rows(_BLOCK + r"bn([1-3])\.BN", _block("conv{0}/norm"), having=half),
        *(
            Row(_BLOCK + rf"bn([1-3])\.IN\.{leaf}", _params(f"conv{{0}}/norm/{ours}"))
            for leaf, ours in _INSTANCE.items()
        ),
        Row(_BLOCK + r"conv([1-3])\.weight", last_params("conv{0}/conv/kernel"), conv),
        *norm_rows(_BLOCK + r"bn([1-3])", last("conv{0}/norm")),
        *(
            Row(_BLOCK + rf"IN\.{leaf}", last_params(f"norm/{ours}"))
            for leaf, ours in _INSTANCE.items()
        ),
        Row(_SELECTIVE + r"conv\.weight", _params("conv{0}/conv/kernel"), conv, **wrapped),
        *norm_rows(_SELECTIVE + r"bn", _block("conv{0}/norm"), lacking=_GATED, **wrapped),
        Row(
            _SELECTIVE + r"paths\.([01])\.conv\.weight",
            _params("conv{0}/path{1}/conv/kernel"),
            conv,
        ),
        *norm_rows(_SELECTIVE + r"paths\.([01])\.bn", _block("conv{0}/path{1}/norm")),
        Row(_SELECTIVE + r"attn\.fc_reduce\.weight", _params("conv{0}/squeeze/kernel"), projection),
        Row(_SELECTIVE + r"attn\.fc_select\.weight", _params("conv{0}/select/kernel"), projection),
        *norm_rows(_SELECTIVE + r"attn\.bn", _block("conv{0}/norm"), **wrapped),
        Row(_BLOCK + rf"downsample\.{place}\.weight", _params("shortcut/conv/kernel"), conv),
        *norm_rows(_BLOCK + rf"downsample\.{place + 1}", _block("shortcut/norm")),
        Row(_GATE + r"fc1\.weight", _params("channel_attention/squeeze"), pointwise, trail=2),
        Row(_GATE + r"fc1\.bias", _params("channel_attention/squeeze_bias")),
        Row(_GATE + r"fc2\.weight", _params("channel_attention/excite"), pointwise, trail=2),
        Row(_GATE + r"fc2\.bias", _params("channel_attention/excite_bias")),
        Row(_GATE + r"conv\.weight", _params("channel_attention/kernel"), lead=2),
        Row(r"fc\.weight", "params/head/kernel", linear),
        Row(r"fc\.bias", "params/head/bias"),
    )
    own = model.ibn and any(model.ibn)
    is_plain = (
        len(model.stem_dims) == 1
        and model.channel_attention is None
        and not (model.selective_kernel or model.average_down)
    )
    layouts = {"authors": "first"} if own else {"timm": "first"}
    if is_plain and not own:
        layouts["torchvision"] = "first"
    return KeyTable(rows, head=r"params/head/.*", stem=r"params/stem0/conv/kernel", layouts=layouts)
