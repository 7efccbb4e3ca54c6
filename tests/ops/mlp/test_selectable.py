"""Kinds of functions by scores: shares, gates, choices, and one product of all of them."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from scanmax import ops
from scanmax.ops import reference
from scanmax.testing import OpCase, OpSuite


class SelectionWeightsTest(OpSuite):
    op = ops.selection_weights
    reference = reference.selection_weights
    cases = (
        OpCase(shape=(2, 3, 4), options={"temperature": 0.5}, full=True),
        OpCase(shape=(3, 5), options={"selection": "gated", "threshold": 0.4}, full=True),
        OpCase(shape=(4,), options={"selection": "hard"}),
        OpCase(shape=(2, 1), options={"selection": "free"}),
        OpCase(shape=(1, 1), options={"selection": "gated", "threshold": 1.0}),
    )
    errors = (
        ({"selection": "soft"}, ValueError, "selection='soft' is not one of"),
        ({"temperature": 0.0}, ValueError, "temperature=0.0"),
        ({"threshold": 1.5}, ValueError, "threshold=1.5"),
    )

    def make_args(self, rng, case):
        return {"scores": rng.normal(size=case.shape)}


class SelectFunctionsTest(OpSuite):
    op = ops.select_functions
    reference = reference.select_functions
    cases = (
        OpCase(batch=(2,), sizes=(2, 3), counts=(2, 1), nodes=(2, 3), full=True),
        OpCase(sizes=(3, 2), counts=(1, 4, 2), nodes=(3, 1)),
        OpCase(batch=(1, 2), sizes=(1, 2), counts=(3,), nodes=(1, 1)),
        OpCase(sizes=(2, 2), counts=(1, 1), nodes=(1, 2)),
    )
    errors = (
        ({"coefficients": []}, ValueError, "coefficients has none"),
        ({"coefficients": lambda c: [c[0], c[1][..., :1]]}, ValueError, "differ in N alone"),
        ({"weights": lambda w: w[..., :1]}, ValueError, r"weights has shape .*\[D or 1, O or 1"),
        ({"weights": lambda w: jnp.tile(w, (2, 1, 1))}, ValueError, "weights has shape"),
        ({"weights": lambda w: w[0]}, ValueError, "expected at least 3 axes"),
    )

    def make_args(self, rng, case):
        inputs, outputs = case.sizes
        shapes = [(*case.batch, inputs, count, outputs) for count in case.counts]
        weights = rng.normal(size=(*case.nodes, len(case.counts)))
        return {"coefficients": [rng.normal(size=shape) for shape in shapes], "weights": weights}


def test_weights_are_scipys_and_choices_are_numpys():
    scores = np.random.default_rng(0).normal(size=(5, 6))
    scores[0, 2] = scores[0, 4] = 9.0  # of equal ones the first
    soft = special.softmax(scores / 0.7, -1)
    kept = np.where(soft >= 0.3 * soft.max(-1, keepdims=True), soft, 0)
    expected = {
        "free": scores,
        "softmax": soft,
        "gated": kept / kept.sum(-1, keepdims=True),
        "hard": np.eye(6)[scores.argmax(-1)],
    }
    with jax.enable_x64(True):
        for selection, weights in expected.items():
            options = {"selection": selection, "temperature": 0.7, "threshold": 0.3}
            actual = ops.selection_weights(jnp.asarray(scores), **options)
            np.testing.assert_allclose(actual, weights, rtol=1e-13, atol=0)
    assert 1 < (kept > 0).sum(-1).max() < 6


@pytest.mark.parametrize("temperature", [1.0, 0.25])
def test_a_choice_has_the_gradient_of_the_shares(temperature):
    scores = jnp.array([0.3, -0.2, 0.1])

    def gradient(selection):
        return jax.jacobian(
            lambda s: ops.selection_weights(s, selection=selection, temperature=temperature)
        )(scores)

    chex.assert_trees_all_equal(gradient("hard"), gradient("softmax"))


def test_folded_coefficients_give_the_weighed_sum_of_the_layers():
    """Dense and convolutional: phi = sum_m w_m phi_m, each phi_m by its own layer."""
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        x = jnp.asarray(rng.normal(size=(4, 5, 2)))
        bases = [ops.polynomial_basis(jnp.tanh(x)), ops.radial_basis(x, jnp.linspace(-1.0, 1, 3))]
        weights = jnp.asarray(rng.uniform(size=(2, 3, 2)))
        kernels = [jnp.asarray(rng.normal(size=(3, 3, 2, b.shape[-1], 3))) for b in bases]
        both = jnp.concatenate(bases, -1)
        y = ops.kan_conv2d(x, both, ops.select_functions(kernels, weights))
        parts = [
            ops.kan_conv2d(x, basis, kernel * weights[:, None, :, m])
            for m, (basis, kernel) in enumerate(zip(bases, kernels))
        ]
        chex.assert_trees_all_close(y, sum(parts), rtol=1e-12, atol=1e-12)
        dense = [kernel[0, 0] for kernel in kernels]
        # Weights of outputs alone come out of the sums over inputs.
        own = weights[:1]
        y = ops.kan_linear(x, both, ops.select_functions(dense, own))
        parts = [
            ops.kan_linear(x, basis, c) * own[0, :, m]
            for m, (basis, c) in enumerate(zip(bases, dense))
        ]
        chex.assert_trees_all_close(y, sum(parts), rtol=1e-12, atol=1e-12)
