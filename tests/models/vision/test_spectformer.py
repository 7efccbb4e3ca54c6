"""SpectFormer: the suite of every model, published counts and costs."""

import pytest
from models.vision.exact_counts import assert_every_size_has_its_exact_count

from scanmax.models import create_model
from scanmax.models.analysis import default_multiply_adds
from scanmax.testing import ModelCase, ModelSuite


class SpectFormerSuite(ModelSuite):
    family = "spectformer"
    # The others differ in widths and depths; all are counted below.
    names = ("spectformer_s",)
    small = (
        ModelCase(
            "spectformer_s",
            {
                "img_size": 16,
                "dims": (8, 12),
                "depths": (1, 2),
                "heads": (2, 3),
                "mlp_ratio": 2.0,
                "mixer": ("global_filter", "spatial_reduction"),
                "stem_dim": 6,
                "num_classes": 5,
            },
            input_size=(16, 16, 3),
            other_inputs=((24, 16, 3), (17, 22, 3)),
        ),
    )
    # The softmax takes away what all keys share.
    vanishing = r"class_block/attention/key/bias"


def test_every_published_size_has_its_exact_count():
    assert_every_size_has_its_exact_count("spectformer", SpectFormerSuite.names)


@pytest.mark.parametrize(
    ("name", "published"), [("spectformer_s", 3.9), ("spectformer_b", 6.3), ("spectformer_l", 12.7)]
)
def test_multiply_adds_are_the_papers(name, published):
    """It leaves out products between tokens, as both leave out the transforms."""
    model = create_model(name)
    between = sum(
        2 * model.depths[stage] * (14 // 2 ** (stage - 2)) ** 4 * model.dims[stage]
        for stage in (2, 3)
    )
    assert (default_multiply_adds(name) - between) / 1e9 == pytest.approx(published, rel=0.01)
