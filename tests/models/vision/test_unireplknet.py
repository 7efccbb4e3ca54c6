"""UniRepLKNet: the suite of every model, published counts and costs, the form after training."""

import json
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import make_authors
from models.vision.exact_counts import assert_every_size_has_its_exact_count

from scanmax.errors import UserError
from scanmax.models import create_model, model_info
from scanmax.models.analysis import default_multiply_adds
from scanmax.models.blocks import stack_blocks
from scanmax.models.weights.load import key_table, named_leaves
from scanmax.models.weights.table import convert
from scanmax.testing import ModelCase, ModelSuite, compare
from scanmax.testing.model_suite import COMPILER_OPTIONS

# Kernels of fewer taps than the published ones: every tap is compiled.
TINY = {
    "dims": (8, 16),
    "depths": (1, 4),
    "heads": (1, 1),
    "kernel_sizes": ((1,), (3, 1)),
    "num_classes": 5,
}


class UniRepLKNetSuite(ModelSuite):
    family = "unireplknet"
    # The others differ in widths, depths and turns; all are counted below.
    names = ("unireplknet_t",)
    small = (
        ModelCase(
            "unireplknet_t",
            TINY,
            input_size=(16, 16, 3),
            other_inputs=((24, 16, 3), (17, 22, 3)),
        ),
    )
    # Behind it stands a batch norm, which takes away what is the same everywhere.
    vanishing = r".*/mlp/response_bias"


def test_every_published_size_has_its_exact_count():
    assert_every_size_has_its_exact_count("unireplknet", UniRepLKNetSuite.names)


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("unireplknet_a", 0.6),
        ("unireplknet_f", 0.9),
        ("unireplknet_p", 1.6),
        ("unireplknet_n", 2.8),
        ("unireplknet_t", 4.9),
        ("unireplknet_s", 9.1),
        ("unireplknet_b", 47.2),
        ("unireplknet_l", 105.4),
        ("unireplknet_xl", 187.0),
    ],
)
def test_multiply_adds_are_the_papers(name, published):
    """The paper counts the form after training: without the branches beside the large kernels."""
    model, taps = create_model(name), 0
    side = model_info(name).input_size[0] // model.patch_size
    for stage, (dim, depth, turn) in enumerate(
        zip(model.dims, model.depths, model.kernel_sizes, strict=True)
    ):
        # 5 x 5, 7 x 7 and three of 3 x 3 taps.
        large = depth // len(turn) * turn.count(13)
        taps += large * dim * (side >> stage) ** 2 * (25 + 49 + 3 * 9)
    merged = (default_multiply_adds(name) - taps) / 1e9
    assert merged == pytest.approx(published, rel=0.01, abs=0.05)


def test_one_kernel_a_layer_gives_what_was_trained():
    with jax.enable_x64(True):
        model, variables, images, _ = make_authors.seeded_run("unireplknet", jnp.float64)
        merged, fewer = model.merge(variables)
        assert set(fewer) == {"params"}
        shapes = jax.eval_shape(merged.init, jax.random.key(0), images)
        assert leaf_shapes(fewer) == leaf_shapes(shapes)
        run = jax.jit(
            lambda old, new: (model.apply(old, images), merged.apply(new, images)),
            compiler_options=COMPILER_OPTIONS,
        )
        expected, actual = run(variables, fewer)
        compare.assert_relative(actual, expected, 1e-10)
    with pytest.raises(UserError, match="merged already"):
        merged.merge(fewer)


def test_scanned_layers_merge_as_looped_ones():
    fields = {"dims": (8,), "depths": (2,), "heads": (1,), "kernel_sizes": ((3,),)}
    model = create_model("unireplknet_t", **{**TINY, **fields})
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda leaf: 1 + rng.random(leaf.shape, np.float32), nn.unbox(shapes))
    stacked = {name: stack_blocks(tree, "stage0_block") for name, tree in variables.items()}
    scanned, actual = model.clone(scan_layers=True).merge(stacked)
    assert scanned.scan_layers
    assert scanned.merged
    expected = stack_blocks(model.merge(variables)[1]["params"], "stage0_block")
    compare.assert_relative(actual["params"], expected, 1e-5)


def test_the_released_form_after_training_has_its_place():
    """Names and shapes that the authors' code has once it has folded its branches."""
    names = json.loads((make_authors.HERE / "author_names.json").read_text())["unireplknet"]
    folded = re.compile(r".*(_bn|dil_|\d\.norm\.|\.beta|pwconv2\.2).*|stages\.\d\.\d+\.gamma")
    kept = {name: shape for name, shape in names.items() if not folded.fullmatch(name)}
    for name, shape in list(kept.items()):
        if re.search(r"dwconv|pwconv2", name):
            kept[name.replace("weight", "bias")] = shape[:1]
    model = make_authors.small_model("unireplknet").clone(merged=True, layer_scale=None)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    tensors = {name: np.zeros(shape, np.float32) for name, shape in kept.items()}
    _, problems = convert(tensors, key_table(model).rows, leaf_shapes(shapes))
    assert not problems, problems


def test_mistakes():
    for sizes, message in (
        (((3,),), "must name kernels for 2 stages"),
        (((1,), (5, 3, 3)), "4 layers are no multiple of the 3 kernels of stage 1"),
    ):
        model = create_model("unireplknet_t", **{**TINY, "kernel_sizes": sizes})
        with pytest.raises(UserError, match=message):
            jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))


def leaf_shapes(variables):
    return {path: leaf.shape for path, leaf in named_leaves(variables)}
