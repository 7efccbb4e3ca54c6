"""Level 6: every registered model keeps what the registry says of it.

Families with tests of their own have their suite there (tests/models).
"""

import ast
import pathlib

import pytest

from scanmax import papers
from scanmax.errors import UserError
from scanmax.models import create_model, list_models, model_info, registry
from scanmax.models.multiply_adds import MULTIPLY_ADDS
from scanmax.testing import ModelCase, ModelSuite

TESTS = pathlib.Path(__file__).parent
# Two stages, the second of which repeats its block.
STAGES = {"dims": (4, 8), "depths": (1, 2), "num_classes": 5}
TOKENS = {"dim": 8, "depth": 2, "vocab_size": 11}


class VitSuite(ModelSuite):
    family = "vit"
    remat = (True, "dots_saveable")
    small = (
        ModelCase(
            "deit_tiny_distilled_patch16_224",
            {"dim": 12, "depth": 2, "img_size": 16, "patch_size": 8, "num_classes": 5},
            input_size=(16, 16, 3),
            other_inputs=((24, 16, 3), (40, 40, 3)),
        ),
        ModelCase(
            "vit_small_patch16_18x2_224",
            {
                "dim": 12,
                "depth": 2,
                "img_size": 16,
                "patch_size": 8,
                "num_classes": 5,
                "layer_scale": 0.5,
                "stem": "hmlp_layer_norm",
            },
            input_size=(16, 16, 3),
            other_inputs=((24, 16, 3),),
        ),
    )


class ConvNextSuite(ModelSuite):
    family = "convnext"
    small = (
        ModelCase(
            "convnext_tiny",
            {**STAGES, "kernel_size": 3},
            input_size=(16, 16, 3),
            other_inputs=((32, 16, 3), (50, 40, 3)),
        ),
    )


class PyramidSuite(ModelSuite):
    family = "pyramid"
    small = (
        ModelCase(
            list_models(family="pyramid")[0],
            {**STAGES, "heads": (1, 2), "mixer": ("nc_ssd", "attention")},
            input_size=(16, 16, 3),
            other_inputs=((32, 16, 3),),
        ),
    )


class LanguageModelSuite(ModelSuite):
    family = "lm"
    small = (
        ModelCase("lm_tiny", {**TOKENS, "heads": 2}, input_size=(6,), other_inputs=((1,), (9,))),
    )


def test_every_family_has_one_suite():
    families = []
    for path in [pathlib.Path(__file__), *sorted(TESTS.glob("models/**/test_*.py"))]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and [ast.unparse(base) for base in node.bases] == [
                "ModelSuite"
            ]:
                families += [
                    ast.literal_eval(line.value)
                    for line in node.body
                    if isinstance(line, ast.Assign) and ast.unparse(line.targets[0]) == "family"
                ]
    assert sorted(families) == sorted({model_info(name).family for name in list_models()})


def test_every_variant_cites_a_known_paper_or_none():
    for name in list_models():
        assert model_info(name).paper in {"", *papers.TITLES}, name


def test_every_variant_stands_in_the_table_of_multiply_adds():
    assert sorted(MULTIPLY_ADDS) == list_models(), "run docs/make_multiply_adds.py"


def test_a_name_is_found_or_likened():
    assert "convnext_tiny" in list_models("convnext_*")
    assert list_models("nothing*") == []
    with pytest.raises(UserError, match="did you mean 'convnext_tiny'"):
        create_model("convnext_tinny")
    with pytest.raises(UserError, match=r"no field 'depht'.*'depth'"):
        create_model("lm_tiny", depht=3)
    with pytest.raises(UserError, match="vocab_size"):
        create_model("lm_tiny", num_classes=3)
    with pytest.raises(UserError, match="unknown family"):
        list_models(family="residual")


def test_two_families_cannot_share_a_name():
    row = {"lm_tiny": registry.Variant(1, (1,), "", {})}
    with pytest.raises(ValueError, match="lm_tiny"):
        registry.register_family("other", type(create_model("convnext_tiny")), row)
