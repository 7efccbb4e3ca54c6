"""AFFNet: the suite of every model, published counts and costs, the sums of a block."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models.vision.exact_counts import assert_every_size_has_its_exact_count

from scanmax.errors import UserError
from scanmax.models import create_model
from scanmax.models.analysis import default_multiply_adds
from scanmax.models.vision.affnet import FilterBlock
from scanmax.testing import ModelCase, ModelSuite

TINY = {
    "dims": (4, 4, 4, 8),
    "depths": (1, 1, 2, 1),
    "stem_dim": 4,
    "expansion": 2.0,
    "heads": (1, 1, 1, 1),
    "fuse": (True, False),
    "mixer_options": {"adaptive_filter": {"groups": 2}},
    "num_classes": 5,
}


class AffNetSuite(ModelSuite):
    family = "affnet"
    # The others differ in widths and depths; all are counted below.
    names = ("affnet_et", "affnet_base")
    small = (
        ModelCase(
            "affnet_et",
            TINY,
            input_size=(32, 32, 3),
            other_inputs=((48, 32, 3), (33, 46, 3)),
        ),
    )

    def pooled_channels(self, info):
        model = create_model(info.name)
        return min(round(model.head_ratio * model.dims[-1]), model.head_limit)


def test_every_published_size_has_its_exact_count():
    assert_every_size_has_its_exact_count("affnet", AffNetSuite.names)


@pytest.mark.parametrize(
    ("name", "published"), [("affnet_et", 0.4), ("affnet_t", 0.8), ("affnet", 1.5)]
)
def test_multiply_adds_are_the_papers(name, published):
    assert default_multiply_adds(name) / 1e9 == pytest.approx(published, rel=0.01, abs=0.05)


def test_a_block_adds_its_input_once_as_released_or_twice_as_drawn():
    x = np.random.default_rng(0).normal(size=(2, 6, 4)).astype(np.float32)
    once = FilterBlock(
        "adaptive_filter",
        heads=1,
        mlp_hidden=0,
        mixer_options={"adaptive_filter": {"groups": 2, "residual": False}},
    )
    # Without scales the branches are nothing; the first norm gives its bias alone.
    shapes = jax.eval_shape(lambda: once.init(jax.random.key(0), x, grid=(2, 3)))
    variables = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), nn.unbox(shapes))
    bias = np.float32([1, 2, 3, 4])
    variables["params"]["norm1"]["bias"] = jnp.asarray(bias)
    np.testing.assert_allclose(once.apply(variables, x, grid=(2, 3)), x, rtol=1e-6)
    twice = once.clone(two_sums=True).apply(variables, x, grid=(2, 3))
    np.testing.assert_allclose(twice, x + bias, rtol=1e-6)


@pytest.mark.parametrize(
    "fields", [{"heads": (1,)}, {"fuse": (True,)}, {"depths": (1, 1, 2)}, {"dims": (4, 4, 4)}]
)
def test_mistakes(fields):
    model = create_model("affnet_et", **{**TINY, **fields})
    with pytest.raises(UserError, match="name two stages of convolutions"):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
