"""The six EvoNorms against their equations, and what the paper says of them."""

import chex
import jax.numpy as jnp
import numpy as np

from scanmax import ops
from scanmax.ops import reference
from scanmax.testing import OpCase, OpSuite


class EvoNormSuite(OpSuite):
    """Maps of six channels, with and without batch axes, gain and offset."""

    __test__ = False
    vectors = ("v", "scale", "bias")
    cases = (
        OpCase(shape=(2, 3, 4, 6), full=True),
        OpCase(shape=(1, 5, 6), plain=True, options={"epsilon": 0.1}),
        OpCase(shape=(2, 1, 3, 1, 6)),
    )
    errors = (
        ({"variance": jnp.ones(5)}, ValueError, r"variance has shape \(5,\)"),
        ({"x": jnp.ones((3, 6))}, ValueError, "x has shape"),
        ({"bias": jnp.ones(5)}, ValueError, "bias has shape"),
    )

    def make_args(self, rng, case):
        left_out = ("scale", "bias") if hasattr(case, "plain") else ()
        names = [name for name in self.vectors if name not in left_out]
        vectors = {name: rng.normal(size=6) for name in names}
        given = {"x": 0.5 + rng.normal(size=case.shape), **vectors}
        if "variance" in self.parameters:
            given["variance"] = rng.uniform(0.5, 2, size=6)
        return given


class EvoNormB0Test(EvoNormSuite):
    op = ops.evonorm_b0
    reference = reference.evonorm_b0
    errors = (*EvoNormSuite.errors, ({"v": jnp.ones(5)}, ValueError, "v has shape"))


class EvoNormB1Test(EvoNormSuite):
    op = ops.evonorm_b1
    reference = reference.evonorm_b1
    cases = EvoNormSuite.cases[:2]
    vectors = ("scale", "bias")


class EvoNormB2Test(EvoNormSuite):
    op = ops.evonorm_b2
    reference = reference.evonorm_b2
    cases = EvoNormSuite.cases[:2]
    vectors = ("scale", "bias")


class GroupedSuite(EvoNormSuite):
    __test__ = False
    vectors = ("scale", "bias")
    cases = (
        OpCase(shape=(2, 3, 4, 6), options={"groups": 3}, full=True),
        OpCase(shape=(1, 5, 6), plain=True, options={"groups": 1, "epsilon": 0.1}),
        OpCase(shape=(2, 1, 3, 2, 6), options={"groups": 6}),
    )
    errors = (
        ({"groups": 4}, ValueError, "groups=4 does not divide"),
        ({"scale": jnp.ones(5)}, ValueError, "scale has shape"),
        ({"x": jnp.ones((3, 6))}, ValueError, "x has shape"),
    )


class EvoNormS0Test(GroupedSuite):
    op = ops.evonorm_s0
    reference = reference.evonorm_s0
    vectors = ("v", "scale", "bias")
    errors = (*GroupedSuite.errors, ({"v": jnp.ones(5)}, ValueError, "v has shape"))


class EvoNormS1Test(GroupedSuite):
    op = ops.evonorm_s1
    reference = reference.evonorm_s1
    cases = GroupedSuite.cases[:2]


class EvoNormS2Test(GroupedSuite):
    op = ops.evonorm_s2
    reference = reference.evonorm_s2
    cases = GroupedSuite.cases[:2]


def maps(shape=(4, 3, 5, 6)):
    return jnp.asarray(0.5 + np.random.default_rng(0).normal(size=shape), jnp.float32)


def test_s0_is_silu_over_the_deviation_that_group_norm_divides_by():
    x = maps()
    y = ops.evonorm_s0(x, jnp.ones(6), groups=3)
    groups = x.reshape(4, 15, 3, 2)
    deviation = jnp.std(groups, (1, 3), keepdims=True)
    expected = (x * (1 / (1 + jnp.exp(-x)))).reshape(groups.shape) / deviation
    chex.assert_trees_all_close(y, expected.reshape(x.shape), rtol=1e-4, atol=1e-5)


def test_the_s_layers_do_not_know_the_batch():
    x = maps()
    for layer in (ops.evonorm_s1, ops.evonorm_s2):
        chex.assert_trees_all_close(layer(x, groups=2)[:1], layer(x[:1], groups=2), rtol=1e-6)


def test_b0_of_a_flat_image_is_batch_norm_that_is_not_centred():
    # Images without contrast, and no slope: the batch's deviation is the larger one.
    x = jnp.broadcast_to(maps((4, 1, 1, 6)), (4, 3, 5, 6))
    variance = ops.batch_statistics(x)[1]
    y = ops.evonorm_b0(x, variance, jnp.zeros(6))
    expected = ops.batch_norm(x, jnp.zeros(6), variance)
    chex.assert_trees_all_close(y, expected, rtol=1e-5)
