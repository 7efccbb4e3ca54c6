"""The delta rule, plain and gated."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scanmax import ops
from scanmax.ops import reference
from scanmax.testing import OpCase, OpSuite, compare

FORMS = ("recurrent", "chunked", "parallel")


def make_args(rng, case, with_value=True):
    heads, dim, width = 2, 4, 3
    lead = (*case.batch, case.length, heads)
    key = rng.normal(size=(*lead, dim))
    args = {
        "query": rng.normal(size=(*lead, dim)),
        "key": key / np.linalg.norm(key, axis=-1, keepdims=True),
        "value": rng.normal(size=(*lead, width)),
        # beyond 1 the state turns over
        "beta": rng.uniform(0, 1.8, size=lead),
        "log_decay": -rng.exponential(0.3, size=lead) if case.gated else None,
    }
    if hasattr(case, "packed"):
        args["segment_ids"] = np.sort(rng.integers(0, 4, size=lead[:-1]), -1)
    if not with_value:
        del args["value"]
    return args


def test_every_form_of_a_long_sequence_keeps_float32s_tolerance():
    case = OpCase(length=777, gated=False)
    arrays = make_args(np.random.default_rng(0), case)
    arrays = {name: jnp.asarray(x, jnp.float32) for name, x in arrays.items() if x is not None}
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        wide = {name: x.astype(jnp.float64) for name, x in arrays.items()}
        expected = ops.delta_rule(**wide, form="recurrent")
        for form in FORMS:
            compare.assert_rms(ops.delta_rule(**arrays, form=form), expected, 2e-6)
        compare.assert_relative(ops.delta_rule(**wide, form="parallel"), expected, 1e-12)


class DeltaRuleTest(OpSuite):
    op = ops.delta_rule
    reference = reference.delta_rule
    step = ops.delta_rule_step
    forms = FORMS
    sequence = ("query", "key", "value", "beta", "log_decay", "segment_ids")
    required_lengths = (1, 7, 65)
    cases = (
        OpCase(length=1, gated=False),
        OpCase(length=65, batch=(1, 2), gated=True, packed=True, options={"chunk_size": 16}),
        OpCase(length=65, gated=False, forms=("chunked",), options={"chunk_size": 64}),
        OpCase(
            length=7,
            batch=(2,),
            gated=True,
            full=True,
            # the parallel form is one chunk
            forms=("recurrent", "chunked"),
            options={"chunk_size": 3, "scale": 0.5},
        ),
        OpCase(
            length=9,
            gated=True,
            packed=True,
            full=True,
            resume=False,
            options={"chunk_size": 4, "scale": 0.5, "is_causal": False},
        ),
        OpCase(length=1, batch=(2,), gated=False, options={"is_causal": False}),
    )
    errors = (
        ({"is_causal": False}, ValueError, "need is_causal=True"),
        ({"key": lambda x: x[..., 1:]}, ValueError, "key has shape .*the shape of query"),
        ({"value": lambda x: x[..., :1, :]}, ValueError, "value has shape"),
        ({"beta": lambda x: x[..., 1:]}, ValueError, r"beta has shape .*\[\*B, T, H\]"),
        ({"log_decay": lambda x: x[..., 1:]}, ValueError, "log_decay has shape"),
        ({"segment_ids": np.zeros(3, int)}, ValueError, "segment_ids has shape"),
        ({"initial_state": lambda x: x[..., 1:]}, ValueError, "initial_state has shape"),
        ({"form": "sideways"}, ValueError, "form='sideways' is not one of"),
        ({"implementation": "pallas"}, NotImplementedError, "delta_rule"),
    )
    make_args = staticmethod(make_args)


class DeltaRuleMatrixTest(OpSuite):
    op = ops.delta_rule_matrix
    reference = reference.delta_rule_matrix
    cases = (
        OpCase(length=9, batch=(2,), gated=True, full=True, options={"scale": 0.5}),
        OpCase(length=9, gated=False, packed=True),
        OpCase(length=9, gated=True, packed=True, full=True, options={"is_causal": False}),
    )
    errors = (({"beta": lambda x: x[..., 1:]}, ValueError, "beta has shape"),)

    def make_args(self, rng, case):
        return make_args(rng, case, with_value=False)


def _inputs(length, gated=True):
    case = OpCase(length=length, gated=gated)
    made = make_args(np.random.default_rng(0), case)
    return {name: jnp.asarray(x) for name, x in made.items() if x is not None}


@pytest.mark.usefixtures("float64")
def test_the_matrix_is_the_product_of_the_tokens_maps_between_two_tokens():
    given = {name: np.asarray(x, np.float64) for name, x in _inputs(8).items()}
    q, k, beta, decay = (given[n] for n in ("query", "key", "beta", "log_decay"))
    expected = np.zeros((2, 8, 8))
    for h in range(2):
        for i in range(8):
            for j in range(i + 1):
                between = np.eye(4)
                for t in range(j + 1, i + 1):
                    kept = np.eye(4) - beta[t, h] * np.outer(k[t, h], k[t, h])
                    between = np.exp(decay[t, h]) * kept @ between
                expected[h, i, j] = q[i, h] @ between @ k[j, h] * beta[j, h]
    value = given.pop("value")
    matrix = ops.delta_rule_matrix(**given)
    np.testing.assert_allclose(matrix, expected, rtol=1e-10, atol=1e-10)
    y = ops.delta_rule(value=value, **given, chunk_size=3)
    doubled = np.einsum("hij,jhv->ihv", expected, value)
    np.testing.assert_allclose(y, doubled, rtol=1e-10, atol=1e-10)


def test_a_key_is_bound_to_its_last_value_alone():
    keys = jnp.eye(4, dtype=jnp.float32)[jnp.array([0, 1, 2, 0, 1, 0])][:, None]
    values = jnp.arange(6.0)[:, None, None]
    _, state = ops.delta_rule(keys, keys, values, jnp.ones((6, 1)), return_state=True)
    np.testing.assert_allclose(state[0, :, 0], [5.0, 4.0, 2.0, 0.0], atol=1e-6)


@pytest.mark.usefixtures("float64")
def test_with_orthogonal_keys_it_is_linear_attention():
    keys = jnp.eye(4)[:, None]
    given = _inputs(4)
    query, value, decay = given["query"], given["value"][:, :1], given["log_decay"][:, :1]
    y = ops.delta_rule(query[:, :1], keys, value, jnp.ones((4, 1)), log_decay=decay)
    expected = ops.linear_attention(query[:, :1], keys, value, log_decay=decay)
    np.testing.assert_allclose(y, expected, rtol=1e-10, atol=1e-10)
    both = {"log_decay": decay, "is_causal": False}
    y = ops.delta_rule(query[:, :1], keys, value, jnp.ones((4, 1)), **both)
    expected = ops.linear_attention(query[:, :1], keys, value, **both)
    np.testing.assert_allclose(y, expected, rtol=1e-10, atol=1e-10)


def test_equal_keys_and_infinite_decays_keep_digits_and_finite_gradients():
    # the hardest system: every key the same, every token written in full
    given = _inputs(100)
    given["key"] = jnp.broadcast_to(given["key"][:1], given["key"].shape)
    given["beta"] = jnp.ones_like(given["beta"])
    given["log_decay"] = (given["log_decay"] * 1e-2).at[50].set(-jnp.inf)
    with jax.enable_x64(True):
        exact = reference.delta_rule(**{n: jnp.asarray(x, jnp.float64) for n, x in given.items()})
    exact = np.asarray(exact)

    def attend(given):
        y = ops.delta_rule(**given, chunk_size=32)
        return y.sum(), y

    gradients, y = jax.jit(jax.grad(attend, has_aux=True))(given)
    assert np.linalg.norm(np.asarray(y, np.float64) - exact) < 5e-6 * np.linalg.norm(exact)
    assert all(bool(jnp.isfinite(g).all()) for g in gradients.values())


def test_training_memory_is_linear_in_tokens():
    heads, dim = 2, 32

    def memory(length):
        token = jax.ShapeDtypeStruct((1, length, heads, dim), jnp.float32)
        scalar = jax.ShapeDtypeStruct((1, length, heads), jnp.float32)
        loss = jax.grad(
            lambda q, k, v, b, a: ops.delta_rule(q, k, v, b, log_decay=a, chunk_size=32).sum(),
            (0, 1, 2, 3, 4),
        )
        compiled = jax.jit(loss).lower(token, token, token, scalar, scalar).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    small, large = memory(1024), memory(4096)
    assert large < 4.5 * small
    all_states = 4096 * heads * dim * dim * 4
    assert large < 1.2 * all_states
