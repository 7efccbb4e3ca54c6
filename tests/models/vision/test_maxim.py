"""MAXIM: the suite of every model, published counts, images of any size, and what is refused."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scanmax.errors import UserError
from scanmax.models import create_model, model_info
from scanmax.models.analysis import default_multiply_adds
from scanmax.models.vision.maxim import cut
from scanmax.testing import ModelCase, ModelSuite

SMALL = {
    "dims": (4, 8),
    "depth": 1,
    "stages": 1,
    "bottlenecks": 1,
    "supervised_scales": 2,
    "block_sizes": (2, 2, 1),
    "grid_sizes": (2, 2, 1),
}


class MaximSuite(ModelSuite):
    family = "maxim"
    # The others differ in widths and stages; all are counted below.
    names = ("maxim_s1",)
    # Evaluation leaves the images of coarser scales out.
    method = "restorations"
    # One stage of one scale: two of two are held to the authors' code (test_authors.py).
    small = (
        ModelCase(
            "maxim_s1",
            {
                **SMALL,
                "dims": (8,),
                "supervised_scales": 1,
                "block_sizes": (2, 1),
                "grid_sizes": (2, 1),
                "reduction": 2,
            },
            input_size=(4, 4, 3),
            other_inputs=((6, 4, 3), (3, 5, 3)),
        ),
    )


def count(name, **fields):
    model = create_model(name, scan_layers=True, **fields)
    shapes = jax.eval_shape(model.init, jax.random.key(0), model_info(name).example())["params"]
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def test_every_published_size_has_its_exact_count():
    params = {name: model_info(f"maxim_{name}").params for name in ("s1", "s2", "s3", "m1", "m2")}
    for name in ("s2", "m1", "m2"):
        assert count(f"maxim_{name}") == params[name], name
    # Stages but the first are alike.
    assert params["s3"] - params["s2"] == params["s2"] - params["s1"]
    assert model_info("maxim_m3").params - params["m2"] == params["m2"] - params["m1"]


def test_of_one_scale_it_has_the_count_that_the_released_code_writes():
    assert count("maxim_s1", supervised_scales=1) == 6_108_515


@pytest.mark.parametrize(("name", "published"), [("maxim_s2", 216.0), ("maxim_s3", 339.2)])
def test_multiply_adds_are_half_of_the_papers_operations(name, published):
    # These count what is no product as well.
    assert default_multiply_adds(name) * 2e-9 == pytest.approx(published, rel=0.021)


def test_an_image_of_any_size_is_continued_by_reflection_and_cut():
    model = create_model("maxim_s1", **SMALL)
    assert model.multiple == 4
    images = np.random.default_rng(0).normal(size=(1, 6, 9, 3)).astype(np.float32)
    (fine, coarse), corner = model.continued(images)
    # Of 6 rows one stands before and one behind, of 9 columns one and two.
    assert corner == (1, 1)
    expected = np.pad(images, [(0, 0), (1, 1), (1, 2), (0, 0)], mode="reflect")
    np.testing.assert_array_equal(fine, expected)
    shape = (1, 4, 6, 3)
    np.testing.assert_array_equal(coarse, jax.image.resize(expected, shape, "nearest"))
    np.testing.assert_array_equal(cut(fine, corner, (6, 9), 0), images)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    for method, channels in (("restorations", (3, 3)), ("features", (4, 8))):
        made = jax.eval_shape(functools.partial(model.apply, method=method), variables, images)
        made = made[0] if method == "restorations" else made
        chex.assert_shape(made, [(1, 6, 9, channels[0]), (1, 3, 4, channels[1])])


def test_images_of_other_channels_are_made_and_not_added():
    model = create_model("maxim_s1", **SMALL, out_channels=1)
    image = jnp.zeros((1, 8, 8, 3))
    init = functools.partial(model.init_with_output, train=True)
    made, _ = jax.eval_shape(init, jax.random.key(0), image)
    assert [[image.shape for image in stage] for stage in made] == [[(1, 8, 8, 1), (1, 4, 4, 1)]]


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"block_sizes": (8, 8)}, "one for the bottlenecks"),
        ({"supervised_scales": 4}, "expected 1 to 3 scales"),
    ],
)
def test_what_does_not_fit_together_is_refused(fields, told):
    model = create_model("maxim_s1", **fields)
    with pytest.raises(UserError, match=told):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))


def test_it_has_no_classes():
    with pytest.raises(UserError, match="makes images: pass out_channels=, not num_classes"):
        create_model("maxim_s1", num_classes=3)
