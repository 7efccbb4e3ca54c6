"""RALA: linear order with weights of tokens and a gate, for outputs of a higher rank."""

import jax.numpy as jnp
import numpy as np
import pytest

from scanmax import ops
from scanmax.ops import reference
from scanmax.testing import OpCase, OpSuite

HEADS, DIM, WIDTH = 2, 4, 3


class RalaAttentionTest(OpSuite):
    op = ops.rala_attention
    reference = reference.rala_attention
    cases = (
        OpCase(length=65, batch=(1, 2), forms=(None, "parallel"), options={"scale": 2.0}),
        OpCase(length=7, batch=(2,), turned=True, full=True),
    )
    errors = (
        ({"gate": lambda x: x[..., 1:]}, ValueError, "gate has shape .*the shape of value"),
        ({"turned_query": lambda x: x[..., 1:]}, ValueError, "turned_query has shape"),
        ({"key": lambda x: x[..., 1:]}, ValueError, "key has shape .*the shape of query"),
        ({"form": "chunked"}, ValueError, "form='chunked' is not one of"),
    )

    def make_args(self, rng, case):
        lead = (*case.batch, case.length, HEADS)
        sizes = {"query": DIM, "key": DIM, "value": WIDTH}
        if getattr(case, "turned", False):
            sizes |= {"turned_query": DIM, "turned_key": DIM}
        args = {name: rng.normal(size=(*lead, size)) for name, size in sizes.items()}
        if case.full:
            args["gate"] = rng.normal(size=args["value"].shape)
        return args


def _arrays(length=11, seed=0):
    rng = np.random.default_rng(seed)
    shapes = [(2, length, HEADS, size) for size in (DIM, DIM, WIDTH)]
    return tuple(jnp.asarray(rng.normal(size=shape)) for shape in shapes)


@pytest.mark.usefixtures("float64")
def test_matrix():
    query, key, value = _arrays()
    turned = {"turned_query": jnp.cos(query), "turned_key": jnp.sin(key)}
    matrix = ops.rala_attention_matrix(query, key, **turned)
    expected = reference.rala_attention_matrix(query, key, **turned)
    np.testing.assert_allclose(matrix, expected, rtol=1e-10, atol=1e-10)
    mixed = jnp.einsum("bhij,bjhv->bihv", matrix, value)
    y = ops.rala_attention(query, key, value, **turned)
    np.testing.assert_allclose(y, mixed, rtol=1e-10, atol=1e-10)


def test_a_query_without_features_reads_nothing():
    query, key, value = _arrays()
    query = query.at[:, 2].set(-1.0)
    y = ops.rala_attention(query, key, value, feature_map="relu", epsilon=0.0)
    np.testing.assert_array_equal(y[:, 2], 0)
