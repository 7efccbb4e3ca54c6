"""PVTv2: the suite of every model, and the published counts and costs."""

import pytest
from models.vision.exact_counts import assert_every_size_has_its_exact_count

from scanmax.errors import UserError
from scanmax.models import create_model
from scanmax.models.analysis import default_multiply_adds
from scanmax.testing import ModelCase, ModelSuite

SMALL = {
    "dims": (4, 8),
    "depths": (1, 2),
    "heads": (1, 2),
    "mlp_ratio": (3.0, 2.0),
    "reductions": (2, 1),
    "num_classes": 5,
}


class PvtV2Suite(ModelSuite):
    family = "pvt_v2"
    # What the others are made of; all of them are counted below.
    names = ("pvt_v2_b0", "pvt_v2_b2_li")
    small = (
        ModelCase(
            "pvt_v2_b0", SMALL, input_size=(16, 16, 3), other_inputs=((24, 16, 3), (19, 26, 3))
        ),
        ModelCase("pvt_v2_b2_li", SMALL, input_size=(16, 16, 3), other_inputs=((12, 20, 3),)),
    )


def test_every_published_size_has_its_exact_count():
    assert_every_size_has_its_exact_count("pvt_v2", PvtV2Suite.names)


def test_multiply_adds_are_the_papers():
    assert default_multiply_adds("pvt_v2_b0") / 1e9 == pytest.approx(0.6, abs=0.05)


def test_one_ratio_a_stage():
    with pytest.raises(UserError, match=r"mlp_ratio=\(1.0,\): expected one or 4"):
        create_model("pvt_v2_b0", mlp_ratio=(1.0,)).block_fields(0)
