"""RWKV-CLIP's image tower: the names of the authors' checkpoints, alone or of both towers."""

from scanmax.models.weights.table import KeyTable, Row, Shape, bias, conv, linear, of_shape

_OURS = "params/block_{0:02d}/"
_NAMES = {"w": "decay", "k": "key", "v": "value", "r": "receptance", "g": "gate", "x": "all"}


@of_shape(lambda ours: (ours[0], ours[1] * ours[2]))
def ranks(x, shape: Shape):
    """[D, n r] to [D, n, r]."""
    if x.shape != (shape[0], shape[1] * shape[2]):
        raise ValueError(f"has shape {tuple(x.shape)}, ours is {tuple(shape)}")
    return x.reshape(shape)


def block_rows(block: str, mixes: str) -> tuple[Row, ...]:
    """Rows of the blocks `block`, whose channel mix calls its shares `mixes` and a letter."""
    mixer, mlp = block + r"att\.", block + r"ffn\."
    rows = [
        Row(mixer + f"time_maa_{letter}", f"{_OURS}mixer/mix_{name}", lead=2)
        for letter, name in _NAMES.items()
    ]
    rows += [
        Row(mixer + "time_maa_w1", _OURS + "mixer/mix_down", ranks),
        Row(mixer + "time_maa_w2", _OURS + "mixer/mix_up"),
        Row(mixer + "time_decay", _OURS + "mixer/decay", lead=2),
        Row(mixer + "time_decay_w1", _OURS + "mixer/decay_down"),
        Row(mixer + "time_decay_w2", _OURS + "mixer/decay_up"),
        Row(mixer + "time_faaaa", _OURS + "mixer/bonus"),
        Row(mixer + r"ln_x\.weight", _OURS + "mixer/norm_scale", bias),
        Row(mixer + r"ln_x\.bias", _OURS + "mixer/norm_bias", bias),
        Row(mixer + r"output\.weight", _OURS + "mixer/out/kernel", linear),
        Row(mixer + r"(receptance|key|value|gate)\.weight", _OURS + "mixer/{1}/kernel", linear),
        Row(mlp + r"(receptance|key|value)\.weight", _OURS + "mlp/{1}/kernel", linear),
        Row(mlp + f"{mixes}_k", _OURS + "mlp/mix_key", lead=2),
        Row(mlp + f"{mixes}_r", _OURS + "mlp/mix_receptance", lead=2),
        Row(block + r"ln([12])\.weight", _OURS + "norm{1}/scale"),
        Row(block + r"ln([12])\.bias", _OURS + "norm{1}/bias"),
    ]
    return tuple(rows)


def norm_rows_of(pattern: str, path: str) -> tuple[Row, ...]:
    """A layer norm."""
    return (
        Row(pattern + r"\.weight", f"params/{path}/scale"),
        Row(pattern + r"\.bias", f"params/{path}/bias"),
    )


_TOWER = r"(?:image_model\.)?"

TABLE = KeyTable(
    rows=(
        Row(_TOWER + r"patch_embed\.projection\.weight", "params/patch_embed/kernel", conv),
        Row(_TOWER + r"patch_embed\.projection\.bias", "params/patch_embed/bias"),
        Row(_TOWER + "pos_embed", "params/pos_embed", lead=1),
        *norm_rows_of(_TOWER + r"layers\.0\.ln0", "embed_norm"),
        *block_rows(_TOWER + r"layers\.(\d+)\.", "spatial_mix"),
        *norm_rows_of(_TOWER + "ln1", "norm"),
        # The other tower, and what joins them; the release has no head.
        Row(r"text_model\..*|logit_scale", ()),
        Row(r"head\.weight", "params/head/kernel", linear),
        Row(r"head\.bias", "params/head/bias"),
    ),
    head=r"params/head/.*",
    positions=r"params/pos_embed",
    stem=r"params/patch_embed/kernel",
    layouts={"authors": "last"},
)
