"""InLine: linear order whose rows sum to one by a subtraction."""

import jax.numpy as jnp
import numpy as np
import pytest

from scanmax import ops
from scanmax.ops import reference
from scanmax.testing import OpCase, OpSuite

HEADS, DIM, WIDTH = 2, 4, 3


class InlineAttentionTest(OpSuite):
    op = ops.inline_attention
    reference = reference.inline_attention
    step = ops.inline_attention_step
    sequence = ("query", "key", "value")
    required_lengths = (1, 7, 65)
    cases = (
        OpCase(length=1, options={"is_causal": True}),
        OpCase(length=65, batch=(1, 2), options={"is_causal": True, "feature_map": "relu"}),
        OpCase(length=6, forms=(None, "parallel"), options={"average": False, "scale": 0.1}),
        OpCase(length=7, batch=(2,), full=True, resume=False),
    )
    errors = (({"return_state": True}, ValueError, "initial_state and return_state"),)

    def make_args(self, rng, case):
        lead = (*case.batch, case.length, HEADS)
        sizes = {"query": DIM, "key": DIM, "value": WIDTH}
        return {name: rng.normal(size=(*lead, size)) for name, size in sizes.items()}


def _arrays(length=11, seed=0):
    rng = np.random.default_rng(seed)
    shapes = [(2, length, HEADS, size) for size in (DIM, DIM, WIDTH)]
    return tuple(jnp.asarray(rng.normal(size=shape)) for shape in shapes)


@pytest.mark.usefixtures("float64")
def test_matrices():
    query, key, value = _arrays()
    for options in (
        {"feature_map": "elu", "scale": 0.2},
        {"is_causal": True},
    ):
        matrix = ops.inline_attention_matrix(query, key, **options)
        expected = reference.inline_attention_matrix(query, key, **options)
        np.testing.assert_allclose(
            matrix, expected, rtol=1e-10, atol=1e-10, err_msg=str([*options])
        )
        np.testing.assert_allclose(matrix.sum(-1), 1, atol=1e-10)
    assert not jnp.triu(matrix, 1).any()
    mixed = jnp.einsum("bhij,bjhv->bihv", matrix, value)
    y = ops.inline_attention(query, key, value, is_causal=True)
    np.testing.assert_allclose(y, mixed, rtol=1e-10, atol=1e-10)
