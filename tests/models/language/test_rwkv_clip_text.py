"""RWKV-CLIP's text tower: the suite of every model, the authors' numbers, both towers together."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import tolerances
from golden import seeded

from scanmax.models import create_model
from scanmax.models.towers import TwoTowers
from scanmax.models.weights.sources import flatten
from scanmax.testing import ModelCase, ModelSuite, compare

TINY = {"vocab_size": 12, "dim": 32, "depth": 2, "heads": 4, "mlp_hidden": 32}
NAME = "rwkv_clip_text_b32"


class RwkvClipTextSuite(ModelSuite):
    family = "rwkv_clip_text"
    small = (ModelCase(NAME, {**TINY, "dim": 8, "heads": 2}, (5,), ((7,),)),)


def small(**fields):
    return create_model(NAME, **{**TINY, "num_classes": 0, **fields})


def test_features_and_gradients_are_the_authors():
    """tests/golden/rwkv_clip_text.npz has what their code gives for these weights."""
    with jax.enable_x64(True):
        model = small(dtype=jnp.float64, param_dtype=jnp.float64)
        variables = seeded.seeded_variables(model, (7,), np.float64, kind=jnp.int32)
        with np.load(pathlib.Path(seeded.__file__).parent / "rwkv_clip_text.npz") as archive:
            golden = dict(archive)

        @jax.jit
        def run(variables):
            def loss(params):
                features = model.apply({"params": params}, golden["tokens"])
                return jnp.sum(features * golden["cotangent"]), features

            return jax.grad(loss, has_aux=True)(variables["params"])

        gradients, features = run(variables)
    compare.assert_relative(features, golden["features"], tolerances.PARITY)
    gradients = flatten({"params": gradients})
    sums = np.array([seeded.weighed_sum(np.asarray(gradients[key])) for key in sorted(gradients)])
    np.testing.assert_allclose(sums, golden["sums"], rtol=1e-6, atol=1e-9)


def test_both_towers_meet_in_one_space():
    image = create_model("rwkv_clip_b32", num_classes=0, dim=8, depth=1, heads=2, img_size=64)
    model = TwoTowers(image, small(), dim=6, text_length=5)
    images = jnp.ones((2, 64, 64, 3))
    tokens = jnp.ones((2, 5), jnp.int32)

    def pairs(key):
        return model.init_with_output(key, images, tokens=tokens)[0]

    found = jax.eval_shape(pairs, jax.random.key(0))
    assert found.image.shape == found.text.shape == (2, 6)
