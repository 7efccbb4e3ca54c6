"""RMT, MAViT and RAVLT, of one host: the suite of every model, published counts and costs."""

import pytest
from models.vision.exact_counts import assert_every_size_has_its_exact_count

from scanmax.errors import UserError
from scanmax.models import create_model
from scanmax.models.analysis import default_multiply_adds
from scanmax.testing import ModelCase, ModelSuite

SMALL = {
    "dims": (8, 16),
    "depths": (1, 1),
    "heads": (2, 4),
    "mlp_ratio": 2.0,
    "mixer": ("rmt_decomposed", "rmt"),
    "spans": (4.0, 6.0),
    "layer_scale": (None, 0.5),
    "projection": 12,
    "num_classes": 5,
}


class RmtSuite(ModelSuite):
    family = "rmt"
    # The others differ in widths and depths; all are counted below.
    names = ("rmt_t",)
    small = (
        ModelCase("rmt_t", SMALL, input_size=(16, 16, 3), other_inputs=((24, 16, 3), (17, 22, 3))),
    )
    # Behind these stand batch norms, which take away what is the same everywhere.
    vanishing = r"(stem|downsample)\d/conv/bias|projection/bias"

    def pooled_channels(self, info):
        return create_model(info.name).projection


@pytest.mark.parametrize("family", ["rmt", "mavit", "ravlt"])
def test_every_published_size_has_its_exact_count(family):
    assert_every_size_has_its_exact_count(family, (f"{family}_t",))


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("rmt_t", 2.5),
        ("rmt_s", 4.5),
        ("rmt_b", 9.7),
        ("rmt_l", 18.2),
        ("mavit_t", 2.5),
        ("mavit_s", 4.6),
        ("mavit_b", 9.9),
        ("mavit_l", 16.1),
        ("ravlt_t", 2.4),
        ("ravlt_s", 4.6),
        ("ravlt_b", 9.9),
        ("ravlt_l", 16.0),
    ],
)
def test_multiply_adds_are_the_papers(name, published):
    # All twelve agree if a giga is 2^30; norms, which are not counted here, may be the rest.
    assert default_multiply_adds(name) / 2**30 == pytest.approx(published, abs=0.06)


def test_what_does_not_fit_together_is_refused():
    for fields, told in (
        ({"spans": (1.0,)}, r"spans=\(1.0,\): expected 4"),
        ({"layer_scale": (1.0, 1.0)}, r"layer_scale=\(1.0, 1.0\): expected one or 4"),
    ):
        with pytest.raises(UserError, match=told):
            create_model("rmt_t", **fields).block_fields(0)
