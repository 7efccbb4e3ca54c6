"""LSNet: the suite of every model, published counts and costs, both heads, norms folded."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import make_authors
from models.vision.exact_counts import assert_every_size_has_its_exact_count

from scanmax.errors import UserError
from scanmax.models import create_model
from scanmax.models.analysis import default_multiply_adds
from scanmax.models.weights.load import named_leaves
from scanmax.testing import ModelCase, ModelSuite, compare
from scanmax.testing.model_suite import COMPILER_OPTIONS

TINY = {
    "img_size": 32,
    "dims": (8, 16),
    "depths": (2, 2),
    "heads": (1, 2),
    "key_dim": 4,
    "attention_stages": (1,),
    # Of fewer taps than the published 7 x 7: every tap is compiled.
    "mixer_options": {"ls_conv": {"kernel_size": 3, "shared": 4}},
    "num_classes": 5,
}


class LSNetSuite(ModelSuite):
    family = "lsnet"
    # The others differ in widths and depths; all are counted below.
    names = ("lsnet_t",)
    small = (
        ModelCase(
            "lsnet_t",
            TINY,
            input_size=(32, 32, 3),
            other_inputs=((48, 32, 3), (37, 42, 3)),
        ),
    )
    # The head's batch norm takes away what is added to all of the batch.
    vanishing = r"stage1_block_00/layer1/mlp/fc2/norm/bias"

    def map_side(self, size, stride):
        # Strided convolutions with a border keep the rest.
        return -(-size // stride)


def test_every_published_size_has_its_exact_count():
    assert_every_size_has_its_exact_count("lsnet", LSNetSuite.names)


@pytest.mark.parametrize(
    ("name", "published"), [("lsnet_t", 0.3), ("lsnet_s", 0.5), ("lsnet_b", 1.3)]
)
def test_multiply_adds_are_the_papers(name, published):
    # Told to one digit; it counts norms and the aggregation too, of which B has 0.016.
    assert default_multiply_adds(name) / 1e9 == pytest.approx(published, abs=0.06)


def test_folded_norms_and_both_heads():
    """The same numbers after `merge`: training with what is kept, and the mean of both heads."""
    with jax.enable_x64(True):
        model, variables, images, _ = make_authors.seeded_run("lsnet", jnp.float64)
        model = model.clone(frozen_statistics=True)
        merged, fewer = model.merge(variables)
        shapes = jax.eval_shape(merged.init, jax.random.key(0), images)
        assert leaf_shapes(fewer) == leaf_shapes(shapes)
        # Of LSNet's own convolution alone a norm is left.
        kept = {path.rsplit("/", 1)[0] for path in leaf_shapes(fewer) if "batch_stats" in path}
        assert kept == {"batch_stats/stage2_block_00/layer1/mixer/norm"}

        def both(old, new):
            return model.apply(old, images, train=True), merged.apply(new, images)

        run = jax.jit(both, compiler_options=COMPILER_OPTIONS)
        (first, second), actual = run(variables, fewer)
        assert np.abs(first - second).max() > 1e-2
        compare.assert_relative(actual, (first + second) / 2, 1e-10)
    with pytest.raises(UserError, match="merged already"):
        merged.merge(fewer)


def test_layers_come_by_turns():
    """Two a turn where the depth is even; every second one mixes as the stage says."""
    model = create_model("lsnet_s", mixer=("window", "ls_conv", "ls_conv", "ls_conv"))
    kinds = [
        [[layer["mixer"] for layer in turn["layers"]] for turn in model.block_fields(stage)]
        for stage in range(3)
    ]
    assert kinds == [
        [["dilated_reparam"]],
        [["dilated_reparam", "ls_conv"]],
        [["dilated_reparam", "ls_conv"]] * 4,
    ]
    turns = model.block_fields(3)
    assert [layer["table_grid"] for layer in turns[0]["layers"][1:]] == [(4, 4)]
    assert create_model("lsnet_t").block_fields(0) == []


def leaf_shapes(variables):
    return {path: leaf.shape for path, leaf in named_leaves(variables)}
