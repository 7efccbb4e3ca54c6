"""SMT: the suite of every model, its turns, published counts and costs."""

import jax
import jax.numpy as jnp
import pytest
from models.vision.exact_counts import assert_every_size_has_its_exact_count

from scanmax.errors import UserError
from scanmax.models import create_model
from scanmax.models.analysis import default_multiply_adds
from scanmax.testing import ModelCase, ModelSuite


class SmtSuite(ModelSuite):
    family = "smt"
    # The others differ in widths and depths; all are counted below.
    names = ("smt_t",)
    small = (
        ModelCase(
            "smt_t",
            {
                "dims": (4, 8),
                "depths": (2, 1),
                "heads": (2, 2),
                "mlp_ratio": 2.0,
                "mixer": ("scale_aware", "gated_attention"),
                "second_mixer": ("gated_attention", None),
                "mixer_options": {"scale_aware": {"scales": 2, "first_size": 1}},
                "layer_scale": 0.5,
                "num_classes": 5,
            },
            input_size=(16, 16, 3),
            other_inputs=((24, 16, 3), (17, 22, 3)),
        ),
    )
    # A batch norm behind it takes away what is the same everywhere; a softmax what all keys share.
    vanishing = r".*/aggregate/bias"


def test_every_published_size_has_its_exact_count():
    assert_every_size_has_its_exact_count("smt", SmtSuite.names)


@pytest.mark.parametrize(
    ("name", "published"), [("smt_t", 2.4), ("smt_s", 4.7), ("smt_b", 7.7), ("smt_l", 17.6)]
)
def test_multiply_adds_are_the_papers(name, published):
    # The counter that the authors' code calls knows layers alone: neither logits nor their sums.
    model = create_model(name)
    turns, last = model.depths[2] // 2, model.depths[3]
    attention = 2 * (turns * model.dims[2] * 196**2 + last * model.dims[3] * 49**2)
    assert (default_multiply_adds(name) - attention) / 1e9 == pytest.approx(published, rel=0.01)


def test_every_second_block_of_the_third_stage_attends():
    model = create_model("smt_t")
    mixers = [
        [layer["mixer"] for turn in model.block_fields(stage) for layer in turn["layers"]]
        for stage in range(4)
    ]
    assert mixers[2] == ["scale_aware", "gated_attention"] * 4
    assert mixers[1] + mixers[3] == ["scale_aware"] * 2 + ["gated_attention"]


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"second_mixer": (None,)}, r"second_mixer=\(None,\): expected 4 entries"),
        ({"depths": (2, 2, 3, 1)}, "stage 2 has two mixers by turns"),
        ({"mixer_options": {"scale_aware": {"scale": 3}}}, "has no field 'scale'"),
    ],
)
def test_what_does_not_fit_together_is_refused(fields, told):

    model = create_model("smt_t", **fields)
    with pytest.raises(UserError, match=told):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
