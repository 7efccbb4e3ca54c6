"""GLNet: the suite of every model, where slots start, published counts and costs."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models.vision.exact_counts import assert_every_size_has_its_exact_count

from scanmax import ops
from scanmax.errors import UserError
from scanmax.models import create_model
from scanmax.models.analysis import default_multiply_adds
from scanmax.models.mixers import create_mixer
from scanmax.testing import ModelCase, ModelSuite

SMALL = {"dims": (4, 8), "depths": (2, 1), "heads": (1, 2), "mlp_ratio": 2.0, "num_classes": 5}


class GLNetSuite(ModelSuite):
    family = "glnet"
    # The others differ in widths, depths and how slots start; all are counted below.
    names = ("glnet_4g",)
    small = (
        ModelCase(
            "glnet_4g",
            {
                **SMALL,
                "mixer": ("slots", "attention"),
                "second_mixer": ("attention", None),
                "mixer_options": {"slots": {"slot_grid": 2, "conv_size": 3}},
            },
            input_size=(16, 16, 3),
            other_inputs=((24, 16, 3), (17, 22, 3)),
        ),
    )
    # Behind these stand batch norms, which take away what is the same everywhere.
    vanishing = r"stem\d/conv/bias"


def test_every_published_size_has_its_exact_count():
    assert_every_size_has_its_exact_count("glnet", GLNetSuite.names)


@pytest.mark.parametrize(
    ("name", "published"),
    [("glnet_4g", 4.5), ("glnet_9g", 9.7), ("glnet_16g", 16.7), ("glnet_stl", 4.4)],
)
def test_multiply_adds_are_the_papers(name, published):
    assert default_multiply_adds(name) / 1e9 == pytest.approx(published, rel=0.012)


def test_slots_start_from_the_map_before_the_norm():
    rng = np.random.default_rng(0)
    x, origin = (jnp.asarray(rng.normal(size=(1, 16, 4)), jnp.float32) for _ in range(2))
    mixer = create_mixer("slots", heads=1, options={"slot_grid": 2, "conv_size": 0})
    variables = nn.unbox(mixer.init(jax.random.key(0), x, (4, 4)))
    params = jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), variables["params"]
    )

    def expected(start):
        cells = start.reshape(1, 2, 2, 2, 2, 4).mean((2, 4)).reshape(1, 4, 4)
        logits = ops.slot_logits(x, cells, scale=params["slot_scale"])
        slots = ops.aggregate_tokens(x, logits)
        qkv = jnp.einsum("bmd,dihk->bimhk", slots, params["qkv"]["kernel"])
        qkv = qkv + params["qkv"]["bias"][None, :, None]
        slots = ops.dot_product_attention(qkv[:, 0], qkv[:, 1], qkv[:, 2])
        slots = jnp.einsum("bmhk,hkd->bmd", slots, params["out"]["kernel"])
        return ops.dispatch_tokens(slots + params["out"]["bias"][None, None], logits)

    for given, start in (({"origin": origin}, origin), ({}, x)):
        y = mixer.apply({"params": params}, x, (4, 4), **given)
        chex.assert_trees_all_close(y, expected(start), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"second_mixer": (None,)}, r"second_mixer=\(None,\): expected 4 entries"),
        ({"depths": (4, 4, 3, 4)}, "stage 2 has two mixers by turns"),
        ({"patch_size": 8}, "patch_size=8: overlap=True shrinks by 4"),
    ],
)
def test_what_does_not_fit_together_is_refused(fields, told):
    model = create_model("glnet_4g", **fields)
    with pytest.raises(UserError, match=told):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
