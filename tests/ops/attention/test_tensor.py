"""Third-order attention: by blocks of pairs, as one tensor, and by a polynomial's factors."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scanmax import ops
from scanmax.ops import reference
from scanmax.testing import OpCase, OpSuite

NAMES = ("query", "first_key", "second_key", "first_value", "second_value")


def make_args(rng, case, names=NAMES):
    heads, width, value_width = 2, 3, 4
    args = {}
    for name in names:
        length = case.length if name == "query" else getattr(case, "keys", case.length)
        size = value_width if "value" in name else width
        args[name] = rng.normal(size=(*case.batch, length, heads, size))
    kind = getattr(case, "mask", None)
    if kind == "full":
        args["mask"] = rng.uniform(size=(*case.batch, heads, case.length, case.length)) < 0.6
        args["mask"][..., 2, :] = False
    elif kind == "keys":
        args["mask"] = np.arange(case.length)[None, None] < case.length - 2
    return args


class KhatriRaoTest(OpSuite):
    op = ops.khatri_rao
    reference = reference.khatri_rao
    cases = (OpCase(batch=(2,), full=True), OpCase())
    errors = (({"right": lambda x: x[..., 1:]}, ValueError, "right has shape .*beside left"),)

    def make_args(self, rng, case):
        left, right = (rng.normal(size=(*case.batch, rows, 3)) for rows in (4, 2))
        return {"left": left, "right": right}


class TensorAttentionTest(OpSuite):
    op = ops.tensor_attention
    reference = reference.tensor_attention
    forms = ("chunked", "parallel")
    sequence = NAMES
    required_lengths = (1, 7)
    cases = (
        OpCase(length=7, batch=(2,), full=True, mask="full", options={"chunk_size": (3, 2, 4)}),
        OpCase(length=7, mask="keys", forms=("chunked",), options={"chunk_size": (4, 3, 2)}),
        OpCase(length=1, batch=(1, 2), forms=("chunked",), options={"is_causal": True}),
        OpCase(length=13, options={"is_causal": True, "chunk_size": (4, 3, 5), "scale": 0.7}),
        OpCase(length=5, keys=9, forms=("chunked",), options={"chunk_size": 4}),
    )
    errors = (
        ({"second_key": lambda x: x[..., 1:]}, ValueError, "second_key has shape"),
        ({"second_value": lambda x: x[..., 1:]}, ValueError, "second_value has shape"),
        ({"mask": jnp.ones((7, 6), bool)}, ValueError, "mask has shape .*broadcast to"),
        ({"mask": jnp.ones((7, 7))}, ValueError, "mask has dtype .*expected bool"),
        ({"form": "sideways"}, ValueError, "form='sideways' is not one of"),
        ({"chunk_size": (3, 2)}, ValueError, "chunk_size=.*three of them"),
    )
    make_args = staticmethod(make_args)

    def poison(self, arrays, case):
        if getattr(case, "mask", None) != "keys":
            return None
        hidden = {name: arrays[name].at[..., -2:, :, :].set(jnp.nan) for name in NAMES[1:]}
        return {**arrays, **hidden}

    def empty_rows(self, arrays, case):
        if getattr(case, "mask", None) != "full":
            return None
        return np.arange(case.length)[None] == 2


class TensorAttentionWeightsTest(OpSuite):
    op = ops.tensor_attention_weights
    reference = reference.tensor_attention_weights
    cases = (
        OpCase(length=4, batch=(2,), full=True, options={"is_causal": True}),
        OpCase(length=5, mask="full"),
    )
    errors = (({"first_key": lambda x: x[..., 1:]}, ValueError, "first_key has shape"),)

    def make_args(self, rng, case):
        return make_args(rng, case, NAMES[:3])


class TensorAttentionPolyTest(OpSuite):
    op = ops.tensor_attention_poly
    reference = reference.tensor_attention_poly
    step = ops.tensor_attention_poly_step
    sequence = NAMES
    required_lengths = (1, 7)
    cases = (
        OpCase(length=7, batch=(2,), full=True, options={"is_causal": True, "chunk_size": 3}),
        OpCase(length=1, batch=(1, 2), options={"is_causal": True, "degree": 4, "bound": 2.0}),
        OpCase(length=6, keys=8, options={"degree": 4, "bound": 1.5, "scale": 0.5}),
    )
    errors = (
        ({"second_key": lambda x: x[..., 1:]}, ValueError, "second_key has shape"),
        ({"initial_state": lambda x: x[..., 1:]}, ValueError, "initial_state has shape"),
        ({"is_causal": False}, ValueError, "initial_state and return_state .*is_causal=True"),
        ({"degree": 0}, ValueError, "degree=0; expected at least 1"),
        ({"bound": 0.0}, ValueError, "bound=0.0; expected a positive number"),
        ({"chunk_size": 0}, ValueError, "chunk_size=0; expected at least 1"),
    )

    def make_args(self, rng, case):
        args = make_args(rng, case)
        if case.full:
            # sums of the past whose total of weights is positive
            shape = (*case.batch, 2, 2, math.comb(5, 2), 5)
            state = 0.1 * rng.normal(size=shape)
            state[..., 0, :] += 5
            args["initial_state"] = state
        return args


class TensorAttentionPolyBothWaysTest(OpSuite):
    """Without a state: every token reads all pairs."""

    op = ops.tensor_attention_poly
    reference = reference.tensor_attention_poly
    cases = (OpCase(length=5, full=True, resume=False, options={"chunk_size": 3}),)
    make_args = staticmethod(make_args)


def inputs(length, bound, heads=1, width=4):
    """Entries uniform in [-bound, bound]; the values are plain normals."""
    rng = np.random.default_rng(0)
    shape = (length, heads, width)
    keys = [jnp.asarray(bound * rng.uniform(-1, 1, size=shape)) for _ in range(3)]
    values = [jnp.asarray(rng.normal(size=shape)) for _ in range(2)]
    return (*keys, *values)


@pytest.mark.usefixtures("float64")
def test_it_is_the_papers_softmax_of_khatri_rao_products():
    q, k1, k2, v1, v2 = (np.asarray(x, np.float64)[:, 0] for x in inputs(6, 2.0))
    keys = np.stack([np.kron(k1[:, d], k2[:, d]) for d in range(4)], -1)
    values = np.stack([np.kron(v1[:, d], v2[:, d]) for d in range(4)], -1)
    scores = np.exp(q @ keys.T / 4)
    expected = scores / scores.sum(-1, keepdims=True) @ values
    actual = ops.tensor_attention(*inputs(6, 2.0), form="chunked", chunk_size=4)
    np.testing.assert_allclose(actual[:, 0], expected, rtol=1e-10, atol=1e-10)


@pytest.mark.usefixtures("float64")
def test_constant_second_tokens_leave_attention():
    q, k1, _, v1, _ = inputs(9, 2.0)
    ones = jnp.ones_like(q)
    actual = ops.tensor_attention(q, k1, ones, v1, ones, scale=0.5)
    expected = ops.dot_product_attention(q, k1, v1, scale=0.5)
    np.testing.assert_allclose(actual, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("form", ["parallel", "chunked"])
def test_large_logits_do_not_overflow(form):
    arrays = inputs(6, 1.0)

    def attend(query):
        return ops.tensor_attention(query, *arrays[1:], scale=1e4, form=form).sum()

    value, gradient = jax.value_and_grad(attend)(arrays[0])
    assert bool(jnp.isfinite(value))
    assert bool(jnp.isfinite(gradient).all())


def test_the_polynomials_error_falls_with_degree_and_grows_with_the_entries():
    errors = {}
    for bound in (1.0, 2.0):
        arrays = inputs(12, bound)
        exact = ops.tensor_attention(*arrays)
        for degree in (2, 4):
            y = ops.tensor_attention_poly(*arrays, degree=degree)
            errors[bound, degree] = float(jnp.abs(y - exact).max())
    assert errors[1.0, 2] > 20 * errors[1.0, 4]
    assert errors[2.0, 2] > 2 * errors[2.0, 4]
    assert all(errors[2.0, degree] > 20 * errors[1.0, degree] for degree in (2, 4))
    # at its bound the Chebyshev interpolation is closer than Taylor
    arrays = inputs(12, 2.0)
    largest = float(jnp.abs(jnp.einsum("thd,jhd,khd->tjk", *arrays[:3])).max()) / 4
    y = ops.tensor_attention_poly(*arrays, degree=4, bound=largest)
    assert float(jnp.abs(y - ops.tensor_attention(*arrays)).max()) < errors[2.0, 4]


def test_training_memory_is_below_one_matrix_over_tokens():
    def memory(op, length, **options):
        token = jax.ShapeDtypeStruct((length, 1, 4), jnp.float32)

        def loss(*arrays):
            return op(*arrays, **options).sum()

        compiled = jax.jit(jax.grad(loss, range(5))).lower(*[token] * 5).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert memory(ops.tensor_attention, 2048, form="chunked", chunk_size=16) < 2048**2
    # the sums of each token, R by V, would be 15 * 5 * 2048 * 2 * 4 bytes
    poly = memory(ops.tensor_attention_poly, 2048, is_causal=True, chunk_size=8)
    assert poly < 2048 * 15 * 5 * 2 * 4
    # the features of all tokens would be three times 2048 * 15 * 4 bytes, and their gradients
    assert memory(ops.tensor_attention_poly, 2048, chunk_size=64) < 2048 * 15 * 4 * 3
