"""MAXIM: the names of the authors' checkpoints, Flax's own behind "opt/target/"."""

import re

import numpy as np

from scanmax.models.weights.table import KeyTable, Row, Shape, of_shape, same

_STAGE = r"(?:opt/target/)?stage_(\d+)_"
_LEAF = r"/(kernel|bias|scale)"
# Where blocks stand, and where maps gate each other.
_UNITS = {
    r"encoder_block_(\d+)/": "down",
    r"decoder_block_(\d+)/UNetEncoderBlock_0/": "up",
    r"global_block_(\d+)/": "bottom",
}
_GATES = {
    r"input_fuse_sam_(\d+)/": "fuse",
    r"encoder_block_(\d+)/cross_gating_block/": "gate",
    r"cross_gating_block_(\d+)/": "cross",
}
# What a stage has that the next one listens to.
_SAYS = "params/stage{0}_attention{1}_gate/kernel"
# Of a block, of its channel attention, and of a gate: theirs to ours.
_MIXER = {
    r"LayerNorm_in": "norm1",
    r"(in|out)_project": "mixer/{3}_proj",
    **{
        f"{kind}GmlpLayer/{theirs}": f"mixer/{kind.lower()}_{ours}"
        for kind in ("Grid", "Block")
        for theirs, ours in (
            ("LayerNorm", "norm"),
            ("(in|out)_project", "{3}"),
            (f"{kind}GatingUnit/intermediate_layernorm", "gate_norm"),
            (f"{kind}GatingUnit/Dense_0", "mix"),
        )
    },
}
_CHANNELS = {
    r"LayerNorm": "norm2",
    r"conv([12])": "conv{3}",
    r"channel_mixing/Dense_0": "mlp/fc1",
    r"channel_mixing/Dense_1": "mlp/fc2",
}
_CROSS = {
    r"Conv_0": "x_proj",
    r"Conv_1": "y_proj",
    r"LayerNorm_([xy])": "{2}_norm",
    r"(in|out)_project_([xy])": "{3}_{2}",
    r"SplitHeadMultiAxisGating_([xy])/LayerNorm_in": "{2}_gate_norm",
    r"SplitHeadMultiAxisGating_([xy])/(in|out)_project": "{2}_gate_{3}",
    r"SplitHeadMultiAxisGating_([xy])/Dense_0": "{2}_grid",
    r"SplitHeadMultiAxisGating_([xy])/Dense_1": "{2}_block",
}


@of_shape(lambda ours: (1, 1, *ours) if len(ours) == 2 else ours)
def _conv(x: np.ndarray, shape: Shape) -> np.ndarray:
    """A convolution or its bias; one of 1x1 is a linear layer here."""
    return same(x, shape)


@of_shape(lambda ours: ours)
def turned(x: np.ndarray, shape: Shape) -> np.ndarray:
    """A transposed convolution of Flax, whose taps count from the far end."""
    return same(x, shape) if x.ndim != 4 else same(x[::-1, ::-1], shape)


def _rows(pattern: str, path: str, pairs: dict[str, str], **fields: str) -> tuple[Row, ...]:
    """A row for each pair; the leaf is the last group, the others fill ours in."""
    found = []
    for theirs, ours in pairs.items():
        whole = pattern + theirs + _LEAF
        place = f"{path}{ours}/{{{re.compile(whole).groups - 1}}}"
        is_conv = re.search(r"Conv_|conv_|input_proj", theirs)
        found.append(Row(whole, place, _conv if is_conv else same, **fields))
    return tuple(found)


def _unit(pattern: str, name: str) -> tuple[Row, ...]:
    block = f"params/stage{{0}}_{name}{{1}}_block_{{2:02d}}/"
    between = "_" if name == "bottom" else ""
    attention = _STAGE + pattern + rf"channel_attention_block_1{between}(\d+)/"
    return (
        *_rows(
            _STAGE + pattern,
            f"params/stage{{0}}_{name}{{1}}",
            {"input_proj" if name == "bottom" else "Conv_0": "_proj"},
        ),
        *_rows(_STAGE + pattern + r"SplitHeadMultiAxisGmlpLayer_(\d+)/", block, _MIXER),
        *_rows(attention, block, _CHANNELS),
        *(
            Row(
                f"{attention}channel_attention/Conv_{index}/{leaf}",
                f"{block}channel_attention/{to}",
                _conv,
            )
            for index, ours in enumerate(("squeeze", "excite"))
            for leaf, to in (("kernel", ours), ("bias", f"{ours}_bias"))
        ),
    )


def table(model) -> KeyTable:
    """The rows; what brings maps to one scale is numbered through, by stage, scale and map."""
    scales = len(model.dims)

    def brought(index: int, leaf: str) -> str:
        index, own = divmod(index, scales)
        index, coarser = divmod(index, scales)
        stage, part = divmod(index, 2)
        name = ("collect", "spread")[part]
        return f"params/stage{stage}_{name}{scales - 1 - coarser}_{own}/{leaf}"

    return KeyTable(
        rows=(
            *(row for pattern, name in _UNITS.items() for row in _unit(pattern, name)),
            *(
                row
                for pattern, name in _GATES.items()
                for row in _rows(_STAGE + pattern, f"params/stage{{0}}_{name}{{1}}/", _CROSS)
            ),
            *_rows(
                _STAGE,
                "params/stage{0}_",
                {
                    r"input_conv_(\d+)": "input{1}",
                    r"encoder_block_(\d+)/Conv_1": "shrink{1}",
                    r"supervised_attention_module_(\d+)/Conv_0": "attention{1}_value",
                    r"supervised_attention_module_(\d+)/Conv_2": "attention{1}_gate",
                },
            ),
            # Of a stage's image: with what it says to the next stage, or of the last one alone.
            *_rows(
                _STAGE,
                "params/stage{0}_",
                {r"supervised_attention_module_(\d+)/Conv_1": "image{1}"},
                having=_SAYS,
            ),
            *_rows(
                _STAGE,
                "params/stage{0}_",
                {r"output_conv_(\d+)": "image{1}"},
                lacking=_SAYS,
            ),
            *(
                Row(_STAGE + f"{pattern}ConvTranspose_0" + _LEAF, path, turned)
                for pattern, path in (
                    (r"decoder_block_(\d+)/", "params/stage{0}_up{1}_enlarge/{2}"),
                    (r"cross_gating_block_(\d+)/", "params/stage{0}_enlarge{1}/{2}"),
                )
            ),
            Row(r"(?:opt/target/)?UpSampleRatio_(\d+)/Conv_0" + _LEAF, brought, _conv),
            # The optimizer's, which the release's own reader leaves as well.
            Row(r"opt/(?!target/).*", ()),
        ),
        layouts={"authors": "last"},
    )
