"""EfficientNet: the suite of every model, published counts and costs, mixed kernels, paddings."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scanmax import ops
from scanmax.errors import UserError
from scanmax.models import create_model, list_models, model_info
from scanmax.models.analysis import default_multiply_adds
from scanmax.models.parts.inverted_residual import InvertedResidual
from scanmax.testing import ModelCase, ModelSuite, compare

NAME = "tf_efficientnet_cc_b0_4e"
TINY = {
    "dims": (4, 8),
    "depths": (1, 3),
    "strides": (1, 2),
    "kernel_sizes": (3, 5),
    "expansions": (1, 2),
    "experts": (0, 2),
    "stem_dim": 4,
    "head_dim": 12,
    "num_classes": 5,
}


class EfficientNetSuite(ModelSuite):
    family = "efficientnet"
    # The others differ in widths, depths and paddings; all are counted below.
    names = (NAME,)
    small = (ModelCase(NAME, TINY, input_size=(16, 16, 3), other_inputs=((24, 17, 3),)),)

    def pooled_channels(self, info):
        return create_model(info.name).head_dim


def test_every_published_size_has_its_exact_count():
    """By the papers' layers; the suite counts whole models."""
    for name in list_models(family="efficientnet"):
        assert counted(create_model(name)) == model_info(name).params, name


def counted(model):
    """Weights: each norm has two for a channel, convolutions have no bias, gates have."""
    channels = model.stem_dim
    total = (27 + 2) * channels
    for stage, (dim, depth) in enumerate(zip(model.dims, model.depths)):
        side, kernels = model.kernel_sizes[stage], max(model.experts[stage], 1)
        for _ in range(depth):
            wide, hidden = channels * model.expansions[stage], channels // 4
            total += (kernels * (channels + dim + side**2) + 4) * wide + 2 * dim
            if model.expansions[stage] == 1:
                total -= (channels + 2) * wide
            total += 2 * wide * hidden + wide + hidden
            total += (channels + 1) * model.experts[stage]
            channels = dim
    return total + (channels + 2) * model.head_dim + (model.head_dim + 1) * model.num_classes


@pytest.mark.parametrize(
    ("name", "published"),
    [
        # The first paper's and CondConv's, in millions.
        ("efficientnet_b0", 390),
        ("tf_efficientnet_b3", 1800),
        ("tf_efficientnet_cc_b0_8e", 413),
    ],
)
def test_multiply_adds_are_the_papers(name, published):
    assert default_multiply_adds(name) / 1e6 == pytest.approx(published, rel=0.03)


def test_one_routing_mixes_all_three_kernels_of_a_block():
    """With the mixtures written out, the block is one without experts."""
    block = InvertedResidual(6, 2, 2.0, "silu", squeeze=1, experts=3)
    x = np.asarray(jax.random.normal(jax.random.key(0), (1, 6, 5, 4)))
    variables = nn.unbox(jax.jit(block.init)(jax.random.key(1), x))
    params = variables["params"]
    logits = x.mean((1, 2)) @ params["routing"]["kernel"] + params["routing"]["bias"]
    shares = 1 / (1 + np.exp(-np.asarray(logits[0])))
    assert shares.min() > 0.2
    mixed = {name: tree for name, tree in params.items() if name != "routing"}
    for name in ("expand", "conv", "project"):
        kernel = np.tensordot(shares, params[name]["conv"]["kernel"], 1)
        mixed[name] = {**params[name], "conv": {"kernel": kernel}}
    plain = block.clone(experts=0)
    expected = plain.apply({**variables, "params": mixed}, x)
    compare.assert_relative(block.apply(variables, x), expected, 1e-5)


@pytest.mark.parametrize("same", [False, True])
def test_strided_convolutions_pad_as_torch_or_tensorflow(same):
    """Of an even map, TensorFlow's zeros are behind it, torch's before it too."""
    names = ("dims", "depths", "strides", "kernel_sizes", "expansions", "experts")
    fields = {name: TINY[name][:1] for name in names}
    model = create_model(NAME, **{**TINY, **fields, "same_padding": same})
    images = jax.random.normal(jax.random.key(0), (1, 8, 8, 3))
    variables = nn.unbox(jax.jit(model.init)(jax.random.key(1), images))
    _, state = jax.jit(lambda v, x: model.apply(v, x, mutable=["intermediates"]))(variables, images)
    sides = ((0, 1), (0, 1)) if same else ((1, 1), (1, 1))
    kernel = variables["params"]["stem0"]["conv"]["kernel"]
    y = ops.conv2d(images, kernel, stride=2, padding=sides) / np.sqrt(1 + 1e-3)
    compare.assert_relative(state["intermediates"]["stem"][0], jax.nn.silu(y), 1e-5)


@pytest.mark.parametrize("name", ["depths", "experts"])
def test_mistakes(name):
    model = create_model(NAME, **{**TINY, name: (1,)})
    with pytest.raises(UserError, match=f"{name}=.*expected 2 entries"):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
