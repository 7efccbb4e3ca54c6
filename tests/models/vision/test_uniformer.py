"""UniFormer: the suite of every model, both stems, published counts and costs."""

import pytest
from models.vision.exact_counts import assert_every_size_has_its_exact_count

from scanmax.errors import UserError
from scanmax.models import create_model
from scanmax.models.analysis import default_multiply_adds
from scanmax.testing import ModelCase, ModelSuite


class UniFormerSuite(ModelSuite):
    family = "uniformer"
    # The others differ in widths and depths; all are counted below.
    names = ("uniformer_small",)
    small = (
        ModelCase(
            "uniformer_small_plus",
            {
                "dims": (4, 8),
                "depths": (1, 1),
                "heads": (1, 2),
                "mlp_ratio": 2.0,
                "mixer": ("local_relation", "attention"),
                "norms": ("batch_norm", "layer_norm"),
                "layer_scale": (None, 0.5),
                "num_classes": 5,
            },
            input_size=(16, 16, 3),
            other_inputs=((24, 16, 3), (17, 22, 3)),
        ),
    )
    # Behind these stand batch norms, which take away what is the same everywhere.
    vanishing = r"(stem|downsample)\d/conv/bias"


def test_every_published_size_has_its_exact_count():
    assert_every_size_has_its_exact_count("uniformer", UniFormerSuite.names)


@pytest.mark.parametrize(
    ("name", "published"),
    [("uniformer_small", 3.6), ("uniformer_small_plus", 4.2), ("uniformer_base", 8.3)],
)
def test_multiply_adds_are_the_papers(name, published):
    assert default_multiply_adds(name) / 1e9 == pytest.approx(published, abs=0.06)


def test_every_stage_has_its_norm():
    with pytest.raises(UserError, match=r"norms=\('layer_norm',\): expected 4, one per stage"):
        create_model("uniformer_small", norms=("layer_norm",)).block_fields(0)
