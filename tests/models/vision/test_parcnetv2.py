"""ParCNetV2: the suite of every model, published counts and costs, its norm, kernels and images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models.vision.exact_counts import assert_every_size_has_its_exact_count

from scanmax.errors import UserError
from scanmax.models import create_model
from scanmax.models.analysis import default_multiply_adds
from scanmax.models.parts.length_norm import LengthNorm
from scanmax.testing import ModelCase, ModelSuite

TINY = {
    "dims": (6, 9),
    "depths": (1, 2),
    "heads": (1, 1),
    "mlp_ratio": 2.0,
    "global_sizes": (5, 3),
    "residual_scales": (None, 1.0),
    # Of fewer taps than the published 7: every tap is compiled.
    "mixer_options": {"oversized": {"kernel_size": 3}},
    "num_classes": 5,
}


class ParcNetV2Suite(ModelSuite):
    family = "parcnetv2"
    # The others differ in widths and depths; all are counted below.
    names = ("parcnetv2_xt",)
    small = (
        ModelCase(
            "parcnetv2_xt",
            TINY,
            input_size=(16, 16, 3),
            other_inputs=((24, 16, 3), (17, 22, 3)),
        ),
    )


def test_every_published_size_has_its_exact_count():
    assert_every_size_has_its_exact_count("parcnetv2", ParcNetV2Suite.names)


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("parcnetv2_xt", 1.6),
        ("parcnetv2_tiny", 4.3),
        ("parcnetv2_small", 7.8),
        ("parcnetv2_base", 12.5),
    ],
)
def test_multiply_adds_are_the_papers(name, published):
    """The paper counts the taps of the long kernels, which are transforms here."""
    model, taps = create_model(name), 0
    for stage, (dim, depth) in enumerate(zip(model.dims, model.depths, strict=True)):
        taps += depth * dim * (56 >> stage) ** 2 * 2 * model.global_sizes[stage]
    counted = (default_multiply_adds(name) + taps) / 1e9
    assert counted == pytest.approx(published, rel=0.01, abs=0.05)


def test_the_norm_brings_places_to_length_one():
    rng = np.random.default_rng(0)
    x, scale = rng.normal(size=(2, 3, 4)), rng.normal(size=4)
    x[0, 0] = 3.0
    centred = x - x.mean(-1, keepdims=True)
    length = np.maximum(np.sqrt(np.sum(centred**2, -1, keepdims=True)), 1e-6)
    with jax.enable_x64(True):
        norm = LengthNorm(dtype=jnp.float64, param_dtype=jnp.float64)
        params = {"params": {"scale": jnp.asarray(scale)}}

        def apply(x):
            return norm.apply(params, x)

        y, pull = jax.vjp(apply, jnp.asarray(x))
        np.testing.assert_allclose(y, scale * centred / length, rtol=1e-12)
        # Of the place whose channels are all the same too.
        assert np.all(np.isfinite(pull(jnp.ones_like(y))[0]))


def test_the_kernels_follow_the_image_where_asked():
    """At twice the map both are one; of other images the release keeps the taps."""
    fields = {**TINY, "dims": (6,), "depths": (1,), "heads": (1,), "global_sizes": (7,)}
    model = create_model("parcnetv2_xt", **fields)
    rng = np.random.default_rng(0)
    apply = jax.jit(lambda m, v, x: m.apply(v, x), static_argnums=0)
    small, large = (
        jnp.asarray(rng.normal(size=(1, side, side, 3)), jnp.float32) for side in (16, 24)
    )
    variables = jax.jit(model.init)(jax.random.key(0), small)
    followed = model.clone(interpolate=True)
    # The kernels start small: what they do shows behind a gain.
    gain = jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf * (100.0 if "mixer" in jax.tree_util.keystr(path) else 1.0),
        variables,
    )
    np.testing.assert_allclose(apply(followed, gain, small), apply(model, gain, small), rtol=1e-4)
    assert np.abs(apply(followed, gain, large) - apply(model, gain, large)).max() > 1e-2


def test_mistakes():
    model = create_model("parcnetv2_xt", **{**TINY, "global_sizes": (5,)})
    with pytest.raises(UserError, match=r"global_sizes=\(5,\): expected 2 entries"):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
