"""Cross-covariance attention."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scanmax import ops
from scanmax.ops import reference
from scanmax.testing import OpCase, OpSuite


class CrossCovarianceAttentionTest(OpSuite):
    op = ops.cross_covariance_attention
    reference = reference.cross_covariance_attention
    cases = (
        OpCase(length=7, batch=(2,), full=True),
        OpCase(length=65, batch=(1, 2), options={"temperature": 3.0}),
        OpCase(length=1),
    )
    errors = (
        ({"value": lambda x: x[..., 1:]}, ValueError, "value has shape .*the shape of query"),
        ({"temperature": lambda x: x[1:]}, ValueError, r"temperature has shape .*\[H\]"),
        ({"key": lambda x: x[..., 1:]}, ValueError, "key has shape"),
    )

    def make_args(self, rng, case):
        shape = (*case.batch, case.length, 2, 3)
        args = {name: rng.normal(size=shape) for name in ("query", "key", "value")}
        return args | ({"temperature": rng.uniform(0.5, 3, size=2)} if case.full else {})


def _matrix(module, query, key):
    return module.cross_covariance_matrix(query, key, temperature=jnp.array([0.5, 2.0]))


@pytest.mark.usefixtures("float64")
def test_the_matrix_and_what_it_is_applied_to():
    rng = np.random.default_rng(0)
    query, key, value = (jnp.asarray(rng.normal(size=(3, 9, 2, 4))) for _ in range(3))
    matrix = _matrix(ops, query, key)
    np.testing.assert_allclose(matrix, _matrix(reference, query, key), rtol=1e-10)
    np.testing.assert_allclose(matrix.sum(-1), 1, rtol=1e-10)
    y = ops.cross_covariance_attention(query, key, value, temperature=jnp.array([0.5, 2.0]))
    mixed = jnp.einsum("bhcd,bthd->bthc", matrix, value)
    np.testing.assert_allclose(y, mixed, rtol=1e-10, atol=1e-10)
    # tokens have no order: queries and keys permuted together leave the matrix as it is
    order = rng.permutation(9)
    np.testing.assert_allclose(_matrix(ops, query[:, order], key[:, order]), matrix, rtol=1e-10)


def test_a_channel_of_zeros_has_finite_gradients():
    x = jnp.zeros((5, 1, 2)).at[..., 1].set(1.0)

    def attend(x):
        return ops.cross_covariance_attention(x, x, x).sum()

    assert bool(jnp.isfinite(jax.grad(attend)(x)).all())
    logits = jax.grad(lambda q: (ops.cross_covariance_matrix(q, x) ** 2).sum())(x)
    assert float(jnp.abs(logits).max()) < 10, "the direction of nothing has a gradient"
