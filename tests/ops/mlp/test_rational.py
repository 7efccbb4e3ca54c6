"""Group rational functions: with their own gradient, which is autodiff's."""

import jax
import jax.numpy as jnp

from scanmax import ops
from scanmax.ops import reference
from scanmax.testing import OpCase, OpSuite


class GroupRationalTest(OpSuite):
    op = ops.group_rational
    reference = reference.group_rational
    cases = (
        OpCase(batch=(3,), width=4, tables=((1, 4), (2, 3)), full=True),
        OpCase(width=4, tables=((2, 6), (2, 4))),
        OpCase(batch=(2, 1), width=3, tables=((1, 1), (1, 1))),
        OpCase(batch=(2,), width=6, tables=((3, 2), (1, 2)), full=True),
        OpCase(batch=(3,), width=4, tables=((1, 4), (2, 3)), options={"sizes": "terms"}, full=True),
    )
    errors = (
        ({"x": lambda x: x[..., :3]}, ValueError, "G divides the 3 channels"),
        ({"numerator": jnp.ones((4, 2))}, ValueError, "expected 1 or G rows"),
        ({"numerator": jnp.ones(2)}, ValueError, r"numerator has shape \(2,\)"),
        ({"sizes": "all"}, ValueError, "sizes='all' is not one of"),
        ({"denominator": jnp.ones((2, 0))}, ValueError, r"denominator has shape \(2, 0\)"),
    )

    def make_args(self, rng, case):
        numerator, denominator = (rng.normal(size=size) for size in case.tables)
        x = rng.normal(size=(*case.batch, case.width))
        return {"x": x, "numerator": numerator, "denominator": denominator}


def test_the_identity_has_its_derivative_at_zero():
    tables = jnp.array([[0.0, 1.0]]), jnp.zeros((1, 4))
    slope = jax.grad(lambda x: ops.group_rational(x, *tables)[0])(jnp.zeros(1))
    assert float(slope[0]) == 1.0


def test_zeros_under_the_bars_learn_where_each_term_has_its_size():
    """As in the released kernels: |b| counts as b where b is 0, from which identities start."""

    def value(denominator):
        return ops.group_rational(
            jnp.array([-2.0]), jnp.array([[0.0, 1.0]]), denominator, sizes="terms"
        )[0]

    assert float(jax.grad(value)(jnp.zeros((1, 1)))[0, 0]) == 4.0
