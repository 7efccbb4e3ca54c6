"""TransNeXt: the suite of every model, published counts and costs, and what it does without."""

import pytest
from golden import make_authors
from models.vision.exact_counts import assert_every_size_has_its_exact_count

from scanmax.errors import UserError
from scanmax.models import create_model
from scanmax.models.analysis import default_multiply_adds
from scanmax.testing import ModelCase, ModelSuite


class TransNextSuite(ModelSuite):
    family = "transnext"
    # The others differ in widths and depths; all are counted below.
    names = ("transnext_micro",)
    small = (
        ModelCase(
            "transnext_micro",
            {
                "img_size": 16,
                "dims": (4, 8),
                "depths": (1, 1),
                "heads": (1, 2),
                "mlp_ratio": 3.0,
                **make_authors.AGGREGATED,
                "num_classes": 5,
            },
            input_size=(16, 16, 3),
            other_inputs=((24, 16, 3), (19, 26, 3)),
        ),
    )
    # A softmax takes away what all keys share.
    vanishing = r"stage1_block(s|_\d+)/mixer/position_bias/fc2/bias"


def test_every_published_size_has_its_exact_count():
    assert_every_size_has_its_exact_count("transnext", TransNextSuite.names)


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("transnext_micro", 2.7),
        ("transnext_micro_AAAA", 3.3),
        ("transnext_tiny", 5.7),
        ("transnext_small", 10.3),
        ("transnext_base", 18.4),
    ],
)
def test_multiply_adds_are_the_papers(name, published):
    # Up to 3 % of these are the MLP of distances, once for each block; the release does not say
    # whether it counts all of it.
    assert default_multiply_adds(name) / 1e9 == pytest.approx(published, rel=0.025)


def test_a_larger_image_measures_distances_as_the_smaller_one():
    """The pretraining grid stays where the images grow, as the release fine-tunes at 384."""
    fields = create_model("transnext_micro").block_fields(0)[0]
    assert fields["mixer_options"]["aggregated"] == {"pool_ratio": 8, "pretrain_grid": (56, 56)}


def test_what_is_of_pvt_alone_is_refused():
    with pytest.raises(UserError, match="linear=True is of PVTv2"):
        create_model("transnext_micro", linear=True).block_fields(0)
