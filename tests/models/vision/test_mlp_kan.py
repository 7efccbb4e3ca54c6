"""MLP-KAN: the suite of every model, counts, and what it does without."""

import pytest
from models.vision.exact_counts import assert_every_size_has_its_exact_count

from scanmax.errors import UserError
from scanmax.models import create_model, model_info
from scanmax.testing import ModelCase, ModelSuite

SMALL = {"img_size": 32, "dim": 16, "depth": 1, "heads": 2, "num_classes": 5}


class MlpKanSuite(ModelSuite):
    family = "mlp_kan"
    # The others differ in widths and are counted below.
    names = ("mlp_kan_tiny_patch16_224",)
    small = (
        ModelCase(
            "mlp_kan_tiny_patch16_224",
            {**SMALL, "moe": {"num_experts": 4}},
            input_size=(32, 32, 3),
            other_inputs=((48, 32, 3),),
        ),
    )


def test_every_size_has_its_exact_count():
    assert_every_size_has_its_exact_count("mlp_kan", MlpKanSuite.names)


@pytest.mark.parametrize(("size", "dim"), [("tiny", 192), ("small", 384), ("base", 768)])
def test_counts_are_deits_with_experts_for_mlps(size, dim):
    """And those of the released code, less the MLPs and centers that it keeps without learning."""
    width, hidden = 192, 96
    mlp, expert = 8 * dim * dim + 5 * dim, 2 * dim * width + width + dim
    kan = 2 * dim + dim * 8 * hidden + 2 * hidden + hidden * 8 * dim
    block = 8 * dim + 4 * expert + 4 * kan - mlp - 3 * dim  # no biases of queries, keys, values
    params = model_info(f"mlp_kan_{size}_patch16_224").params
    assert params == model_info(f"deit_{size}_patch16_224").params + 12 * block
    released = {"tiny": 23_470_504, "small": 57_537_640, "base": 157_522_408}
    assert params == released[size] - 12 * (mlp + 4 * 2 * 8)


def test_what_has_no_experts_of_two_kinds_is_refused():
    model = create_model("mlp_kan_tiny_patch16_224", parallel=2)
    with pytest.raises(UserError, match="do without parallel and token_reduction"):
        model.block_type  # noqa: B018
