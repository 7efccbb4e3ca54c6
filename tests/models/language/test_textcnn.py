"""TextCNN: the suite of every model, what filters see, what padding and a kept table are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn import drawn_variables

from scanmax.errors import UserError
from scanmax.models import create_model, model_info
from scanmax.testing import ModelCase, ModelSuite

TINY = {"vocab_size": 11, "dim": 4, "filters": 3, "widths": (2, 3), "num_classes": 3}


class TextCnnSuite(ModelSuite):
    family = "textcnn"
    small = (ModelCase("textcnn_multichannel", TINY, input_size=(6,), other_inputs=((1,), (9,))),)
    vanishing = r"frozen/embedding"

    def pooled_channels(self, info) -> int:
        return 300


def test_parameters_follow_from_the_layer_list():
    table, filters, head = 18_766 * 300, (3 + 4 + 5) * 300 * 100 + 300, 300 * 2 + 2
    assert model_info("textcnn_static").params == table + filters + head
    assert model_info("textcnn_multichannel").params == 2 * table + filters + head


def test_logits_are_those_of_the_equations():
    """As the paper writes them: max over t of relu(w . (x_t, ..., x_{t + h - 1}) + b)."""
    model = create_model("textcnn_multichannel", **TINY)
    tokens = jnp.array([[3, 7, 0, 0]])
    variables = drawn_variables(model, tokens)
    params = variables["params"]
    vectors = np.zeros((4 + 2 * 2, 4))
    for name in ("frozen", "embed"):
        # Padding is nothing, whatever its row of the table holds.
        vectors[2:4] += params[name]["embedding"][[3, 7]]
    pooled = []
    for width in (2, 3):
        kernel, bias = params[f"conv{width}"]["conv"].values()
        kernel, bias = (kernel, bias) if kernel.ndim == 4 else (bias, kernel)
        answers = [
            np.einsum("hd,hdf->f", vectors[t : t + width], kernel[:, 0]) + bias
            for t in range(len(vectors) - width + 1)
        ]
        pooled.append(np.maximum(answers, 0).max(0))
    expected = np.concatenate(pooled) @ params["head"]["kernel"] + params["head"]["bias"]
    np.testing.assert_allclose(jax.jit(model.apply)(variables, tokens)[0], expected, rtol=1e-4)


def test_order_beyond_the_widest_filter_is_not_seen():
    model = create_model("textcnn_rand", **TINY)
    near = [[3, 3, 3, 1, 2, 3, 3, 3, 3], [3, 3, 3, 2, 1, 3, 3, 3, 3]]
    far = [[3, 3, 1, 3, 3, 3, 2, 3, 3], [3, 3, 2, 3, 3, 3, 1, 3, 3]]
    tokens = jnp.array(near + far)
    logits = jax.jit(model.apply)(drawn_variables(model, tokens), tokens)
    assert np.abs(logits[0] - logits[1]).max() > 1e-2
    np.testing.assert_allclose(logits[2], logits[3], rtol=1e-5)


def test_tables_that_are_not_there_are_refused():
    model = create_model("textcnn_rand", tables=("embed", "frozen"))
    with pytest.raises(UserError, match=r"tables=\('embed', 'frozen'\) is not one of"):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 5), int))
