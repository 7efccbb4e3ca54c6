"""DCNN: the suite of every model, its equations sentence by sentence, padding, order."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn import drawn_variables

from scanmax.errors import UserError
from scanmax.models import create_model
from scanmax.testing import ModelCase, ModelSuite

TINY = {"vocab_size": 11, "dim": 4, "widths": (3, 2), "maps": (2, 3), "k_top": 2}
TINY["num_classes"] = 3


class DcnnSuite(ModelSuite):
    family = "dcnn"
    small = (ModelCase("dcnn_sst_binary", TINY, input_size=(7,), other_inputs=((1,), (12,))),)

    def pooled_channels(self, info) -> int:
        model = create_model(info.name)
        return model.k_top * model.dim // 2 * model.maps[-1]


@pytest.fixture(scope="module")
def drawn():
    """A small model's variables, and its jitted logits."""
    model = create_model("dcnn_sst_binary", **TINY)
    return drawn_variables(model, jnp.zeros((1, 9), int), scale=0.7), jax.jit(model.apply)


def logits_of(params, words):
    """One sentence without padding, loops over rows, maps and columns."""
    maps = params["embed"]["embedding"][words].T[:, None]  # [rows, maps, columns]
    for index, (width, k) in enumerate(((3, max(2, math.ceil(len(words) / 2))), (2, 2))):
        kernel, bias = params[f"layer{index}"]["conv"]["kernel"], params[f"layer{index}"]["bias"]
        rows, _, columns = maps.shape
        made = kernel.shape[-1] // rows
        padded = np.pad(maps, ((0, 0), (0, 0), (width - 1, width - 1)))
        out = np.zeros((rows, made, columns + width - 1))
        for row in range(rows):
            for new in range(made):
                for t in range(out.shape[-1]):
                    # [width, maps]
                    weights = kernel[:, 0, :, row * made + new]
                    out[row, new, t] = np.sum(weights.T * padded[row, :, t : t + width])
        if index == 1:
            out = out[0::2] + out[1::2]
        chosen = np.sort(np.argsort(-out, -1, kind="stable")[..., :k], -1)
        kept = np.take_along_axis(out, chosen, -1)
        maps = np.tanh(kept + bias.reshape(*kept.shape[:2], 1))
    flat = maps.transpose(2, 0, 1).reshape(-1)
    return flat @ params["head"]["kernel"] + params["head"]["bias"]


def test_ragged_sentences_are_those_of_the_equations(drawn):
    """Five lengths in one batch under jit, each as if it were alone."""
    variables, logits = drawn
    rng = np.random.default_rng(1)
    sentences = [rng.integers(1, 11, length) for length in (1, 2, 5, 8, 9)]
    tokens = np.zeros((5, 9), np.int32)
    for row, words in zip(tokens, sentences):
        row[: len(words)] = words
    expected = [logits_of(variables["params"], words) for words in sentences]
    np.testing.assert_allclose(logits(variables, tokens), expected, rtol=1e-4, atol=1e-5)


def test_order_is_seen_at_any_distance(drawn):
    variables, logits = drawn
    tokens = np.full((5, 9), 5, np.int32)
    tokens[0, [0, 8]], tokens[1, [0, 8]] = (1, 2), (2, 1)
    first, second = logits(variables, tokens)[:2]
    assert np.abs(first - second).max() > 1e-2


def test_what_cannot_be_is_refused():
    for fields, message in (({"dim": 3}, "folding takes pairs"), ({"maps": (2,)}, "as many")):
        model = create_model("dcnn_sst_binary", **{**TINY, **fields})
        with pytest.raises(UserError, match=message):
            jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 5), int))
