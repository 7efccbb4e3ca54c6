"""MALA, InLine and RALA: linear order with other normalisations than a division."""

import jax
import jax.numpy as jnp
import numpy as np

from scanmax import ops
from scanmax.ops import reference
from scanmax.testing import OpCase, OpSuite

HEADS, DIM, WIDTH = 2, 4, 3


def make_args(rng, case, names=("query", "key", "value")):
    lead = (*case.batch, case.length, HEADS)
    args = {name: rng.normal(size=(*lead, WIDTH if name == "value" else DIM)) for name in names}
    if getattr(case, "turned", False):
        args |= {f"turned_{name}": rng.normal(size=(*lead, DIM)) for name in ("query", "key")}
    if case.full and case.options.get("is_causal") and "value" in names:
        state = rng.uniform(0.1, 1, size=(*case.batch, HEADS, DIM + 1, WIDTH + 1))
        # tokens are counted
        state[..., -1, -1] = rng.integers(1, 5, size=state.shape[:-2])
        args["initial_state"] = state
    return args


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
    make_args = staticmethod(make_args)


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
    make_args = staticmethod(make_args)


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
        args = make_args(rng, case)
        if case.full:
            args["gate"] = rng.normal(size=args["value"].shape)
        return args


def _arrays(length=11, seed=0):
    rng = np.random.default_rng(seed)
    shapes = [(2, length, HEADS, size) for size in (DIM, DIM, WIDTH)]
    return tuple(jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes)


def _matrices(module, query, key):
    turned = {"turned_query": jnp.cos(query), "turned_key": jnp.sin(key)}
    return {
        "mala": module.mala_attention_matrix(query, key, epsilon=0.0),
        "mala, causal": module.mala_attention_matrix(query, key, epsilon=0.0, is_causal=True),
        "mala, turned": module.mala_attention_matrix(query, key, average=False, **turned),
        "inline": module.inline_attention_matrix(query, key, feature_map="elu", scale=0.2),
        "inline, causal": module.inline_attention_matrix(query, key, is_causal=True),
        "rala, turned": module.rala_attention_matrix(query, key, **turned),
    }


def test_matrices():
    query, key, value = _arrays()
    matrices = _matrices(ops, query, key)
    expected = _matrices(reference, query, key)
    for name, matrix in matrices.items():
        np.testing.assert_allclose(matrix, expected[name], rtol=1e-4, atol=1e-5, err_msg=name)
        if "turned" not in name:
            np.testing.assert_allclose(matrix.sum(-1), 1, atol=1e-5, err_msg=name)
        assert "causal" not in name or not jnp.triu(matrix, 1).any()
    turned = {"turned_query": jnp.cos(query), "turned_key": jnp.sin(key)}
    for name, y in (
        ("mala, turned", ops.mala_attention(query, key, value, average=False, **turned)),
        ("inline, causal", ops.inline_attention(query, key, value, is_causal=True)),
        ("rala, turned", ops.rala_attention(query, key, value, **turned)),
    ):
        mixed = jnp.einsum("bhij,bjhv->bihv", matrices[name], value)
        np.testing.assert_allclose(y, mixed, rtol=1e-3, atol=1e-4, err_msg=name)


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
        *(jnp.asarray(x, jnp.float32)[:, None] for x in (query, key, value)),
        turned_query=jnp.asarray(turned_q, jnp.float32)[:, None],
        turned_key=jnp.asarray(turned_k, jnp.float32)[:, None],
    )
    np.testing.assert_allclose(y[:, 0], expected, rtol=1e-4, atol=1e-5)


def test_a_query_without_features_reads_the_mean_with_finite_gradients():
    query, key, value = _arrays()
    query = query.at[:, 2].set(-1.0)

    def attend(query):
        return ops.mala_attention(query, key, value, feature_map="relu", epsilon=0.0)

    assert bool(jnp.isfinite(attend(query)).all())
    assert bool(jnp.isfinite(jax.grad(lambda q: attend(q).sum())(query)).all())
    np.testing.assert_array_equal(
        ops.rala_attention(query, key, value, feature_map="relu", epsilon=0.0)[:, 2], 0
    )


def test_training_memory_is_linear_in_tokens():
    def memory(length):
        token = jax.ShapeDtypeStruct((1, length, 2, 16), jnp.float32)
        loss = jax.grad(lambda *x: ops.mala_attention(*x, is_causal=True).sum(), (0, 1, 2))
        compiled = jax.jit(loss).lower(token, token, token).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert memory(4096) < 4.5 * memory(1024)
