"""Scaling attention: both orders of evaluation, and its causal form."""

import jax.numpy as jnp
import numpy as np
import pytest

from scanmax import ops
from scanmax.ops import reference
from scanmax.testing import OpCase, OpSuite


def make_args(rng, case, width=2):
    lead, heads, dim = (*case.batch, case.length), 2, 3
    args = {
        "query": rng.normal(size=(*lead, heads, dim)),
        "key": rng.normal(size=(*lead, heads, dim)),
        "value": rng.normal(size=(*lead, heads, width)),
    }
    if case.full and case.resume and width:
        state = rng.normal(size=(*case.batch, heads, dim + 1, width + 1))
        # tokens are counted: a number around zero is none that a state has
        state[..., -1, -1] = rng.integers(1, 5, size=state.shape[:-2])
        args["initial_state"] = state
    return args if width else {name: args[name] for name in ("query", "key")}


class ScalingAttentionTest(OpSuite):
    op = ops.scaling_attention
    reference = reference.scaling_attention
    step = ops.scaling_attention_step
    forms = ("chunked",)
    sequence = ("query", "key", "value")
    required_lengths = (1, 7, 65)
    cases = (
        OpCase(length=1),
        OpCase(length=65, batch=(1, 2), options={"is_causal": True}),
        OpCase(length=65, forms=("chunked", "parallel"), options={"scale": 2.0}),
        OpCase(length=7, batch=(2,), full=True, options={"is_causal": True, "chunk_size": 3}),
    )
    errors = (
        ({"key": lambda x: x[..., 1:]}, ValueError, "key has shape .*the shape of query"),
        ({"value": lambda x: x[..., :1, :]}, ValueError, "value has shape"),
        ({"initial_state": lambda x: x[..., 1:]}, ValueError, r"initial_state has .*K\+1, V\+1"),
        ({"is_causal": False}, ValueError, "initial_state and return_state .*is_causal=True"),
        ({"form": "sideways"}, ValueError, "form='sideways' is not one of"),
        ({"implementation": "cudnn"}, NotImplementedError, "scaling_attention"),
    )
    make_args = staticmethod(make_args)


class ScalingAttentionMatrixTest(OpSuite):
    op = ops.scaling_attention_matrix
    reference = reference.scaling_attention_matrix
    cases = (
        OpCase(length=5, batch=(2,), full=True, options={"is_causal": True}),
        OpCase(length=4, options={"scale": 0.5}),
    )

    def make_args(self, rng, case):
        return make_args(rng, case, width=0)


@pytest.mark.usefixtures("float64")
def test_the_matrix_is_the_logits_over_the_tokens():
    rng = np.random.default_rng(0)
    query, key, value = (jnp.asarray(rng.normal(size=(6, 1, 4))) for _ in range(3))
    matrix = (query[:, 0] @ key[:, 0].T) / 2 / 6
    np.testing.assert_allclose(
        ops.scaling_attention_matrix(query, key)[0], matrix, rtol=1e-10, atol=1e-10
    )
    y = ops.scaling_attention(query, key, value)
    np.testing.assert_allclose(y[:, 0], matrix @ value[:, 0], rtol=1e-10, atol=1e-10)
