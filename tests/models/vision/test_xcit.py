"""XCiT: the suite of every model, and the published counts and costs."""

import pytest
from models.vision.exact_counts import assert_every_size_has_its_exact_count

from scanmax.models.analysis import default_multiply_adds
from scanmax.testing import ModelCase, ModelSuite

SMALL = {"patch_size": 4, "dim": 8, "depth": 2, "heads": 2, "mlp_ratio": 2.0, "num_classes": 5}


class XcitSuite(ModelSuite):
    family = "xcit"
    # What the others are made of; all of them are counted below.
    names = ("xcit_nano_12_p8_224", "xcit_tiny_24_p16_224")
    small = (
        ModelCase(
            "xcit_tiny_12_p16_224",
            SMALL,
            input_size=(16, 16, 3),
            other_inputs=((24, 16, 3), (17, 22, 3)),
        ),
    )
    # The softmax takes away what is added to all keys.
    vanishing = r".*/attention/key/bias"


def test_every_published_size_has_its_exact_count():
    assert_every_size_has_its_exact_count("xcit", XcitSuite.names)


def test_multiply_adds_are_the_papers():
    for name, published in (("xcit_nano_12_p16_224", 0.5), ("xcit_tiny_12_p16_224", 1.2)):
        assert default_multiply_adds(name) / 1e9 == pytest.approx(published, abs=0.06), name
