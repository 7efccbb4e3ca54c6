"""T5: the names of transformers; Mu: those of its authors, whose heads share keys in turn."""

import flax.linen as nn
import numpy as np

from scanmax.models.weights.table import (
    KeyTable,
    Row,
    Shape,
    Transform,
    bias,
    linear,
    linear_of_heads,
    of_shape,
)

_LAYER = r"(encoder|decoder)\.block\.(\d+)\.layer\."
_OURS = "params/{0}_block_{1:02d}/"
_KEY, _VALUE = 0, 1


def _norm(half: str, index: int, number: int) -> str:
    return f"params/{half}_block_{index:02d}/norm{number + 1}/scale"


def _t5_attention(pattern: str, ours: str) -> tuple[Row, ...]:
    return (
        Row(pattern + r"q\.weight", f"{ours}/query/kernel", linear),
        Row(pattern + r"k\.weight", f"{ours}/key_value/kernel", linear, part=(_KEY, 1)),
        Row(pattern + r"v\.weight", f"{ours}/key_value/kernel", linear, part=(_VALUE, 1)),
        Row(pattern + r"o\.weight", f"{ours}/out/kernel", linear_of_heads),
    )


def _t5_mlp(half: str, index: int) -> tuple[Row, ...]:
    pattern = _LAYER.replace("encoder|decoder", half) + rf"{index}\.DenseReluDense\."
    ours = _OURS + "mlp/"
    gate = ours + "gate/kernel"
    return (
        Row(pattern + r"wi\.weight", ours + "fc1/kernel", linear, lacking=gate),
        Row(pattern + r"wi_0\.weight", gate, linear),
        Row(pattern + r"wi_1\.weight", ours + "fc1/kernel", linear, having=gate),
        Row(pattern + r"wo\.weight", ours + "fc2/kernel", linear),
    )


TABLE = KeyTable(
    rows=(
        Row(r"shared\.weight", "params/embed/embedding"),
        # Either half repeats the table, and a head that is tied.
        Row(r"encoder\.embed_tokens\.weight", "params/embed/embedding", tied=True),
        Row(r"decoder\.embed_tokens\.weight", "params/embed/embedding", tied=True),
        Row(r"lm_head\.weight", "params/head/kernel", linear),
        Row(r"lm_head\.weight", "params/embed/embedding", tied=True),
        *(
            Row(
                rf"({half})\.block\.0\.layer\.0\.SelfAttention\.relative_attention_bias\.weight",
                "params/{0}_bias/table",
            )
            for half in ("encoder", "decoder")
        ),
        *_t5_attention(_LAYER + r"0\.SelfAttention\.", _OURS + "mixer"),
        *_t5_attention(_LAYER + r"1\.EncDecAttention\.", _OURS + "cross"),
        Row(_LAYER + r"([012])\.layer_norm\.weight", _norm),
        # The second of an encoder's layer, the third of a decoder's.
        *_t5_mlp("encoder", 1),
        *_t5_mlp("decoder", 2),
        Row(r"encoder\.final_layer_norm\.weight", "params/encoder_norm/scale"),
        Row(r"decoder\.final_layer_norm\.weight", "params/norm/scale"),
    ),
    layouts={"transformers": "first"},
)


def in_turn(transform: Transform, heads: int, groups: int, axis: int) -> Transform:
    """Heads of which each next one reads the next keys, to ours, that stand by their keys."""
    order = np.arange(heads).reshape(-1, groups).T.ravel()

    @of_shape(transform.theirs)
    def by_keys(x: np.ndarray, shape: Shape) -> np.ndarray:
        return np.take(transform(x, shape), order, axis=axis)

    return by_keys


def _mu(heads: int, groups: int) -> KeyTable:
    """The rows of Mu with so many heads, of keys and values too."""
    rows = [
        Row(r"transformer\.wte\.weight", "params/embed/embedding"),
        Row(r"lm_head\.weight", "params/embed/embedding", tied=True),
        Row(r"transformer\.ln_e\.weight", "params/encoder_norm/scale"),
        Row(r"transformer\.ln_f\.weight", "params/norm/scale"),
    ]
    # Axes of the heads in a kernel and in a bias.
    queries = in_turn(linear, heads, groups, 1), in_turn(bias, heads, groups, 0)
    outputs = in_turn(linear_of_heads, heads, groups, 0)
    for half, letter, parts in (
        ("encoder", "e", {"attn": "mixer"}),
        ("decoder", "h", {"causal_attn": "mixer", "cross_attn": "cross"}),
    ):
        layer, ours = rf"transformer\.{letter}\.(\d+)\.", f"params/{half}_block_{{0:02d}}/"
        rows += [
            Row(layer + r"ln([123])\.weight", ours + "norm{1}/scale"),
            Row(layer + r"mlp\.(fc[12])\.weight", ours + "mlp/{1}/kernel", linear),
            Row(layer + r"mlp\.(fc[12])\.bias", ours + "mlp/{1}/bias"),
        ]
        for theirs, name in parts.items():
            head, to = layer + theirs + r"\.", ours + name
            rows += [
                Row(head + r"q_linear\.weight", f"{to}/query/kernel", queries[0]),
                Row(head + r"q_linear\.bias", f"{to}/query/bias", queries[1]),
                Row(head + r"out_linear\.weight", f"{to}/out/kernel", outputs),
                Row(head + r"out_linear\.bias", f"{to}/out/bias"),
            ]
            for letter_of, index in (("k", _KEY), ("v", _VALUE)):
                pattern = head + rf"{letter_of}_linear\."
                kernel, own = f"{to}/key_value/kernel", f"{to}/key_value/bias"
                rows += [
                    Row(pattern + "weight", kernel, linear, part=(index, 1)),
                    Row(pattern + "bias", own, bias, part=(index, 0)),
                ]
    return KeyTable(rows=tuple(rows), layouts={"authors": "first"})


def table(model: nn.Module) -> KeyTable:
    """The rows of the model's kind."""
    if model.positions == "rotary":
        return _mu(model.heads, model.kv_heads or model.heads)
    return TABLE
