"""Swin: the suite of every model, the published cost, windows of other sizes."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scanmax import ops
from scanmax.errors import UserError
from scanmax.models import create_model, list_models, model_info
from scanmax.models.analysis import default_multiply_adds
from scanmax.models.weights import load_weights, save_weights
from scanmax.testing import ModelCase, ModelSuite

NAME = "swin_tiny_patch4_window7_224"
TINY = {"dims": (4, 8), "depths": (2, 4), "heads": (1, 2), "window_size": 2, "num_classes": 5}


class SwinSuite(ModelSuite):
    family = "swin"
    # The others differ in how often a stage repeats its pair; all are counted below.
    names = ("swin_s3_tiny_224",)
    small = (
        ModelCase(NAME, TINY, input_size=(16, 16, 3), other_inputs=((24, 16, 3), (19, 26, 3))),
    )


def test_every_published_size_has_its_exact_count():
    kinds = {}
    for name in list_models(family="swin"):
        info, model = model_info(name), create_model(name)
        # Sizes of one kind differ in how often a stage repeats its pair.
        kind = model.clone(depths=(2,) * 4), info.input_size
        if kind not in kinds:
            variables = jax.eval_shape(kind[0].init, jax.random.key(0), info.example())
            params = variables["params"]
            repeated = [count(params[f"stage{stage}_block_00"]) for stage in range(4)]
            kinds[kind] = count(params), np.array(repeated)
        whole, repeated = kinds[kind]
        assert whole + (np.array(model.depths) - 2) // 2 @ repeated == info.params, name


def count(params):
    return sum(leaf.size for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize(
    ("name", "published"),
    [("swin_tiny_patch4_window7_224", 4.5), ("swin_base_patch4_window12_384", 47.0)],
)
def test_multiply_adds_are_the_papers(name, published):
    assert default_multiply_adds(name) / 1e9 == pytest.approx(published, rel=0.01)


def test_every_second_layer_shifts_its_windows():
    """A place of the first window is seen across its edge behind the second layer alone."""
    model = create_model(NAME, **{**TINY, "dims": (4,), "depths": (2,), "heads": (1,)})
    images = jax.random.normal(jax.random.key(0), (1, 32, 32, 3))
    variables = jax.jit(model.init)(jax.random.key(1), images)
    # Large enough for what a place gives to another to show in its last digits.
    variables = jax.tree.map(lambda leaf: 4 * leaf, variables)

    def changed(layer):
        @jax.jit
        def output(images):
            _, state = model.apply(variables, images, mutable=["intermediates"])
            return state["intermediates"]["stage0_block_00"][layer]["output"][0].reshape(8, 8, 4)

        difference = jnp.abs(output(images) - output(images.at[0, 4, 4].add(1.0)))
        return {(int(y), int(x)) for y, x, _ in jnp.argwhere(difference > 0)}

    assert changed("first") == {(y, x) for y in (0, 1) for x in (0, 1)}
    # Windows start at one: those that the four places are in now.
    assert changed("second") == {(y, x) for y in range(3) for x in range(3)}


def test_another_mixer_is_in_both_layers_of_a_pair():
    model = create_model(NAME, **{**TINY, "mixer": ("window", "attention")})
    kinds = [[pair["mixer"] for pair in model.block_fields(stage)[0].values()] for stage in (0, 1)]
    assert kinds == [["window", "shifted_window"], ["attention", "attention"]]


def test_position_tables_of_another_window(tmp_path):
    """Weights of one window go into a model of another: tables are resampled, all else is kept."""
    fields = {**TINY, "dims": (8,), "heads": (2,), "depths": (2,)}
    model, other = (create_model(NAME, **{**fields, "window_size": size}) for size in (2, 4))
    image = jnp.zeros((1, 32, 32, 3))
    variables = nn.unbox(jax.jit(model.init)(jax.random.key(0), image))
    save_weights(variables, tmp_path / "weights.safetensors")
    with pytest.raises(UserError, match=r"relative_bias: has shape .*adapt=\['positions'\] takes"):
        load_weights(other, tmp_path / "weights.safetensors")
    loaded = load_weights(other, tmp_path / "weights.safetensors", adapt=["positions"])
    loaded = nn.unbox(loaded)["params"]
    block = variables["params"]["stage0_block_00"]["second"]["mixer"]
    table = block["relative_bias"].reshape(2, 9, 1)
    expected = ops.resample_positions(table, (3, 3), (7, 7)).reshape(2, 7, 7)
    taken = loaded["stage0_block_00"]["second"]["mixer"]
    chex.assert_trees_all_close(taken["relative_bias"], expected)
    chex.assert_trees_all_equal(taken["qkv"], block["qkv"])


def test_a_drop_path_rate_of_each_layer():
    model = create_model(NAME, **TINY, drop_path_rate=0.5)
    keys = {name: jax.random.key(0) for name in ("params", "dropout")}
    rates = []

    def note(next_fun, args, kwargs, context):
        if type(context.module).__name__ == "DropPath":
            rates.append(float(args[1] or 0.0))
        return next_fun(*args, **kwargs)

    with nn.intercept_methods(note):
        jax.eval_shape(lambda images: model.init(keys, images, True), jnp.zeros((1, 16, 16, 3)))
    # Two branches of each of six layers.
    np.testing.assert_allclose(rates[::2], np.linspace(0, 0.5, 6), rtol=1e-6)


def test_mistakes():
    image = jnp.zeros((1, 16, 16, 3))
    for fields, message in (
        ({"depths": (2, 3)}, "come in pairs"),
        ({"window_size": (2, 2, 2)}, "has 3 sizes; expected one or 2"),
    ):
        model = create_model(NAME, **{**TINY, **fields})
        with pytest.raises(UserError, match=message):
            jax.eval_shape(model.init, jax.random.key(0), image)
