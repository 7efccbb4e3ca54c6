"""The taps of LightConv and DynamicConv: as many weights as the paper counts."""

import jax
import jax.numpy as jnp
import pytest

from scanmax.models.mixers import create_mixer


@pytest.mark.parametrize(("name", "count"), [("lightconv", 112), ("dynamicconv", 1024 * 112)])
def test_the_weights_of_the_paper(name, count):
    mixer = create_mixer(name, heads=16, options={"kernel_size": 7})
    x = jax.ShapeDtypeStruct((1, 3, 1024), jnp.float32)
    taps = jax.eval_shape(mixer.init, jax.random.key(0), x)["params"]["taps"]
    assert sum(leaf.size for leaf in jax.tree.leaves(taps)) == count
