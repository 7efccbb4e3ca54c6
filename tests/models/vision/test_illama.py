"""iLLaMA: the suite of every model, published counts and costs, what the class token reads."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scanmax.models import create_model, list_models, model_info
from scanmax.models.analysis import default_multiply_adds
from scanmax.testing import ModelCase, ModelSuite

TINY = {"img_size": 32, "dim": 8, "depth": 2, "heads": 2, "mlp_multiple": 4, "num_classes": 5}


class IllamaSuite(ModelSuite):
    family = "illama"
    # The others differ in widths and depths; all are counted below.
    names = ("illama_tiny",)
    small = (ModelCase("illama_tiny", TINY, input_size=(32, 32, 3), other_inputs=((48, 32, 3),)),)


def test_every_published_size_has_its_exact_count():
    for name in list_models(family="illama"):
        model, dim = create_model(name), create_model(name).dim
        block = 4 * dim**2 + 4 * dim + 3 * dim * model.mlp_hidden + 2 * dim
        patches, table = (3 * 16**2 + 1) * dim, (14**2 + 2) * dim
        total = model.depth * block + patches + table + dim + (dim + 1) * 1000
        assert total == model_info(name).params, name


@pytest.mark.parametrize(
    ("name", "published"), [("illama_tiny", 1.3), ("illama_small", 4.6), ("illama_base", 17.6)]
)
def test_multiply_adds_are_the_papers(name, published):
    assert default_multiply_adds(name) / 1e9 == pytest.approx(published, abs=0.06)


@pytest.mark.parametrize("strength", [0.0, 0.5])
def test_patches_see_those_before_them_and_the_class_token_all(strength):
    """A causal row of tokens whose last one is the class token; a soft mask lets all see all.

    Masked before the softmax: released, sums of weights know of later tokens too.
    """
    options = {"soft_causal": {"placement": "logits"}}
    fields = {**TINY, "depth": 1, "mixer_options": options, "mask_strength": strength}
    model = create_model("illama_tiny", **fields)
    images = jax.random.normal(jax.random.key(0), (1, 32, 32, 3))
    variables = nn.unbox(jax.jit(model.init)(jax.random.key(1), images))
    last = jnp.zeros((1, 32, 32, 1)).at[:, 16:, 16:].set(1.0)

    @jax.jit
    def run(images):
        maps = model.apply(variables, images, method="features")[-1]
        return maps, model.apply(variables, images)

    maps, logits = run(images)
    changed, others = run(images + last)
    moved = np.abs(changed - maps).max((0, -1)).ravel()
    assert moved[3] > 1e-3
    assert bool((moved[:3] > 1e-7).all()) == bool(strength)
    if not strength:
        np.testing.assert_array_equal(moved[:3], 0)
    assert np.abs(others - logits).max() > 1e-5
