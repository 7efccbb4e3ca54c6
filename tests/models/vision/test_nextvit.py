"""Next-ViT: the suite of every model, and the published counts and costs."""

import pytest
from models.vision.exact_counts import assert_every_size_has_its_exact_count

from scanmax.errors import UserError
from scanmax.models import create_model
from scanmax.models.analysis import default_multiply_adds
from scanmax.testing import ModelCase, ModelSuite

SMALL = {
    "dims": (8, 16),
    "conv_dims": (8, 8),
    "depths": (3, 3),
    "group_sizes": (0, 3),
    "stem_dims": (4, 4, 4),
    "ratios": (2, 2),
    "head_dim": 4,
    "num_classes": 5,
}


class NextVitSuite(ModelSuite):
    family = "nextvit"
    # All sizes are counted below.
    names = ("nextvit_small",)
    small = (
        ModelCase(
            "nextvit_small",
            SMALL,
            input_size=(24, 24, 3),
            other_inputs=((16, 32, 3), (27, 34, 3)),
        ),
    )
    # Behind these stand batch norms, and the softmax, which take away what is the same everywhere.
    vanishing = r"stage1_mix0_00/(mlp/fc2|mixer/(out|key_value|norm)|patches/norm)/bias"


def test_every_published_size_has_its_exact_count():
    assert_every_size_has_its_exact_count("nextvit", NextVitSuite.names)


def test_multiply_adds_are_the_papers():
    assert default_multiply_adds("nextvit_small") / 1e9 == pytest.approx(5.8, abs=0.06)


def test_groups_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match=r"group_sizes=\(0, 4, 5, 3\): 5 does not cut the 7 blocks"):
        create_model("nextvit_small", depths=(3, 4, 7, 3)).block_names(2)
