"""CvT: the suite of every model, the names of the release, and the published costs."""

import jax
import numpy as np
import pytest
from models.vision.exact_counts import assert_every_size_has_its_exact_count

from scanmax.models import create_model
from scanmax.models.analysis import default_multiply_adds
from scanmax.models.weights.load import key_table, named_leaves
from scanmax.models.weights.table import convert
from scanmax.testing import ModelCase, ModelSuite

SMALL = {"dims": (8, 16), "depths": (1, 2), "heads": (1, 2), "num_classes": 5}


class CvtSuite(ModelSuite):
    family = "cvt"
    # Those at 384 pixels are the same; all are counted below.
    names = ("cvt_13", "cvt_w24")
    small = (
        ModelCase("cvt_13", SMALL, input_size=(16, 16, 3), other_inputs=((24, 16, 3), (27, 34, 3))),
    )
    # The softmax takes away what all keys share: where a class token stands among them, which no
    # convolution has seen, that is no more what their norms add. Nothing reads the pixels of the
    # last block, nor what they ask.
    vanishing = (
        r"stage0_block.*/mixer/key(_norm)?/bias|stage\d_block.*/mixer/key/bias|"
        r"(stage2_block_09|stage2_block_19|stage1_block_01)/mixer/query_.*"
    )


def test_every_published_size_has_its_exact_count():
    assert_every_size_has_its_exact_count("cvt", CvtSuite.names)


@pytest.mark.parametrize(("name", "published"), [("cvt_13", 4.5), ("cvt_21", 7.1)])
def test_multiply_adds_are_the_papers(name, published):
    assert default_multiply_adds(name) / 1e9 == pytest.approx(published, rel=0.02)


def test_names_of_the_release():
    """Each place of ours has a tensor of the release's names, every one of which has a place."""
    model = create_model("cvt_13", **SMALL)
    example = jax.ShapeDtypeStruct((1, 16, 16, 3), np.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), example)
    shapes = {path: leaf.shape for path, leaf in named_leaves(variables)}
    names = {"stage1.cls_token": (1, 1, 16)}
    for stage, (dim, width, size) in enumerate(((8, 3, 7), (16, 8, 3))):
        names |= layer(f"stage{stage}.patch_embed.proj", dim, width, size, size)
        names |= layer(f"stage{stage}.patch_embed.norm", dim)
        for block in (f"stage{stage}.blocks.{index}" for index in range(1 + stage)):
            for letter in "qkv":
                names[f"{block}.attn.conv_proj_{letter}.conv.weight"] = (dim, 1, 3, 3)
                norm = f"{block}.attn.conv_proj_{letter}.bn"
                names |= layer(norm, dim)
                names |= {f"{norm}.{part}": (dim,) for part in ("running_mean", "running_var")}
                names |= layer(f"{block}.attn.proj_{letter}", dim, dim)
            names |= layer(f"{block}.attn.proj", dim, dim)
            names |= layer(f"{block}.norm1", dim) | layer(f"{block}.norm2", dim)
            names |= layer(f"{block}.mlp.fc1", 4 * dim, dim)
            names |= layer(f"{block}.mlp.fc2", dim, 4 * dim)
    names |= layer("norm", 16) | layer("head", 5, 16)
    tensors = {name: np.zeros(shape, np.float32) for name, shape in names.items()}
    _, problems = convert(tensors, key_table(model).rows, shapes)
    assert not problems, problems


def layer(name, dim, *rest):
    return {f"{name}.weight": (dim, *rest), f"{name}.bias": (dim,)}
