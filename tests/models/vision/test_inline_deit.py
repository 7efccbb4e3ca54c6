"""InLine-DeiT: the suite of every model, published counts and costs."""

import pytest
from models.vision.exact_counts import assert_every_size_has_its_exact_count

from scanmax.models.analysis import default_multiply_adds
from scanmax.testing import ModelCase, ModelSuite


class InlineDeitSuite(ModelSuite):
    family = "inline_deit"
    # The others differ in widths and images; all are counted below.
    names = ("inline_deit_tiny",)
    small = (
        ModelCase(
            "inline_deit_tiny",
            # The class token reads no taps: of the last block's nothing would reach it.
            {"img_size": 32, "dim": 12, "depth": 1, "heads": 2, "num_classes": 5, "pool": "avg"},
            input_size=(32, 32, 3),
            other_inputs=((48, 32, 3),),
        ),
    )


def test_every_published_size_has_its_exact_count():
    assert_every_size_has_its_exact_count("inline_deit", InlineDeitSuite.names)


@pytest.mark.parametrize(
    ("name", "published"),
    [("inline_deit_tiny", 1.1), ("inline_deit_small", 5.0), ("inline_deit_base", 17.2)],
)
def test_multiply_adds_are_the_papers(name, published):
    assert default_multiply_adds(name) / 1e9 == pytest.approx(published, abs=0.06)
