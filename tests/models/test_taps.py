"""Taps: the same activations and the same gradients however the blocks are run."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scanmax.models import create_model
from scanmax.models.blocks import stack_blocks, unstack_blocks
from scanmax.models.taps import read_taps

SMALL = {"img_size": 8, "patch_size": 4, "dim": 8, "depth": 2, "heads": 2, "num_classes": 3}
PATHS = ("block_00/output", "block_01/output")


@functools.cache
def run(**fields):
    """(taps, gradients of a sum of squares with respect to each block's output) in float64."""
    with jax.enable_x64(True):
        model = create_model(
            "vit_tiny_patch16_224", **SMALL, dtype=jnp.float64, param_dtype=jnp.float64, **fields
        )
        images = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 8, 3)))
        looped = model.clone(scan_layers=False, remat=False)
        params = nn.unbox(jax.jit(looped.init)(jax.random.key(0), images)["params"])
        variables = {"params": stack_blocks(params) if model.scan_layers else params}

        def loss(taps, variables):
            logits, sown = model.apply(
                {**variables, "taps": taps}, images, mutable=["intermediates"]
            )
            return jnp.sum(jnp.square(logits)), read_taps(sown["intermediates"])

        shape = (2, 5, 8)
        if model.scan_layers:
            taps = {"blocks": {"output": jnp.zeros((2, *shape))}}
        else:
            taps = {f"block_{i:02d}": {"output": jnp.zeros(shape)} for i in range(2)}
        found, values = jax.jit(jax.grad(loss, has_aux=True))(taps, variables)
        found = unstack_blocks(found) if model.scan_layers else found
        return (
            {path: values[path] for path in PATHS},
            {path: found[path.split("/")[0]]["output"] for path in PATHS},
        )


@pytest.mark.parametrize(
    "fields",
    [{"remat": True}, {"scan_layers": True}, {"scan_layers": True, "remat": True}],
    ids=["remat", "scan", "scan-remat"],
)
def test_taps_do_not_depend_on_how_blocks_run(fields):
    values, gradients = run()
    other_values, other_gradients = run(**fields)
    for path in PATHS:
        np.testing.assert_allclose(other_values[path], values[path], rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(other_gradients[path], gradients[path], rtol=1e-11, atol=1e-12)
        assert float(jnp.abs(gradients[path]).max()) > 1e-4


def test_a_taps_gradient_is_a_difference_quotient():
    with jax.enable_x64(True):
        model = create_model(
            "vit_tiny_patch16_224", **SMALL, dtype=jnp.float64, param_dtype=jnp.float64
        )
        images = jnp.asarray(np.random.default_rng(1).normal(size=(1, 8, 8, 3)))
        params = model.init(jax.random.key(0), images)["params"]
        direction = jnp.asarray(np.random.default_rng(2).normal(size=(1, 5, 8)))

        def loss(step):
            taps = {"block_00": {"output": step * direction}}
            return jnp.sum(jnp.square(model.apply({"params": params, "taps": taps}, images)))

        slope = (loss(1e-6) - loss(-1e-6)) / 2e-6
        np.testing.assert_allclose(jax.grad(loss)(0.0), slope, rtol=1e-6)
