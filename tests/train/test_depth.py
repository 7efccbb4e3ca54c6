"""Long depth: 96 scanned layers are one program, as large as that of 12, and equal to a loop."""

import re

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import scanmax
from scanmax.models.blocks import stack_blocks, unstack_blocks
from scanmax.models.weights import load_weights

FIELDS = {"dim": 8, "heads": 2, "img_size": 4, "patch_size": 2, "mlp_ratio": 1.0}
IMAGES = np.random.default_rng(0).normal(size=(2, 4, 4, 3)).astype(np.float32)


def vit(depth, scan):
    return scanmax.create_model("vit_tiny_patch16_224", 3, depth=depth, scan_layers=scan, **FIELDS)


def program(depth):
    """Operations of the gradient, each by its name alone: compile time goes by their number."""
    model = vit(depth, True)
    variables = jax.eval_shape(
        lambda: nn.meta.unbox(model.init(jax.random.key(0), jnp.zeros((1, 4, 4, 3))))
    )

    def loss(variables, images):
        rngs = {"dropout": jax.random.key(0)}
        return model.apply(variables, images, train=True, rngs=rngs).sum()

    text = jax.jit(jax.grad(loss)).lower(variables, IMAGES).as_text()
    return re.findall(r"= \"?(\w+\.\w+|call|func\.\w+)", text)


def test_ninety_six_layers_are_the_program_of_twelve():
    """docs/make_scaling.py measures the seconds; they need a compiler without a cache."""
    short = program(12)
    assert len(short) > 100
    assert program(96) == short


def test_parameters_go_both_ways_and_give_the_same(tmp_path):
    model, looped = vit(96, True), vit(96, False)
    stacked = nn.meta.unbox(jax.jit(model.init)(jax.random.key(0), IMAGES))["params"]
    loose = unstack_blocks(stacked)
    assert loose["block_95"]["mlp"]["fc1"]["kernel"].shape == (8, 8)
    chex.assert_trees_all_equal(stack_blocks(loose), stacked)
    # The loader converts by itself, either way.
    for source, target, want in ((stacked, looped, loose), (loose, model, stacked)):
        found = nn.meta.unbox(load_weights(target, {"params": source}, (4, 4, 3)))["params"]
        chex.assert_trees_all_equal(found, want)
    scanned = jax.jit(model.apply)({"params": stacked}, IMAGES)
    np.testing.assert_allclose(looped.apply({"params": loose}, IMAGES), scanned, rtol=1e-5)
    assert np.ptp(scanned) > 0.1
