"""Diffusion-RWKV: the names of the authors' checkpoints."""

import numpy as np

from scanmax.models.weights.table import KeyTable, Row, Shape, conv, linear, of_shape

_VECTORS = {"decay": "decay", "first": "bonus"}
_MIXED = {"k": "key", "v": "value", "r": "receptance"}


@of_shape(lambda ours: (ours[1] * ours[2] * ours[3], ours[0]))
def _patches(x: np.ndarray, shape: Shape) -> np.ndarray:
    """[p p O, D] to [D, p, p, O]."""
    return linear(x, shape)


@of_shape(lambda ours: (ours[0] * ours[1] * ours[2],))
def _patch_bias(x: np.ndarray, shape: Shape) -> np.ndarray:
    return x.reshape(shape)


def table(model) -> KeyTable:
    """The rows; blocks of the second half count from 0 again."""
    half = model.depth // 2

    def block(index: int) -> str:
        return f"params/block_{index:02d}/"

    rows = []
    for pattern, first, count in (
        (r"in_blocks\.(\d+)\.", 0, half),
        (r"(mid_block)\.", half, 1),
        (r"out_blocks\.(\d+)\.", half + 1, half),
    ):

        def place(tail: str, first: int = first, count: int = count):
            def path(index, *rest) -> str:
                number = 0 if index == "mid_block" else index
                return block(range(first, first + count)[number]) + tail.format(*rest)

            return path

        rows += [
            Row(pattern + r"ln([012])\.weight", place("norm{0}/scale")),
            Row(pattern + r"ln([012])\.bias", place("norm{0}/bias")),
            Row(pattern + r"adaLN_modulation\.1\.weight", place("modulation/kernel"), linear),
            Row(pattern + r"adaLN_modulation\.1\.bias", place("modulation/bias")),
            Row(pattern + r"skip_linear\.weight", place("join/kernel"), linear),
            Row(pattern + r"skip_linear\.bias", place("join/bias")),
            Row(pattern + r"att\.output\.weight", place("mixer/out/kernel"), linear),
        ]
        for theirs, ours in _VECTORS.items():
            rows.append(Row(pattern + rf"att\.spatial_{theirs}", place(f"mixer/{ours}")))
        for theirs, ours in _MIXED.items():
            for module, own in (("att", "mixer"), ("ffn", "channel_mix")):
                name = pattern + rf"{module}\.spatial_mix_{theirs}"
                rows.append(Row(name, place(f"{own}/mix_{ours}"), lead=2))
                name = pattern + rf"{module}\.{ours}\.weight"
                rows.append(Row(name, place(f"{own}/{ours}/kernel"), linear))
    return KeyTable(
        rows=(
            Row("pos_embed", "params/pos_embed", lead=1),
            Row(r"patch_embed\.proj\.weight", "params/patch_embed/kernel", conv),
            Row(r"patch_embed\.proj\.bias", "params/patch_embed/bias"),
            Row(r"time_embed\.mlp\.0\.weight", "params/time_embed/fc1/kernel", linear),
            Row(r"time_embed\.mlp\.0\.bias", "params/time_embed/fc1/bias"),
            Row(r"time_embed\.mlp\.2\.weight", "params/time_embed/fc2/kernel", linear),
            Row(r"time_embed\.mlp\.2\.bias", "params/time_embed/fc2/bias"),
            Row(r"label_emb\.embedding_table\.weight", "params/label_embed/embedding"),
            *rows,
            Row(r"norm_f\.weight", "params/norm/scale"),
            Row(r"norm_f\.bias", "params/norm/bias"),
            Row(r"final_layer\.adaLN_modulation\.1\.weight", "params/modulation/kernel", linear),
            Row(r"final_layer\.adaLN_modulation\.1\.bias", "params/modulation/bias"),
            Row(r"final_layer\.linear\.weight", "params/head/kernel", _patches),
            Row(r"final_layer\.linear\.bias", "params/head/bias", _patch_bias),
        ),
        positions=r"params/pos_embed",
        stem=r"params/patch_embed/kernel",
        layouts={"authors": "first"},
    )
