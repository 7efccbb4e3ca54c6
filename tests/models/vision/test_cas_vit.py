"""CAS-ViT: the suite of every model, both heads, published costs."""

import jax
import numpy as np
import pytest
from golden import make_authors
from models.vision.exact_counts import assert_every_size_has_its_exact_count

from scanmax.models.analysis import default_multiply_adds
from scanmax.testing import ModelCase, ModelSuite, compare
from scanmax.testing.model_suite import COMPILER_OPTIONS


class CasVitSuite(ModelSuite):
    family = "cas_vit"
    # The others differ in widths and depths; all are counted below.
    names = ("cas_vit_xs",)
    small = (
        ModelCase(
            "cas_vit_xs",
            {"dims": (8, 12), "depths": (1, 2), "heads": (1, 1), "num_classes": 5},
            input_size=(16, 16, 3),
            other_inputs=((24, 16, 3), (17, 22, 3)),
        ),
    )
    # Behind these stand batch norms, which take away what is the same everywhere.
    vanishing = r"(stem|downsample)\d/conv/bias|.*/local/fc1/bias|.*/mixer/(query|key)_conv/bias"


def test_every_published_size_has_its_exact_count():
    assert_every_size_has_its_exact_count("cas_vit", CasVitSuite.names)


@pytest.mark.parametrize(
    ("name", "published"),
    [("cas_vit_xs", 0.560), ("cas_vit_s", 0.932), ("cas_vit_m", 1.887), ("cas_vit_t", 3.597)],
)
def test_multiply_adds_are_the_papers(name, published):
    # The paper counts norms and products of maps too.
    assert default_multiply_adds(name) / 1e9 == pytest.approx(published, rel=0.025)


def test_both_heads_in_training_and_their_mean_in_evaluation():
    model, variables, images, _ = make_authors.seeded_run("cas_vit")
    frozen = model.clone(frozen_statistics=True)
    run = jax.jit(frozen.apply, static_argnames="train", compiler_options=COMPILER_OPTIONS)
    first, second = run(variables, images, train=True)
    assert np.abs(first - second).max() > 1e-2
    compare.assert_relative(run(variables, images), (first + second) / 2, 1e-5)
