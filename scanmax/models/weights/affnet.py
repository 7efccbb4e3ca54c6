"""AFFNet: the names of the authors' checkpoints."""

from collections.abc import Callable

from scanmax.models.weights.table import KeyTable, Row, conv, linear, norm_rows

_LAYERS = {"exp_1x1": "expand", "conv_3x3": "conv", "red_1x1": "project"}
# Layers count from 1; from the third on an inverted residual and the blocks behind it.
_CONV = r"layer_(\d)\.(\d+)\.block\."
_BLOCKS = r"layer_(\d)\.1\."
_BLOCK = _BLOCKS + r"global_rep\.(\d+)\."


def _conv(tail: str) -> Callable[..., str]:
    return lambda layer, index: f"stage{layer - 1}_conv{index}/{tail}"


def _block(tail: str) -> Callable[..., str]:
    return lambda layer, index, *rest: f"stage{layer - 1}_block_{index:02d}/{tail.format(*rest)}"


def _stage(tail: str) -> Callable[..., str]:
    return lambda layer: f"stage{layer - 1}_{tail}"


def _param(path: Callable[..., str]) -> Callable[..., str]:
    return lambda *groups: "params/" + path(*groups)


# What every block has.
_FIRST = _param(_block("norm1/scale"))


def _conv_norm(pattern: str, path: Callable[[str], Callable[..., str]]) -> tuple[Row, ...]:
    """A convolution and its norm; `path` of a tail says where they go."""
    return (
        Row(pattern + r"\.block\.conv\.weight", _param(path("/conv/kernel")), conv),
        *norm_rows(pattern + r"\.block\.norm", path("/norm")),
    )


TABLE = KeyTable(
    rows=(
        *_conv_norm(r"conv_1", lambda tail: lambda: "stem0" + tail),
        *_conv_norm(r"conv_1x1_exp", lambda tail: lambda: "last" + tail),
        *(
            row
            for name, ours in _LAYERS.items()
            for row in (
                *_conv_norm(_CONV + name, lambda tail, ours=ours: _conv(ours + tail)),
                *_conv_norm(
                    _BLOCK + r"mlp\.block\." + name,
                    lambda tail, ours=ours: _block("mlp/" + ours + tail),
                ),
            )
        ),
        Row(_BLOCK + r"norm([12])\.weight", _param(_block("norm{0}/scale"))),
        Row(_BLOCK + r"norm([12])\.bias", _param(_block("norm{0}/bias"))),
        Row(_BLOCK + r"filter\.w([12])", _param(_block("mixer/fc{0}_kernel"))),
        Row(_BLOCK + r"filter\.b([12])", _param(_block("mixer/fc{0}_bias"))),
        # Behind the last block, and counted like one.
        *(
            Row(
                _BLOCK + theirs,
                lambda layer, _, ours=ours: f"params/stage{layer - 1}_norm/{ours}",
                having=lambda layer, index: _FIRST(layer, index - 1),
                lacking=_FIRST,
            )
            for theirs, ours in (("weight", "scale"), ("bias", "bias"))
        ),
        *_conv_norm(_BLOCKS + "conv_proj", lambda tail: _stage("project" + tail)),
        *_conv_norm(_BLOCKS + "fusion", lambda tail: _stage("fuse" + tail)),
        Row(r"classifier\.fc\.weight", "params/head/kernel", linear),
        Row(r"classifier\.fc\.bias", "params/head/bias"),
    ),
    head=r"params/head/.*",
    stem=r"params/stem0/conv/kernel",
    layouts={"authors": "first"},
)
