"""Convolutions of tokens as maps: tap by tap, and as the linear maps that they can be."""

import jax.numpy as jnp
import numpy as np
import pytest

from scanmax import ops
from scanmax.ops import reference
from scanmax.testing import OpCase, OpSuite


class SharedConv2dTest(OpSuite):
    op = ops.shared_conv2d
    reference = reference.shared_conv2d
    cases = (
        OpCase(batch=(2,), map=(4, 3), kernel=(3, 2), full=True),
        OpCase(map=(4, 3), kernel=(5, 4)),
        OpCase(map=(4, 3), kernel=(3, 2), options={"padding": "VALID"}),
        OpCase(map=(4, 3), kernel=(4, 3), full=True, options={"padding": "VALID"}),
    )
    errors = (
        ({"padding": "LENS"}, ValueError, "padding='LENS' is not one of"),
        ({"kernel": lambda z: z[0]}, ValueError, "kernel"),
    )

    def make_args(self, rng, case):
        return {
            "x": rng.normal(size=(*case.batch, 2, *case.map)),
            "kernel": rng.normal(size=(*case.kernel, 3)),
        }


def test_kernels_larger_than_the_map_are_refused():
    with pytest.raises(ValueError, match="has to fit into maps of"):
        ops.shared_conv2d(jnp.ones((1, 2, 2)), jnp.ones((3, 1, 1)), padding="VALID")


@pytest.mark.usefixtures("float64")
def test_kernels_as_large_as_the_map_are_a_linear_map_of_the_channels():
    rng = np.random.default_rng(0)
    tokens, weight = jnp.asarray(rng.normal(size=(5, 12))), jnp.asarray(rng.normal(size=(12, 7)))
    y = ops.shared_conv2d(tokens.reshape(5, 3, 4), weight.reshape(3, 4, 7), padding="VALID")
    assert y.shape == (5, 1, 1, 7)
    np.testing.assert_allclose(y[:, 0, 0], tokens @ weight, rtol=1e-13)
