"""MALA: linear order with a normalisation that keeps the magnitude of queries."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scanmax import ops
from scanmax.ops import reference
from scanmax.testing import OpCase, OpSuite

HEADS, DIM, WIDTH = 2, 4, 3


class MalaAttentionTest(OpSuite):
    op = ops.mala_attention
    reference = reference.mala_attention
    step = ops.mala_attention_step
    forms = ("chunked",)
    sequence = ("query", "key", "value", "turned_query", "turned_key")
    required_lengths = (7, 65)
    cases = (
        OpCase(length=65, batch=(1, 2), forms=("recurrent",), options={"is_causal": True}),
        OpCase(length=9, options={"feature_map": "taylor", "average": False, "epsilon": 0.0}),
        OpCase(
            length=7,
            batch=(2,),
            turned=True,
            full=True,
            options={"is_causal": True, "chunk_size": 3},
        ),
    )
    errors = (
        ({"turned_key": lambda x: x[..., 1:]}, ValueError, "turned_key has shape"),
        ({"turned_key": lambda x: None}, ValueError, "turned_query and turned_key come together"),
        ({"value": lambda x: x[..., :1, :]}, ValueError, "value has shape"),
        ({"initial_state": lambda x: x[..., 1:]}, ValueError, r"initial_state has .*K\+1, V\+1"),
        ({"is_causal": False}, ValueError, "initial_state and return_state .*is_causal=True"),
        ({"feature_map": "elo"}, ValueError, "feature_map='elo' is not one of"),
        ({"implementation": "cudnn"}, NotImplementedError, "mala_attention"),
    )

    def make_args(self, rng, case):
        lead = (*case.batch, case.length, HEADS)
        sizes = {"query": DIM, "key": DIM, "value": WIDTH}
        args = {name: rng.normal(size=(*lead, size)) for name, size in sizes.items()}
        if getattr(case, "turned", False):
            args |= {f"turned_{name}": rng.normal(size=(*lead, DIM)) for name in ("query", "key")}
        if case.full and case.options.get("is_causal"):
            state = rng.uniform(0.1, 1, size=(*case.batch, HEADS, DIM + 1, WIDTH + 1))
            # tokens are counted
            state[..., -1, -1] = rng.integers(1, 5, size=state.shape[:-2])
            args["initial_state"] = state
        return args


def _arrays(length=11, seed=0):
    rng = np.random.default_rng(seed)
    shapes = [(2, length, HEADS, size) for size in (DIM, DIM, WIDTH)]
    return tuple(jnp.asarray(rng.normal(size=shape)) for shape in shapes)


@pytest.mark.usefixtures("float64")
def test_matrices():
    query, key, value = _arrays()
    turned = {"turned_query": jnp.cos(query), "turned_key": jnp.sin(key)}
    for options in (
        {"epsilon": 0.0},
        {"epsilon": 0.0, "is_causal": True},
        {"average": False, **turned},
    ):
        matrix = ops.mala_attention_matrix(query, key, **options)
        expected = reference.mala_attention_matrix(query, key, **options)
        np.testing.assert_allclose(
            matrix, expected, rtol=1e-10, atol=1e-10, err_msg=str([*options])
        )
        if "turned_query" not in options:
            np.testing.assert_allclose(matrix.sum(-1), 1, atol=1e-10)
        if "is_causal" in options:
            assert not jnp.triu(matrix, 1).any()
    mixed = jnp.einsum("bhij,bjhv->bihv", matrix, value)
    y = ops.mala_attention(query, key, value, average=False, **turned)
    np.testing.assert_allclose(y, mixed, rtol=1e-10, atol=1e-10)


@pytest.mark.usefixtures("float64")
def test_the_released_order_of_operations():
    """MALA with positions, written as its authors evaluate it."""
    query, key, value = (np.asarray(x[0, :, 0], np.float64) for x in _arrays())
    phi_q, phi_k = (np.where(x > 0, x + 1, np.exp(np.minimum(x, 0))) for x in (query, key))
    turned_q, turned_k = np.cos(phi_q), np.sin(phi_k)
    scale, n = DIM**-0.5, len(query)
    z = phi_q @ phi_k.mean(0)[:, None] * scale
    kv = turned_k.T * (scale / n) ** 0.5 @ (value * (scale / n) ** 0.5)
    expected = turned_q @ kv * (1 + 1 / (z + 1e-6)) - z * value.mean(0)
    y = ops.mala_attention(
        *(jnp.asarray(x)[:, None] for x in (query, key, value)),
        turned_query=jnp.asarray(turned_q)[:, None],
        turned_key=jnp.asarray(turned_k)[:, None],
    )
    np.testing.assert_allclose(y[:, 0], expected, rtol=1e-10, atol=1e-10)


def test_a_query_without_features_reads_the_mean_with_finite_gradients():
    query, key, value = _arrays()
    query = query.at[:, 2].set(-1.0)

    def attend(query):
        return ops.mala_attention(query, key, value, feature_map="relu", epsilon=0.0)

    assert bool(jnp.isfinite(attend(query)).all())
    assert bool(jnp.isfinite(jax.grad(lambda q: attend(q).sum())(query)).all())


def test_training_memory_is_linear_in_tokens():
    def memory(length):
        token = jax.ShapeDtypeStruct((1, length, 2, 16), jnp.float32)
        loss = jax.grad(lambda *x: ops.mala_attention(*x, is_causal=True).sum(), (0, 1, 2))
        compiled = jax.jit(loss).lower(token, token, token).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert memory(4096) < 4.5 * memory(1024)
