"""Classification by angles: vectors of classes, learned and fixed."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scanmax.errors import UserError
from scanmax.testing import SmallImages, SmallNet
from scanmax.train.build import build
from scanmax.train.config import Config, ObjectiveConfig
from scanmax.train.objectives.class_vectors import ClassVectors, equiangular_vectors

NET = SmallNet(num_classes=0)


def run_of(mix=(), model=NET, **kwargs):
    own = ObjectiveConfig(name="cosine_classification", kwargs=kwargs)
    config = Config(objective=own, mix=mix, batch_size=16)
    return build(config, pipeline=SmallImages(), model=model)


def test_learned_vectors_give_the_normalised_softmax_and_its_gradient():
    model = NET.clone(dtype=jnp.float64, param_dtype=jnp.float64)
    run = run_of(model=model, scale=3.0)
    batch = {name: rows[:2] for name, rows in next(SmallImages().train_iterator()).items()}

    def ours(params):
        found = run.objective.apply({"params": params}, batch, train=True)
        return found.values["label"].sum(), found.outputs

    def loop(params):
        total = 0.0
        for f, label in zip(
            model.apply({"params": params["model"]}, batch["image"]), batch["label"]
        ):
            powers = [
                jnp.exp(3 * f @ v / jnp.sqrt(f @ f) / jnp.sqrt(v @ v))
                for v in params["angles"]["vectors"]
            ]
            total -= jnp.log(powers[label] / sum(powers))
        return total

    start = jax.device_get(run.init().params)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), start)
        compiled = jax.jit(jax.value_and_grad(ours, has_aux=True))
        (value, logits), slope = compiled(wide)
        expected, by_loop = jax.jit(jax.value_and_grad(loop))(wide)
        np.testing.assert_allclose(value, expected, rtol=1e-10)
        chex.assert_trees_all_close(slope, by_loop, rtol=1e-10, atol=1e-12)
        # Neither the length of a feature nor that of a vector changes an answer.
        longer = {**wide, "angles": {"vectors": 7 * wide["angles"]["vectors"]}}
        np.testing.assert_allclose(compiled(longer)[0][1], logits, rtol=1e-10)


@pytest.mark.parametrize(("count", "dim", "bound"), [(10, 6, 0.4), (60, 20, 0.35), (10, 64, 0.0)])
def test_fixed_vectors_keep_their_angles(count, dim, bound):
    vectors = equiangular_vectors(count, dim, bound or 0.5)
    cosines = vectors @ vectors.T
    np.testing.assert_allclose(np.diag(cosines), 1, rtol=1e-12)
    assert np.abs(cosines - np.eye(count)).max() <= bound + 1e-12


def test_nearest_of_the_fixed_vectors_is_the_answer():
    module = ClassVectors(classes=4, dim=3, fixed=True)
    features = np.random.default_rng(0).normal(size=(16, 8)).astype(np.float32)
    found, variables = jax.jit(module.init_with_output)(jax.random.key(0), features)
    own = nn.meta.unbox(variables["params"])["project"]
    projected = np.asarray(features @ own["kernel"] + own["bias"])
    directions = projected / np.linalg.norm(projected, axis=-1, keepdims=True)
    distances = np.linalg.norm(directions[:, None] - equiangular_vectors(4, 3, 0.5), axis=-1)
    np.testing.assert_array_equal(found.argmax(-1), distances.argmin(-1))


@pytest.mark.parametrize(
    ("kwargs", "expected"),
    [
        ({"vectors": "fixed"}, "vectors='fixed'; known: equiangular, learned"),
        ({"scale": 0.0}, "scale=0.0 must be above 0"),
        ({"vectors": "equiangular", "dim": 2, "max_cosine": 0.3}, "none are below 0.577"),
    ],
)
def test_mistakes_are_one_line(kwargs, expected):
    with pytest.raises(UserError, match=expected):
        run_of(**kwargs)


def test_a_margin_is_of_one_class():
    run = run_of(mix=("mixup",), margin=0.1)
    with pytest.raises(UserError, match="is of one class"):
        jax.eval_shape(run.train_step, run.shapes, run.pipeline.train_spec, ())
