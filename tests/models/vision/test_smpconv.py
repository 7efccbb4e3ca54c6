"""SMPConv: the suite of every model, published counts and costs, the form after training."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import make_authors

from scanmax.errors import UserError
from scanmax.models import create_model
from scanmax.models.analysis import default_multiply_adds
from scanmax.models.blocks import stack_blocks
from scanmax.models.weights.load import named_leaves
from scanmax.testing import ModelCase, ModelSuite, compare
from scanmax.testing.model_suite import COMPILER_OPTIONS

TINY = {
    "dims": (4, 6),
    "depths": (1, 2),
    "heads": (1, 1),
    "mlp_ratio": 2.0,
    "kernel_sizes": (5, 3),
    "mixer_options": {"smp_reparam": {"small_size": 3}},
    "num_classes": 5,
}


class SmpConvSuite(ModelSuite):
    family = "smpconv"
    small = (
        ModelCase(
            "smpconv_t",
            TINY,
            input_size=(16, 16, 3),
            other_inputs=((24, 16, 3), (17, 22, 3)),
        ),
    )


@pytest.mark.parametrize(("name", "published"), [("smpconv_t", 5.7), ("smpconv_b", 16.6)])
def test_multiply_adds_are_the_papers(name, published):
    """The paper counts the taps, which are transforms here, and not how points make them."""
    model, taps, making = create_model(name), 0, 0
    for stage, (dim, depth) in enumerate(zip(model.dims, model.depths, strict=True)):
        size = model.kernel_sizes[stage]
        taps += depth * dim * (56 >> stage) ** 2 * size**2
        making += depth * dim * size**2 * (size**2 // 4)
    counted = (default_multiply_adds(name) + taps - making) / 1e9
    assert counted == pytest.approx(published, rel=0.01)


def test_one_kernel_a_mixer_gives_what_was_trained():
    with jax.enable_x64(True):
        model, variables, images, _ = make_authors.seeded_run("smpconv", jnp.float64)
        merged, fewer = model.merge(variables)
        shapes = jax.eval_shape(merged.init, jax.random.key(0), images)
        assert leaf_shapes(fewer) == leaf_shapes(shapes)
        # In front of branches and of the pooling alone.
        assert {path.split("/")[-2] for path in leaf_shapes(fewer) if "batch_stats" in path} == {
            "norm",
            "norm1",
            "norm2",
        }
        run = jax.jit(
            lambda old, new: (model.apply(old, images), merged.apply(new, images)),
            compiler_options=COMPILER_OPTIONS,
        )
        expected, actual = run(variables, fewer)
        compare.assert_relative(actual, expected, 1e-10)
    with pytest.raises(UserError, match="merged already"):
        merged.merge(fewer)


def test_scanned_layers_merge_as_looped_ones():
    fields = {"dims": (4,), "depths": (2,), "heads": (1,), "kernel_sizes": (5,)}
    model = create_model("smpconv_t", **{**TINY, **fields})
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda leaf: 1 + rng.random(leaf.shape, np.float32), nn.unbox(shapes))
    stacked = {name: stack_blocks(tree, "stage0_block") for name, tree in variables.items()}
    scanned, actual = model.clone(scan_layers=True).merge(stacked)
    assert scanned.scan_layers
    assert scanned.merged
    expected = stack_blocks(model.merge(variables)[1]["params"], "stage0_block")
    compare.assert_relative(actual["params"], expected, 1e-5)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"kernel_sizes": (5,)}, r"kernel_sizes=\(5,\): expected 2 entries"),
        ({"kernel_sizes": (5, 4)}, "kernel_size=4: these kernels have a middle"),
        ({"patch_size": 8}, "patch_size=8: the stem halves twice"),
    ],
)
def test_mistakes(fields, told):
    model = create_model("smpconv_t", **{**TINY, **fields})
    with pytest.raises(UserError, match=told):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))


def leaf_shapes(variables):
    return {path: leaf.shape for path, leaf in named_leaves(variables)}
