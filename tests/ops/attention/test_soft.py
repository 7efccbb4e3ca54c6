"""Softmax-free attention: the kernel, its Nystrom factors, and the pseudo-inverse by Newton."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scanmax import ops
from scanmax.ops import reference
from scanmax.testing import OpCase, OpSuite


class NewtonPinvTest(OpSuite):
    op = ops.newton_pinv
    reference = reference.newton_pinv
    cases = (
        OpCase(batch=(2,), size=4, full=True),
        OpCase(size=3, options={"start": "halved", "ridge": 0.1, "num_steps": 4}),
        OpCase(size=3, options={"ridge": 0.1, "num_steps": 2}),
        # equal row sums: the start without halving would end at zero
        OpCase(size=1, options={"start": "halved"}),
    )
    errors = (
        ({"matrix": lambda x: x[..., 1:]}, ValueError, "matrix has shape .*need square"),
        ({"matrix": lambda x: x[0, 0]}, ValueError, "matrix has shape .*at least 2 axes"),
        ({"start": "warm"}, ValueError, "start='warm' is not one of"),
        ({"gradient": "none"}, ValueError, "gradient='none' is not one of"),
    )

    def make_args(self, rng, case):
        matrix = rng.normal(size=(*case.batch, case.size, case.size))
        return {"matrix": matrix @ np.swapaxes(matrix, -1, -2) + np.eye(case.size)}


def make_args(rng, case, with_value=True):
    heads, width, value_width, landmarks = 2, 3, 4, 4
    args = {
        "query": rng.normal(size=(*case.batch, case.length, heads, width)),
        "value": rng.normal(size=(*case.batch, case.length, heads, value_width)),
        # far enough apart that A is well conditioned: in float32 its inverse keeps its digits
        "landmarks": 3 * rng.normal(size=(*case.batch, landmarks, heads, width))
        if case.landmarks
        else None,
    }
    if not with_value:
        del args["value"]
    return args


class SoftAttentionTest(OpSuite):
    op = ops.soft_attention
    reference = reference.soft_attention
    sequence = ("query", "value")
    required_lengths = (1, 7)
    cases = (
        OpCase(length=7, batch=(2,), landmarks=True, full=True, options={"num_steps": 10}),
        OpCase(length=1, landmarks=True, options={"normalize": True, "scale": 0.5}),
        OpCase(length=9, batch=(1, 2), landmarks=True, options={"ridge": 0.1, "num_steps": 5}),
        OpCase(length=9, landmarks=False),
    )
    errors = (
        ({"value": lambda x: x[..., :1, :]}, ValueError, r"value has shape .*\[\*B, T, H, V\]"),
        ({"landmarks": lambda x: x[..., 1:]}, ValueError, r"landmarks has shape .*\[\*B, M, H, K"),
        ({"landmarks": lambda x: x[..., :0, :, :]}, ValueError, "at least one landmark"),
        ({"landmarks": None, "normalize": True}, ValueError, "normalize=True belongs to"),
        ({"start": "warm"}, ValueError, "start='warm' is not one of"),
    )
    make_args = staticmethod(make_args)


class SoftAttentionMatrixTest(OpSuite):
    op = ops.soft_attention_matrix
    reference = reference.soft_attention_matrix
    cases = (
        OpCase(length=5, landmarks=True, full=True, options={"normalize": True}),
        OpCase(length=5, batch=(2,), landmarks=False),
    )
    errors = (({"landmarks": lambda x: x[..., 1:]}, ValueError, "landmarks has shape"),)

    def make_args(self, rng, case):
        return make_args(rng, case, with_value=False)

    def test_the_matrix_applied_to_the_values_is_the_op(self):
        for case in self.cases:
            arrays, options = self.inputs(case)
            value = jnp.asarray(make_args(np.random.default_rng(1), case)["value"])
            y = jnp.einsum("...hts,...shv->...thv", self.op(**arrays, **options), value)
            expected = ops.soft_attention(value=value, **arrays, **options)
            np.testing.assert_allclose(y, expected, rtol=1e-10, atol=1e-12)


def gram(rng, size, rank=None):
    points = 2 * rng.normal(size=(size, 3))
    points = points if rank is None else points[np.arange(size) % rank]
    return np.exp(-((points[:, None] - points[None]) ** 2).sum(-1) / 2)


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def test_the_fixed_start_takes_its_norms_before_the_ridge(x64):
    matrix = np.array([[2.0, 1.0], [1.0, 3.0]])  # norms 4 and 4
    actual = ops.newton_pinv(jnp.asarray(matrix), num_steps=0, ridge=0.5)
    np.testing.assert_allclose(actual, 1.8 / 16 * (matrix + 0.5 * np.eye(2)), rtol=1e-12)
    actual = ops.newton_pinv(jnp.asarray(matrix), num_steps=0, ridge=0.5, start="halved")
    np.testing.assert_allclose(actual, 1.998 / 4.5**2 * (matrix + 0.5 * np.eye(2)), rtol=1e-12)


@pytest.mark.parametrize("start", ["fixed", "halved"])
def test_newton_finds_numpys_pseudo_inverse(x64, start):
    rng = np.random.default_rng(0)
    # a Gram matrix, one of repeated points (singular), a tall and a wide one
    for matrix in (gram(rng, 6), gram(rng, 6, rank=4), rng.normal(size=(5, 2)), np.ones((2, 3))):
        gradient = "inverse" if matrix.shape[0] == matrix.shape[1] else "pinv"
        actual = ops.newton_pinv(jnp.asarray(matrix), start=start, gradient=gradient, num_steps=30)
        np.testing.assert_allclose(actual, np.linalg.pinv(matrix), atol=1e-8)


def test_the_gradient_is_that_of_numpys_pseudo_inverse_at_any_constant_rank(x64):
    rng = np.random.default_rng(1)
    for rows, columns, rank in ((4, 4, 4), (4, 4, 2), (5, 3, 3), (3, 5, 2)):
        left, right = rng.normal(size=(rows, rank)), rng.normal(size=(rank, columns))
        d_left, d_right = rng.normal(size=(rows, rank)), rng.normal(size=(rank, columns))
        matrix, tangent = left @ right, d_left @ right + left @ d_right
        cotangent = rng.normal(size=(columns, rows))
        pull_back = jax.vjp(lambda a: ops.newton_pinv(a, gradient="pinv"), jnp.asarray(matrix))[1]
        step = 1e-6
        ends = [
            np.linalg.pinv((left + s * d_left) @ (right + s * d_right), rcond=1e-9)
            for s in (step, -step)
        ]
        expected = np.sum(cotangent * (ends[0] - ends[1]) / (2 * step))
        actual = np.sum(pull_back(jnp.asarray(cotangent))[0] * tangent)
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


def test_the_unrolled_gradient_passes_through_every_step(x64):
    matrix = jnp.asarray(gram(np.random.default_rng(4), 4))
    options = {"num_steps": 3, "start": "halved"}

    def sums(module, **gradient):
        return lambda a: jnp.sum(jnp.sin(module.newton_pinv(a, **options, **gradient)))

    expected = jax.grad(sums(reference))(matrix)
    unrolled = jax.grad(sums(ops, gradient="unrolled"))(matrix)
    np.testing.assert_allclose(unrolled, expected, rtol=1e-10, atol=1e-12)
    # far from convergence the closed form is another
    assert float(jnp.abs(jax.grad(sums(ops))(matrix) - expected).max()) > 1e-3


def test_all_tokens_as_landmarks_give_the_kernel(x64):
    rng = np.random.default_rng(2)
    query = jnp.asarray(2 * rng.normal(size=(12, 2, 5)))
    value = jnp.asarray(rng.normal(size=(12, 2, 3)))
    exact = ops.soft_attention(query, value)
    y = ops.soft_attention(query, value, query, ridge=0.0)
    np.testing.assert_allclose(y, exact, rtol=1e-8, atol=1e-8)
    distances = np.sum((np.asarray(query)[:, None] - np.asarray(query)[None]) ** 2, -1)
    kernel = np.exp(-distances / (2 * np.sqrt(5)))
    np.testing.assert_allclose(exact, np.einsum("tsh,shv->thv", kernel, value), rtol=1e-10)


def test_the_symmetric_normalisation_bounds_what_newton_makes_large(x64):
    # tokens that resemble each other: A is nearly singular, its inverse huge
    rng = np.random.default_rng(3)
    query = jnp.asarray(0.5 * rng.normal(size=(64, 1, 4)))
    landmarks = query[::4]
    options = {"ridge": 0.0, "start": "halved"}
    plain = ops.soft_attention_matrix(query, landmarks, **options)
    normalised = ops.soft_attention_matrix(query, landmarks, normalize=True)
    norms = [float(jnp.linalg.norm(m[0], 2)) for m in (plain, normalised)]
    # D >= 1, and about the number of landmarks where all are alike
    assert norms[1] < norms[0] / 4
    np.testing.assert_allclose(normalised, jnp.swapaxes(normalised, -1, -2), atol=1e-8)
    assert float(jnp.linalg.eigvalsh(normalised[0]).min()) > -1e-6


def test_training_memory_is_linear_in_tokens_with_landmarks_and_without():
    def memory(length, landmarks):
        token = jax.ShapeDtypeStruct((1, length, 1, 8), jnp.float32)
        marks = jax.ShapeDtypeStruct((1, 16, 1, 8), jnp.float32) if landmarks else None

        def loss(query, value, marks):
            return ops.soft_attention(query, value, marks).sum()

        compiled = jax.jit(jax.grad(loss, (0, 1))).lower(token, token, marks).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert memory(4096, True) < 4096 * 16 * 4 * 12
    assert memory(4096, False) < 4096 * 4096 * 4 / 4
