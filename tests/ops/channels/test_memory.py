"""Largest activations and product-key memories."""

import jax.numpy as jnp
import numpy as np

from scanmax import ops
from scanmax.ops import reference
from scanmax.testing import OpCase, OpSuite


def draw_apart(rng, shape):
    order = rng.permuted(np.tile(np.arange(shape[-1] * 1.0), (*shape[:-1], 1)), axis=-1)
    return order - 1.3 + rng.uniform(-0.2, 0.2, size=shape)


class TopKActivationTest(OpSuite):
    op = ops.top_k_activation
    reference = reference.top_k_activation
    cases = (
        OpCase(batch=(2,), options={"top_k": 2}, full=True),
        OpCase(options={"top_k": 5}),
        OpCase(batch=(1, 2), options={"top_k": 1}),
    )
    errors = (({"top_k": 6}, ValueError, "top_k=6 with x of shape"),)

    def make_args(self, rng, case):
        return {"x": draw_apart(rng, (*case.batch, 5))}

    def test_of_equal_ones_the_first_stay(self):
        x = jnp.array([1.0, 2.0, 1.0, 1.0])
        for top_k, expected in ((1, [0, 2, 0, 0]), (3, [1, 2, 1, 0])):
            y = ops.top_k_activation(x, top_k=top_k)
            np.testing.assert_array_equal(y, expected)
            np.testing.assert_array_equal(reference.top_k_activation(x, top_k=top_k), expected)


def draw_halves(rng, case):
    first, second = case.sizes
    # Sums of these differ by more than rounding, whichever two they are of.
    one = draw_apart(rng, (*case.batch, first))
    return {"first": one, "second": draw_apart(rng, (*case.batch, second)) * 0.617}


class ProductKeyTopKTest(OpSuite):
    op = ops.product_key_top_k
    reference = reference.product_key_top_k
    cases = (
        OpCase(batch=(2,), sizes=(3, 4), options={"top_k": 2}, full=True),
        OpCase(sizes=(2, 3), options={"top_k": 6}),
        OpCase(batch=(1, 2), sizes=(9, 7), options={"top_k": 5}),
    )
    errors = (
        ({"top_k": 13}, ValueError, r"top_k=13: expected 1 to 3 \* 4"),
        ({"second": lambda z: z[:1]}, ValueError, "second has shape"),
    )

    def make_args(self, rng, case):
        return draw_halves(rng, case)


class ProductKeyMemoryTest(OpSuite):
    op = ops.product_key_memory
    reference = reference.product_key_memory
    cases = (
        OpCase(batch=(2,), sizes=(3, 4), options={"top_k": 3}, full=True),
        OpCase(sizes=(2, 3), options={"top_k": 4, "weights": "softmax"}),
    )
    errors = (
        ({"values": lambda z: z[1:]}, ValueError, r"values has shape .*\[12, V\]"),
        ({"weights": "tanh"}, ValueError, "weights='tanh' is not one of"),
    )

    def make_args(self, rng, case):
        values = rng.normal(size=(case.sizes[0] * case.sizes[1], 2))
        return {**draw_halves(rng, case), "values": values}
