"""InceptionNeXt: the suite of every model, and the published cost."""

import pytest

from scanmax.models.analysis import default_multiply_adds
from scanmax.testing import ModelCase, ModelSuite


class InceptionNextSuite(ModelSuite):
    family = "inception_next"
    small = (
        ModelCase(
            "inception_next_tiny",
            {"dims": (4, 8), "depths": (1, 2), "mlp_ratios": (2.0, 1.5), "num_classes": 5},
            input_size=(16, 16, 3),
            other_inputs=((24, 16, 3), (19, 26, 3)),
        ),
    )
    gradient_fields = {"frozen_statistics": True}


def test_multiply_adds_are_the_papers():
    assert default_multiply_adds("inception_next_tiny") / 1e9 == pytest.approx(4.2, abs=0.05)
