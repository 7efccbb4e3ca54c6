"""Dual Path Networks: the suite of every model, the published costs, the limits of a block."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scanmax.errors import UserError
from scanmax.models import create_model, list_models, model_info
from scanmax.models.analysis import default_multiply_adds
from scanmax.models.vision.dpn import DualPathBlock
from scanmax.testing import ModelCase, ModelSuite

TINY = {
    "dims": (4, 8),
    "depths": (1, 2),
    "growths": (2, 3),
    "hidden_dim": 4,
    "groups": 2,
    "stem_dim": 3,
    "num_classes": 5,
}


class DpnSuite(ModelSuite):
    family = "dpn"
    # The others are larger of the same kind; all are counted below.
    names = ("dpn48b",)
    small = (
        ModelCase("dpn48b", TINY, input_size=(16, 16, 3), other_inputs=((24, 16, 3), (17, 22, 3))),
    )


def test_every_published_size_has_its_exact_count():
    """By the paper's layers; the suite counts a whole model."""
    for name in list_models(family="dpn"):
        assert counted(create_model(name)) == model_info(name).params, name


def counted(model):
    """Weights of a DPN: each norm has two for a channel, convolutions have no bias."""
    channels = model.stem_dim
    total = (3 * model.stem_size**2 + 2) * channels
    for stage, (dim, depth, growth) in enumerate(zip(model.dims, model.depths, model.growths)):
        hidden = model.hidden_dim * 2**stage
        for index in range(depth):
            projected = 0 if index else dim + 2 * growth
            if projected:
                total += 2 * channels + channels * projected
            total += 2 * channels
            total += channels * hidden + 2 * hidden + 9 * hidden**2 // model.groups
            total += 2 * hidden + hidden * (dim + growth)
            channels = (projected or channels) + growth
    return total + 2 * channels + (channels + 1) * model.num_classes


def test_multiply_adds_are_the_papers():
    assert default_multiply_adds("dpn92") / 1e9 == pytest.approx(6.5, rel=0.01)


@pytest.mark.parametrize(("dim", "growth"), [(4, 3), (4, 0), (0, 3)])
def test_paths_of_a_block(dim, growth):
    """The first path is added to, the second is kept and grows; either may be missing."""
    block = DualPathBlock(dim, growth, hidden=4, norm={}, groups=2)
    x = jax.random.normal(jax.random.key(0), (1, 5, 5, dim + 6))
    variables = jax.jit(block.init)(jax.random.key(1), x)
    y = jax.jit(block.apply)(variables, x)
    assert y.shape == (1, 5, 5, dim + 6 + growth)
    np.testing.assert_array_equal(y[..., dim : dim + 6], x[..., dim:])
    if dim:
        assert jnp.any(y[..., :dim] != x[..., :dim])


def test_drop_path_leaves_out_the_branch():
    block = DualPathBlock(4, 2, hidden=4, norm={}, groups=2)
    x = jax.random.normal(jax.random.key(0), (64, 3, 3, 6))
    variables = nn.unbox(jax.jit(block.init)(jax.random.key(1), x))
    apply = jax.jit(
        lambda x: block.apply(
            variables,
            x,
            0.5,
            train=True,
            rngs={"dropout": jax.random.key(2)},
            mutable=["batch_stats"],
        )[0]
    )
    y = np.asarray(apply(x))
    dropped = np.all(y[..., 6:] == 0, axis=(1, 2, 3))
    assert 16 < dropped.sum() < 48
    np.testing.assert_array_equal(y[dropped][..., :6], x[dropped])
    assert np.all(np.any(y[~dropped][..., :4] != x[~dropped][..., :4], axis=(1, 2, 3)))


def test_stages_must_agree():
    model = create_model("dpn68", **{**TINY, "growths": (2,)})
    with pytest.raises(UserError, match="as many stages"):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
