"""SpaRTAN: the suite of every model, its count and cost, and which convolutions are dense."""

import jax
import jax.numpy as jnp
import pytest

from scanmax.errors import UserError
from scanmax.models import create_model, model_info
from scanmax.testing import ModelCase, ModelSuite

SMALL = {
    "dims": (8, 8),
    "depths": (1, 2),
    "heads": (1, 1),
    "mlp_ratio": 2,
    # Which channel leads may change by rounding: bfloat16 is near where that counts little.
    "layer_scale": 0.05,
    "dense_stages": 1,
    "mixer_options": {"multi_order": {"reduction": 1}},
    "num_classes": 5,
}


class SpartanSuite(ModelSuite):
    family = "spartan"
    small = (
        ModelCase(
            "spartan_t",
            SMALL,
            input_size=(16, 16, 3),
            other_inputs=((24, 16, 3), (17, 22, 3)),
        ),
    )


def test_convolutions_of_the_first_stages_are_dense():
    model = create_model("spartan_t", scan_layers=True)
    example = model_info("spartan_t").example()
    params = jax.eval_shape(model.init, jax.random.key(0), example)["params"]
    inputs = [
        [
            params[f"stage{stage}_blocks"][part][name]["conv"]["kernel"].value.shape[-2]
            for part, name in (("mixer", "near"), ("mlp", "conv"))
        ]
        for stage in range(4)
    ]
    # Channels that meet, in the mixers and in the MLPs.
    assert inputs == [[16, 1], [32, 1], [1, 2], [1, 2]]


def test_an_odd_width_is_refused():
    model = create_model("spartan_t", **{**SMALL, "dims": (7, 8)})
    with pytest.raises(UserError, match="halves the channels; 7 is odd"):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
