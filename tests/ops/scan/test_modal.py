"""Modal state spaces: recurrence, convolution, and the singular values of filters."""

import jax
import jax.numpy as jnp
import numpy as np

from scanmax import ops
from scanmax.ops import reference
from scanmax.testing import OpCase, OpSuite, compare

FORMS = ("recurrent", "chunked", "parallel")


def poles(rng, dim=2, modes=3):
    return {
        "log_magnitude": -rng.uniform(0.01, 1, size=(dim, modes)),
        "angle": rng.uniform(0, np.pi, size=(dim, modes)),
        "residue": rng.normal(size=(dim, modes, 2)),
        "D": rng.normal(size=dim),
    }


class ModalSsmTest(OpSuite):
    op = ops.modal_ssm
    reference = reference.modal_ssm
    step = ops.modal_ssm_step
    forms = FORMS
    sequence = ("x",)
    required_lengths = (1, 13)
    cases = (
        OpCase(length=5, batch=(2,), full=True, options={"chunk_size": 2}),
        OpCase(length=13, batch=(1, 2), options={"chunk_size": 4}),
        OpCase(length=1, forms=("parallel", "chunked"), options={"return_state": True}),
    )
    errors = (
        ({"angle": lambda x: x[:1]}, ValueError, r"angle has shape .*\[D, N\]"),
        ({"residue": lambda x: x[..., :1]}, ValueError, r"residue has shape .*\[D, N, 2\]"),
        ({"D": lambda x: x[:1]}, ValueError, "D has shape"),
        ({"initial_state": lambda x: x[..., :1]}, ValueError, "initial_state has shape"),
        ({"form": "sideways"}, ValueError, "form='sideways' is not one of"),
        ({"implementation": "pallas"}, NotImplementedError, "modal_ssm"),
    )

    def make_args(self, rng, case):
        return {"x": rng.normal(size=(*case.batch, case.length, 2)), **poles(rng)}


class FilterTest(OpSuite):
    op = ops.modal_ssm_filter
    reference = reference.modal_ssm_filter
    cases = (OpCase(full=True, options={"length": 7}), OpCase(options={"length": 1}))
    errors = (({"length": 0}, ValueError, "length=0"),)

    def make_args(self, rng, case):
        return poles(rng)


def test_the_matrix_is_the_convolution():
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        arrays = {name: jnp.asarray(array) for name, array in poles(rng).items()}
        matrix = ops.modal_ssm_matrix(**arrays, length=7)
        compare.assert_relative(matrix, reference.modal_ssm_matrix(**arrays, length=7), 1e-12)
        x = jnp.asarray(rng.normal(size=(7, 2)))
        y = jnp.einsum("dts,sd->td", matrix, x)
        compare.assert_relative(y, ops.modal_ssm(x, **arrays), 1e-12)


def test_slow_modes_keep_their_digits_over_thousands_of_tokens():
    arrays = {
        "log_magnitude": jnp.full((1, 1), -1e-5),
        "angle": jnp.full((1, 1), 0.5),
        "residue": jnp.array([[[1.0, 0.0]]]),
    }
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4096, 1)), jnp.float32)
    with jax.enable_x64(True):
        exact = {name: array.astype(jnp.float64) for name, array in arrays.items()}
        expected = ops.modal_ssm(x.astype(jnp.float64), **exact)
        for form in FORMS:
            y = ops.modal_ssm(x, **arrays, form=form)
            error = jnp.linalg.norm(y.astype(jnp.float64) - expected) / jnp.linalg.norm(expected)
            assert float(error) < 1e-3, form


def test_hankel_singular_values():
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        filter = jnp.asarray(rng.normal(size=(9, 2)))
        for taps in (filter, filter[:8]):
            values = ops.hankel_singular_values(taps)
            compare.assert_relative(values, reference.hankel_singular_values(taps), 1e-12)
            order = ops.hankel_order(taps, tolerance=0.3)
            np.testing.assert_array_equal(order, reference.hankel_order(taps, tolerance=0.3))
        arrays = {name: jnp.asarray(array) for name, array in poles(rng).items()}
        modal = ops.modal_ssm_filter(**arrays, length=40)
        # three complex modes are a real recurrence of order six, whatever the token's own weight
        np.testing.assert_array_equal(ops.hankel_order(modal, tolerance=1e-8), [6, 6])
        gradient = jax.grad(lambda f: ops.hankel_singular_values(f).sum())(filter)
        assert bool(jnp.isfinite(gradient).all())


def test_memory_of_training_does_not_hold_a_state_per_token():
    rng = np.random.default_rng(0)
    arrays = [jnp.asarray(a, jnp.float32) for a in poles(rng, 8, 32).values()][:3]
    x = jax.ShapeDtypeStruct((4096, 8), jnp.float32)
    for form in FORMS:
        loss = jax.grad(lambda x, form=form: (ops.modal_ssm(x, *arrays, form=form) ** 2).sum())
        memory = jax.jit(loss).lower(x).compile().memory_analysis().temp_size_in_bytes
        # the states of all tokens would be 8 MiB
        assert memory < 3 * 2**20, (form, memory)
