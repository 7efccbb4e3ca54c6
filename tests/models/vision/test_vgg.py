"""VGG: the suite of every model, what a stack of convolutions sees, and torchvision's names."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scanmax.errors import UserError
from scanmax.models import create_model
from scanmax.models.analysis import default_multiply_adds
from scanmax.models.weights import load_weights
from scanmax.testing import ModelCase, ModelSuite

TINY = {"dims": (3, 4), "depths": (1, 2), "hidden_dim": 6, "hidden_size": 3, "num_classes": 5}
RUN = {"input_size": (16, 16, 3), "other_inputs": ((24, 17, 3), (9, 8, 3))}


class VggSuite(ModelSuite):
    family = "vgg"
    small = (ModelCase("vgg16_bn", TINY, **RUN),)
    gradient_fields = {"frozen_statistics": True}


def test_multiply_adds_are_the_known_ones():
    assert default_multiply_adds("vgg16") / 1e9 == pytest.approx(15.5, abs=0.05)
    assert default_multiply_adds("vgg19") / 1e9 == pytest.approx(19.6, abs=0.05)


@pytest.mark.parametrize("depth", [1, 3])
def test_stacked_convolutions_see_two_pixels_more_each(depth):
    model = create_model("vgg11", dims=(2,), depths=(depth,), num_classes=0)
    images = jax.random.normal(jax.random.key(0), (1, 11, 11, 3))
    variables = jax.tree.map(jnp.abs, model.init(jax.random.key(1), images))

    def centre(images):
        return model.apply(variables, jnp.abs(images), method="features")[0][0, 5, 5].sum()

    rows, columns, _ = jnp.nonzero(jax.grad(centre)(images)[0])
    side = 2 * depth + 1
    assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == (side, side)


def test_names_of_torchvision():
    """The same stages; the wide layers are linear ones of the flattened map [C, Y, X]."""
    model = create_model("vgg11", **TINY)
    variables = nn.unbox(model.init(jax.random.key(0), jnp.zeros((1, 12, 12, 3))))
    params = variables["params"]
    kernel = np.asarray(params["hidden1"]["kernel"])
    source = {
        f"features.{place}.{kind}": (np.asarray(x).transpose(3, 2, 0, 1) if x.ndim == 4 else x)
        for place, name in ((0, "stage0_conv0"), (3, "stage1_conv0"), (5, "stage1_conv1"))
        for kind, x in zip(("bias", "weight"), jax.tree.leaves(params[name]))
    }
    source |= {
        "classifier.0.weight": kernel.transpose(3, 2, 0, 1).reshape(6, -1),
        "classifier.0.bias": params["hidden1"]["bias"],
        "classifier.3.weight": params["hidden2"]["kernel"].T,
        "classifier.3.bias": params["hidden2"]["bias"],
        "classifier.6.weight": params["head"]["kernel"].T,
        "classifier.6.bias": params["head"]["bias"],
    }
    source = {name: np.asarray(x) for name, x in source.items()}
    chex.assert_trees_all_equal(nn.unbox(load_weights(model, source)), variables)
    for classes in (0, 7):
        other = create_model("vgg11", **{**TINY, "num_classes": classes})
        loaded = nn.unbox(load_weights(other, source, adapt=["head"]))["params"]
        chex.assert_trees_all_equal(loaded["stage1_conv1"], params["stage1_conv1"])
        # A head of other classes stands on the same wide layers.
        assert ("hidden1" in loaded) == bool(classes)
        if classes:
            chex.assert_trees_all_equal(loaded["hidden1"], params["hidden1"])
    with pytest.raises(UserError, match=r"classifier.0.weight: has shape \(6, 9\), ours is"):
        load_weights(model, {**source, "classifier.0.weight": np.zeros((6, 9))})


def test_images_must_leave_a_pixel():
    model = create_model("vgg11", num_classes=2)
    with pytest.raises(ValueError, match="at least 32 pixels"):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 31, 3)))
    with pytest.raises(UserError, match="no field 'drop_path_rate'"):
        create_model("vgg11", drop_path_rate=0.1)
