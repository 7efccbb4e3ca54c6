"""KAT: the suite of every model, published counts and costs, and what it does without."""

import pytest
from models.vision.exact_counts import assert_every_size_has_its_exact_count

from scanmax.errors import UserError
from scanmax.models import create_model
from scanmax.models.analysis import default_multiply_adds
from scanmax.testing import ModelCase, ModelSuite

SMALL = {"img_size": 32, "dim": 16, "depth": 1, "heads": 2, "mlp_ratio": 2.0, "num_classes": 5}


class KatSuite(ModelSuite):
    family = "kat"
    # The others differ in widths and starts; all are counted below.
    names = ("kat_tiny_patch16_224",)
    small = (
        ModelCase(
            "kat_tiny_patch16_224", SMALL, input_size=(32, 32, 3), other_inputs=((48, 32, 3),)
        ),
    )


def test_every_published_size_has_its_exact_count():
    assert_every_size_has_its_exact_count("kat", KatSuite.names)


def test_multiply_adds_are_those_of_the_vit():
    """Rational functions are of numbers one by one, as activations are."""
    for size in ("tiny", "small", "base"):
        plain = default_multiply_adds(f"vit_{size}_patch16_224")
        assert default_multiply_adds(f"kat_{size}_patch16_224") == plain


def test_what_has_no_rational_form_is_refused():
    for fields in ({"parallel": 2}, {"moe": {"num_experts": 2}}):
        model = create_model("kat_tiny_patch16_224", **fields)
        with pytest.raises(UserError, match="rational MLPs do without moe, parallel"):
            model.block_type  # noqa: B018
