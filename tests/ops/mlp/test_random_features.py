"""Dense layers as products of random features: without bias, and bundled exactly."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scanmax import ops
from scanmax.ops import reference
from scanmax.testing import OpCase, OpSuite

ACTIVATIONS = {
    "cosine": np.cos,
    "sine": np.sin,
    "gaussian": lambda z: np.exp(-(z**2) / 2),
}


def waves(rng, count):
    """Frequencies of both signs, none near 0, where a root has no slope."""
    return rng.uniform(0.1, 0.3, count) * rng.choice([-1, 1], count)


class UniversalRandomFeaturesTest(OpSuite):
    op = ops.universal_random_features
    reference = reference.universal_random_features
    cases = (
        OpCase(batch=(4,), full=True, options={"turn": "both", "damping": 0.2}),
        OpCase(),
        OpCase(batch=(2, 3), options={"turn": "weight"}),
    )
    errors = (
        ({"projection": lambda g: g[:, 1:]}, ValueError, r"expected \[M, 3\] with x of shape"),
        ({"frequencies": lambda u: u[1:]}, ValueError, r"frequencies has .*\[M\]"),
        ({"turn": "x"}, ValueError, "turn='x' is not one of"),
        ({"damping": -0.1}, ValueError, "damping=-0.1"),
    )

    def make_args(self, rng, case):
        return {
            "x": 0.5 * rng.normal(size=(*case.batch, 3)),
            "projection": rng.normal(size=(5, 3)),
            "frequencies": waves(rng, 5),
        }


class UniversalRandomWeightsTest(OpSuite):
    op = ops.universal_random_weights
    reference = reference.universal_random_weights
    cases = (
        OpCase(full=True, biased=True, options={"turn": "both", "damping": 0.2}),
        OpCase(),
        OpCase(biased=True, options={"turn": "weight"}),
    )
    errors = (
        ({"kernel": lambda w: w[0]}, ValueError, r"kernel has shape .* expected \[K, L\]"),
        ({"phases": lambda p: p[1:]}, ValueError, r"phases has .*\[M\]"),
        ({"bias": lambda b: b[1:]}, ValueError, r"bias has .*\[L\]"),
        ({"turn": "x"}, ValueError, "turn='x' is not one of"),
    )

    def make_args(self, rng, case):
        args = {
            "kernel": 0.5 * rng.normal(size=(3, 2)),
            "projection": rng.normal(size=(5, 3)),
            "frequencies": waves(rng, 5),
            "amplitudes": rng.uniform(0.5, 1.5, 5),
            "phases": rng.normal(size=5),
        }
        if getattr(case, "biased", False):
            args["bias"] = rng.normal(size=2)
        return args


class ReluRandomFeaturesTest(OpSuite):
    op = ops.relu_random_features
    reference = reference.relu_random_features
    cases = (
        OpCase(batch=(4,), full=True, options={"floor": -0.5}),
        OpCase(),
        OpCase(batch=(2, 3)),
    )
    errors = (({"projection": lambda g: g[:, 1:]}, ValueError, r"projection has .*\[M, K\]"),)

    def make_args(self, rng, case):
        return {"x": rng.normal(size=(*case.batch, 3)), "projection": rng.normal(size=(5, 3))}


class BundleDenseTest(OpSuite):
    op = ops.bundle_dense
    reference = reference.bundle_dense
    cases = (OpCase(full=True, biased=True), OpCase())
    errors = (
        ({"kernel": lambda w: w[0]}, ValueError, "kernel has shape"),
        ({"next_kernel": lambda v: v[1:]}, ValueError, r"next_kernel has .*\[3, O\]"),
        ({"bias": lambda b: b[1:]}, ValueError, "bias has"),
        ({"next_bias": lambda b: b[1:]}, ValueError, "next_bias has"),
    )

    def make_args(self, rng, case):
        args = {"kernel": rng.normal(size=(5, 3)), "next_kernel": rng.normal(size=(3, 2))}
        if getattr(case, "biased", False):
            args |= {"bias": rng.normal(size=3), "next_bias": rng.normal(size=2)}
        return args


class FitDenseTest(OpSuite):
    op = ops.fit_dense
    reference = reference.fit_dense
    cases = (OpCase(full=True, options={"ridge": 0.1}), OpCase(options={"ridge": 0.0}))
    errors = (
        ({"ridge": -1.0}, ValueError, "ridge=-1.0"),
        ({"x": lambda x: x[0]}, ValueError, r"x has shape .* expected \[S, F\]"),
        ({"y": lambda y: y[1:]}, ValueError, r"y has shape .* expected \[S, O\]"),
        ({"x": lambda x: x[:2], "y": lambda y: y[:2], "ridge": 0.0}, ValueError, "as many samples"),
    )

    def make_args(self, rng, case):
        return {"x": rng.normal(size=(7, 3)), "y": rng.normal(size=(7, 2))}


@pytest.mark.parametrize("activation", list(ACTIVATIONS))
def test_waves_are_the_transform_of_the_activation(activation):
    with jax.enable_x64(True):
        given = {"activation": activation, "dtype": jnp.float64}
        found = ops.fourier_samples(jax.random.key(2), 20000, **given)
        expected = reference.fourier_samples(jax.random.key(2), 50, **given)
        again = ops.fourier_samples(jax.random.key(2), 50, **given)
    for x, y in zip(again, expected):
        np.testing.assert_allclose(x, y, atol=1e-15)
    u, a, p = (np.asarray(x) for x in found)
    for z in (-1.3, 0.0, 0.4):
        values = a * np.cos(2 * math.pi * u * z + p)
        # those of two points have no spread at all
        error = 5 * values.std() / len(values) ** 0.5 + 1e-12
        assert abs(values.mean() - ACTIVATIONS[activation](z)) < error
    with pytest.raises(ValueError, match="activation='tanh' is not one of"):
        ops.fourier_samples(jax.random.key(0), 2, activation="tanh")


@functools.partial(jax.jit, static_argnames=("count", "activation", "turn", "damping"))
def estimates(keys, x, w, b, *, count, activation, turn, damping=0.0):
    """f(x . w + b), one estimate a key."""

    def estimate(key):
        directions, frequencies = jax.random.split(key)
        g = jax.random.normal(directions, (count, len(x)), x.dtype)
        u, a, p = ops.fourier_samples(frequencies, count, activation=activation, dtype=x.dtype)
        options = {"turn": turn, "damping": damping}
        phi = ops.universal_random_features(x, g, u, **options)
        return phi @ ops.universal_random_weights(w[:, None], g, u, a, p, b, **options)[:, 0]

    return jax.vmap(estimate)(keys)


@pytest.mark.parametrize(
    ("activation", "turn", "damping"),
    [
        ("cosine", "input", 0.0),
        ("cosine", "weight", 0.05),
        ("sine", "both", 0.0),
        ("gaussian", "both", 0.0),
    ],
)
def test_a_layer_is_estimated_without_bias_and_better_by_more_features(activation, turn, damping):
    x, w, b = np.array([0.5, -0.3, 0.2]), np.array([-0.6, 0.5, -0.4]), np.array([0.7])
    exact = ACTIVATIONS[activation](x @ w + b[0])
    keys = jax.random.split(jax.random.key(0), 2000)
    arrays = [jnp.asarray(array, jnp.float32) for array in (x, w, b)]
    options = {"activation": activation, "turn": turn, "damping": damping}
    spreads = []
    for count in (2, 18):
        found = np.asarray(estimates(keys, *arrays, count=count, **options), np.float64)
        # four standard deviations of the mean
        assert abs(found.mean() - exact) < 4 * found.std() / len(keys) ** 0.5
        spreads.append(found.std())
    # nine times as many features
    assert spreads[0] / spreads[1] == pytest.approx(3, rel=0.2)


def test_relu_features_are_of_the_arc_cosine_kernel():
    x, w = np.array([0.5, -1.0, 0.2]), np.array([0.4, 0.6, -0.2])
    sizes = np.linalg.norm(x) * np.linalg.norm(w)
    angle = np.arccos(x @ w / sizes)
    exact = sizes * (np.sin(angle) + (np.pi - angle) * np.cos(angle)) / (2 * np.pi)
    g = jax.random.normal(jax.random.key(0), (200_000, 3))
    phi, psi = (
        np.asarray(ops.relu_random_features(jnp.asarray(z, jnp.float32), g), np.float64)
        for z in (x, w)
    )
    products = phi * psi * len(g)
    assert abs(products.mean() - exact) < 4 * products.std() / len(g) ** 0.5


@pytest.mark.usefixtures("float64")
def test_a_bundled_layer_is_the_two_it_stands_for():
    rng = np.random.default_rng(0)
    drawn = (rng.normal(size=(6, 3)), waves(rng, 6), *rng.normal(size=(2, 6)))
    g, u, a, p = (jnp.asarray(z) for z in drawn)
    w, b, v, c = (jnp.asarray(rng.normal(size=size)) for size in ((3, 4), 4, (4, 2), 2))
    x = jnp.asarray(rng.normal(size=(5, 3)))
    phi = ops.universal_random_features(x, g, u)
    psi = ops.universal_random_weights(w, g, u, a, p, b)
    kernel, bias = ops.bundle_dense(psi, v, next_bias=c)
    two, one = (phi @ psi) @ v + c, phi @ kernel + bias
    np.testing.assert_allclose(one, two, rtol=1e-12, atol=1e-12)
    # of targets that the bundled net can reach it is the least square
    found = ops.fit_dense(phi[:, :4], phi[:, :4] @ kernel[:4], ridge=0.0)
    np.testing.assert_allclose(found, kernel[:4], rtol=1e-8)
