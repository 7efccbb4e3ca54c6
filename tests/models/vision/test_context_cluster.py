"""Context clusters: the suite of every model, published counts and costs."""

import jax
import jax.numpy as jnp
import pytest
from models.vision.exact_counts import assert_every_size_has_its_exact_count

from scanmax.errors import UserError
from scanmax.models import create_model
from scanmax.models.analysis import default_multiply_adds
from scanmax.testing import ModelCase, ModelSuite

SMALL = {"dims": (8, 12), "depths": (1, 2), "heads": (2, 2), "head_size": 4, "mlp_ratio": 2.0}


class ContextClusterSuite(ModelSuite):
    family = "context_cluster"
    # Of the regions that differ most; all are counted below.
    names = ("coc_tiny2",)
    small = (
        ModelCase(
            "coc_tiny",
            {**SMALL, "region_sizes": (2, None), "layer_scale": 0.5, "num_classes": 5},
            input_size=(16, 16, 3),
            other_inputs=((24, 16, 3), (28, 36, 3)),
        ),
    )


def test_every_published_size_has_its_exact_count():
    assert_every_size_has_its_exact_count("context_cluster", ContextClusterSuite.names)


@pytest.mark.parametrize(
    ("name", "published"), [("coc_tiny", 1.0), ("coc_small", 2.6), ("coc_medium", 5.5)]
)
def test_multiply_adds_are_the_papers(name, published):
    """Its figures are of powers of two, as those of its parameters are."""
    assert default_multiply_adds(name) / 2**30 == pytest.approx(published, abs=0.05)


def test_every_stage_needs_its_centers():
    model = create_model("coc_tiny", **SMALL, centers=(2,))
    with pytest.raises(UserError, match=r"centers=\(2,\) and region_sizes=.*expected 2 numbers"):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))


def test_a_norm_of_the_whole_sequence_is_refused_where_it_would_tell_the_future():
    model = create_model("lm_tiny", norm="group_norm")
    with pytest.raises(UserError, match="reads the whole sequence"):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 4), jnp.int32))
