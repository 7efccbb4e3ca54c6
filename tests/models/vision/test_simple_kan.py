"""SimpleKAN: the suite of every model, and the counts of the authors' report."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from scanmax.errors import UserError
from scanmax.models import create_model, list_models, model_info
from scanmax.testing import ModelCase, ModelSuite

TINY = {"dims": (3, 4), "strides": (1, 2), "num_classes": 5, "options": {"grid_size": 3}}


class SimpleKanSuite(ModelSuite):
    family = "simple_kan"
    # The others differ in what is counted below.
    names = ("simple_kan_4", "simple_fastkan_4", "simple_wavkan_4")
    small = (ModelCase("simple_kan_4", TINY, input_size=(8, 8, 3), other_inputs=((7, 10, 3),)),)


def count(model, size):
    variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *size)))
    return sum(leaf.size for leaf in jax.tree.leaves(nn.unbox(variables["params"])))


def test_counts_are_those_of_the_report():
    for name in sorted(set(list_models(family="simple_kan")) - set(SimpleKanSuite.names)):
        info = model_info(name)
        assert count(create_model(name), info.input_size) == info.params, name
    # On MNIST: without scale and offset, and without groups.
    digits = (28, 28, 1)
    plain = {"norm_layer": "instance", "affine": False}
    assert count(create_model("simple_kagn_8", **plain), digits) == 22_608_122
    assert count(create_model("simple_kan_4", **plain), digits) == 3_488_814
    assert count(create_model("simple_fastkan_4", **plain), digits) == 3_488_810
    assert count(create_model("simple_kagn_4", groups=1), digits) == 1_940_346
    degree = {"groups": 1, "options": {"degree": 5}}
    assert count(create_model("simple_kacn_4", **degree), digits) == 2_327_690


def test_layers_must_be_told_their_strides():
    with pytest.raises(UserError, match="as many layers each"):
        count(create_model("simple_kagn_4", dims=(2, 3)), (8, 8, 3))
