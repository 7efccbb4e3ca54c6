"""CharCNN: the suite of every model, its frames, the tokens of a text, what is refused."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn import drawn_variables

from scanmax.errors import UserError
from scanmax.models import create_model, list_models, model_info
from scanmax.models.language import char_cnn
from scanmax.models.language.char_cnn import ALPHABET, character_tokens
from scanmax.models.weights import load_weights, save_weights
from scanmax.testing import ModelCase, ModelSuite

TINY = {"vocab_size": 6, "dim": 3, "hidden_dim": 4, "length": 12, "num_classes": 3}
TINY |= {"kernels": (3, 2), "pools": (2, 1), "init_scale": 0.5}


class CharCnnSuite(ModelSuite):
    family = "char_cnn"
    small = (ModelCase("char_cnn_small", TINY, input_size=(12,)),)

    def pooled_channels(self, info) -> int:
        return create_model(info.name).hidden_dim

    def test_every_variant_has_the_maps_it_announces(self):
        # Without padding they are shorter than the text over their stride; the last has 34 frames.
        for name in list_models(family="char_cnn"):
            info, model = model_info(name), create_model(name)
            maps = jax.eval_shape(
                lambda variables, tokens, model=model: model.apply(
                    variables, tokens, method="features"
                ),
                nn.unbox(self.shapes(name)[1]),
                info.example(),
            )
            widths = [feature.channels for feature in info.features]
            expected = [(1, frames, width) for frames, width in zip((336, 110, 34), widths)]
            self.assertEqual([entry.shape for entry in maps], expected)
            self.assertEqual(34, (1014 - 96) // 27)


def test_characters_come_last_first():
    assert len(ALPHABET) == 70
    tokens = character_tokens("Ab é!", 7)
    np.testing.assert_array_equal(tokens, [ALPHABET.index("!") + 1, 0, 0, 2, 1, 0, 0])
    np.testing.assert_array_equal(character_tokens("abc", 2), [3, 2])
    assert character_tokens("a").shape == model_info("char_cnn_large").input_size
    assert character_tokens("\n")[0] == 70 < create_model("char_cnn_large").vocab_size
    assert char_cnn.CharCnn().num_classes == 14


def test_what_is_no_character_is_nothing():
    """Nothing but biases answers a text of padding."""
    model = create_model("char_cnn_small", **TINY)
    tokens = jnp.array([[0] * 12, [0] * 5 + [1] + [0] * 6])
    variables = drawn_variables(model, tokens)
    empty, full = jax.jit(functools.partial(model.apply, method="features"))(variables, tokens)[-1]
    assert (empty == np.maximum(variables["params"]["conv0"]["conv"]["bias"], 0)).all()
    assert (full != empty).any()


def test_own_files_load_without_a_length(tmp_path):
    model = create_model("char_cnn_small", **TINY)
    variables = drawn_variables(model, jnp.zeros((1, 12), int))
    save_weights(variables, tmp_path / "model.safetensors")
    loaded = nn.unbox(load_weights(model, tmp_path / "model.safetensors"))
    jax.tree.map(np.testing.assert_array_equal, loaded, variables)


def test_what_cannot_be_is_refused():
    def shape(characters, **fields):
        model = create_model("char_cnn_small", **{**TINY, **fields})
        return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, characters), int))

    with pytest.raises(ValueError, match=r"shape \(1, 11\); expected \[B, T\] with T = length=12"):
        shape(11)
    with pytest.raises(UserError, match="length=3 is too short"):
        shape(3, length=3)
    with pytest.raises(UserError, match="as many layers each"):
        shape(12, pools=(2,))
