"""An attention layer with these weights is the convolution, to the last digits."""

import jax.numpy as jnp
import numpy as np
import pytest

from scanmax import ops
from scanmax.ops import reference
from scanmax.testing import OpCase, OpSuite, compare


class ConvolutionAttentionWeightsTest(OpSuite):
    op = ops.convolution_attention_weights
    reference = reference.convolution_attention_weights
    accumulated = (0,)  # bias; the blocks are entries of the kernel
    cases = (
        OpCase(
            window=(3, 4),
            options={"patch_size": 2, "grid": (2, 3), "sharpness": 7.0},
            full=True,
        ),
        OpCase(window=(1, 5), options={"patch_size": 1, "grid": (1, 2)}),
    )
    errors = (
        ({"kernel": lambda x: x[0]}, ValueError, r"kernel has shape \(4, 2, 3\)"),
        ({"patch_size": 0}, ValueError, "patch_size=0"),
        ({"sharpness": -1.0}, ValueError, "sharpness=-1.0"),
    )

    def make_args(self, rng, case):
        return {"kernel": rng.normal(size=(*case.window, 2, 3))}


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("window", "patch", "heads"), [((3, 3), 2, 9), ((5, 5), 2, 9), ((7, 7), 2, 25), ((4, 1), 4, 3)]
)
def test_attention_with_them_convolves(window, patch, heads):
    rng = np.random.default_rng(0)
    grid = (3, 4)
    image = jnp.asarray(rng.normal(size=(2, grid[0] * patch, grid[1] * patch, 3)))
    kernel = jnp.asarray(rng.normal(size=(*window, 3, 2)))
    bias, out = ops.convolution_attention_weights(kernel, patch_size=patch, grid=grid)
    assert len(out) == heads
    x = ops.patchify(image, patch).reshape(2, 12, 1, -1)
    value = jnp.concatenate([x, jnp.zeros_like(x[:, :1])], 1)  # and the sink
    # Zero queries and keys: the bias alone decides, and all heads read the same values.
    query, key = jnp.zeros((2, 12, heads, 1)), jnp.zeros((2, 13, 1, 1))
    heads_read = ops.dot_product_attention(query, key, value, bias)
    y = jnp.einsum("bthd,hde->bte", heads_read, out)
    expected = ops.patchify(ops.conv2d(image, kernel), patch).reshape(2, 12, -1)
    compare.assert_relative(y, expected, 1e-12)
