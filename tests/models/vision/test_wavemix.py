"""WaveMix: the suite of every model, published counts, its stems, and norms at rest."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import seeded
from models.vision.exact_counts import assert_every_size_has_its_exact_count

from scanmax.errors import UserError
from scanmax.models import create_model
from scanmax.testing import ModelCase, ModelSuite
from scanmax.testing.model_suite import COMPILER_OPTIONS


class WaveMixSuite(ModelSuite):
    family = "wavemix"
    # One of each stem; all are counted below.
    names = ("wavemix", "wavemix_lite_144_7_cifar10")
    small = (
        ModelCase(
            "wavemix",
            {"dim": 4, "depth": 2, "levels": 2, "dropout_rate": 0.0, "num_classes": 5},
            input_size=(16, 16, 3),
            other_inputs=((24, 16, 3), (17, 22, 3)),
        ),
    )
    # A batch norm behind it takes away what is the same everywhere.
    vanishing = r"block(s|_\d+)/mixer/up_\d/bias"


def test_every_published_size_has_its_exact_count():
    assert_every_size_has_its_exact_count("wavemix", WaveMixSuite.names)


def test_frozen_statistics_are_those_of_every_norm():
    model = create_model("wavemix", dim=4, depth=1, levels=1, dropout_rate=0.0, num_classes=3)
    images = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 8, 3)), jnp.float32)
    variables = seeded.seeded_variables(model, (8, 8, 3))
    train = {"train": True, "mutable": ["batch_stats"]}

    @functools.partial(jax.jit, compiler_options=COMPILER_OPTIONS)
    def run(variables):
        frozen = model.clone(frozen_statistics=True)
        half = model.clone(norm_momentum=0.5)
        return (
            model.apply(variables, images),
            frozen.apply(variables, images, **train),
            model.apply(variables, images, **train)[1],
            half.apply(variables, images, **train)[1],
        )

    expected, (logits, kept), moved, far = run(variables)
    np.testing.assert_allclose(logits, expected, rtol=1e-6)
    before = variables["batch_stats"]
    assert set(before) == {"stem_norm", "block_00"}
    jax.tree.map(np.testing.assert_array_equal, kept["batch_stats"], before)
    # A tenth of the way to the batch's, and half of it.
    tenth, half = (jax.tree.map(np.subtract, to["batch_stats"], before) for to in (moved, far))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(5 * a, b, atol=1e-5), tenth, half)
    assert all(np.abs(leaf).min() > 1e-4 for leaf in jax.tree.leaves(tenth))


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"stem": "patchify"}, "stem='patchify' is not one of patches, strided"),
        ({"levels": 0}, "levels=0: WaveMix reads the bands of at least one"),
        ({"mixer": ("wavemix",) * 3}, "has 3 names; expected one or 16"),
    ],
)
def test_what_does_not_fit_together_is_refused(fields, told):
    model = create_model("wavemix", **fields)
    with pytest.raises(UserError, match=told):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
