"""Bases of KAN layers: those of numpy and scipy, with their derivatives."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.polynomial import hermite_e
from scipy import signal, special, stats
from scipy.interpolate import BPoly

from scanmax import ops
from scanmax.ops import reference
from scanmax.testing import OpCase, OpSuite


class PolynomialBasisTest(OpSuite):
    op = ops.polynomial_basis
    reference = reference.polynomial_basis
    cases = (
        OpCase(shape=(2, 3), options={"kind": "jacobi", "alpha": 0.5, "beta": 2.0}, full=True),
        OpCase(shape=(2, 3), options={"kind": "bernstein"}, full=True),
        OpCase(shape=(4,), options={"kind": "legendre", "degree": 4}),
        OpCase(shape=(1, 2, 2), options={"degree": 4}),
        OpCase(shape=(2,), options={"degree": 0}),
    )
    errors = (
        ({"kind": "hermite"}, ValueError, "kind='hermite' is not one of"),
        ({"degree": -1}, ValueError, "degree=-1"),
        ({"alpha": -1.0}, ValueError, "alpha=-1.0"),
        ({"x": jnp.ones(())}, ValueError, "x has shape"),
    )

    def make_args(self, rng, case):
        return {"x": rng.uniform(0.05, 0.95, size=case.shape)}


class GramBasisTest(OpSuite):
    op = ops.gram_basis
    reference = reference.gram_basis
    cases = (OpCase(shape=(2, 3), count=5, full=True), OpCase(shape=(2,), count=1))
    errors = (({"weight": jnp.ones((1, 2))}, ValueError, r"weight has shape \(1, 2\)"),)

    def make_args(self, rng, case):
        return {"x": rng.uniform(-1, 1, size=case.shape), "weight": rng.normal(size=case.count)}


class RadialBasisTest(OpSuite):
    op = ops.radial_basis
    reference = reference.radial_basis
    cases = (OpCase(shape=(2, 3), full=True), OpCase(shape=(2,), options={"width": 0.7}))
    errors = (
        ({"centers": jnp.ones(1)}, ValueError, "width=None"),
        ({"width": 0.0}, ValueError, "width=0.0"),
        ({"centers": jnp.ones((2, 2))}, ValueError, "centers has shape"),
    )

    def make_args(self, rng, case):
        return {"x": rng.normal(size=case.shape), "centers": np.array([-1.0, 0.25, 0.5])}


class SwitchBasisTest(OpSuite):
    op = ops.switch_basis
    reference = reference.switch_basis
    cases = (OpCase(shape=(2, 3), options={"width": 0.7}, full=True), OpCase(shape=(2,)))
    errors = (
        ({"width": 0.0}, ValueError, "width=0.0"),
        ({"centers": jnp.ones((2, 2))}, ValueError, "centers has shape"),
    )

    def make_args(self, rng, case):
        return {"x": rng.normal(size=case.shape), "centers": np.array([-1.0, 0.25, 0.5])}


class WaveletBasisTest(OpSuite):
    op = ops.wavelet_basis
    reference = reference.wavelet_basis
    cases = (
        OpCase(shape=(2, 3), full=True),
        OpCase(shape=(3, 2), options={"kind": "morlet"}),
        OpCase(shape=(2,), options={"kind": "dog"}),
        OpCase(shape=(7, 2), options={"kind": "meyer"}),
        OpCase(shape=(2, 2, 2), options={"kind": "sinc"}),
        OpCase(shape=(2, 3), options={"kind": "shannon"}),
        OpCase(shape=(1,), options={"kind": "shannon"}),
    )
    errors = (
        ({"kind": "haar"}, ValueError, "kind='haar' is not one of"),
        ({"translation": lambda t: t[1:]}, ValueError, r"translation has shape .* \[3, N\]"),
        ({"scale": lambda s: s[:, 1:]}, ValueError, "scale has shape"),
    )

    def make_args(self, rng, case):
        shape = (case.shape[-1], 2)
        return {
            "x": rng.normal(size=case.shape),
            "translation": rng.normal(size=shape),
            "scale": rng.uniform(0.5, 2.0, size=shape),
        }


NUMPY = {
    "chebyshev": np.polynomial.Chebyshev.basis,
    "legendre": np.polynomial.Legendre.basis,
    "jacobi": lambda m: np.polynomial.Polynomial(special.jacobi(m, 0.5, 2.0).coef[::-1]),
}


def values_and_slopes(function, x):
    with jax.enable_x64(True):
        return jax.jvp(function, (jnp.asarray(x),), (jnp.ones(len(x)),))


@pytest.mark.parametrize("kind", NUMPY)
def test_polynomials_are_numpys_and_scipys_with_their_derivatives(kind):
    x = np.linspace(-1, 1, 11)
    values, slopes = values_and_slopes(
        lambda x: ops.polynomial_basis(x, kind=kind, degree=6, alpha=0.5, beta=2.0), x
    )
    polynomials = [NUMPY[kind](m) for m in range(7)]
    chex.assert_trees_all_close(values, np.stack([p(x) for p in polynomials], -1), rtol=1e-11)
    expected = np.stack([p.deriv()(x) for p in polynomials], -1)
    chex.assert_trees_all_close(slopes, expected, rtol=1e-11, atol=1e-11)


def test_bernsteins_are_scipys_with_their_derivatives():
    x = np.linspace(0, 1, 9)
    actual = values_and_slopes(lambda x: ops.polynomial_basis(x, kind="bernstein", degree=5), x)
    ones = [BPoly(np.eye(6)[:, m : m + 1], [0, 1]) for m in range(6)]
    expected = [np.stack([f(x) for f in fs], -1) for fs in (ones, [f.derivative() for f in ones])]
    chex.assert_trees_all_close(actual, tuple(expected), rtol=1e-12, atol=1e-12)
    chex.assert_trees_all_close(np.asarray(actual[0]).sum(-1), np.ones(9), rtol=1e-14)


def test_grams_with_the_right_weights_are_hermites_with_their_derivatives():
    n, x = np.arange(1, 7), np.linspace(-1, 1, 9)
    # Hermite's recurrence is P_(n+1) = x P_n - n P_(n-1)
    weight = np.concatenate([[0], (n + 1) ** 2 / (n * (2 * n + 1) * (4 * n**2 - 1))])
    actual = values_and_slopes(lambda x: ops.gram_basis(x, jnp.asarray(weight)), x)
    polynomials = [hermite_e.HermiteE.basis(m) for m in range(7)]
    expected = [np.stack([p(x) for p in polynomials], -1)]
    expected.append(np.stack([p.deriv()(x) for p in polynomials], -1))
    chex.assert_trees_all_close(actual, tuple(expected), rtol=1e-11, atol=1e-11)


def hermite_function(m, u):
    """The m-th derivative of exp(-u^2 / 2), by numpy's polynomials."""
    return (-1) ** m * hermite_e.HermiteE.basis(m)(u) * np.exp(-(u**2) / 2)


HAT = 2 / (np.sqrt(3) * np.pi**0.25)
# Where the frequencies of a Morlet wavelet lie: the sum over them is exact to rounding.
FREQUENCIES = np.linspace(-10, 20, 601)
CHANNELS = 12


def morlet(u, more):
    """The real part of its Fourier integral: a bell of frequencies around 5."""
    weight = np.exp(-((FREQUENCIES - 5) ** 2) / 2) / np.sqrt(2 * np.pi)
    waves = np.exp(1j * u[:, None] * FREQUENCIES) * (1j * FREQUENCIES) ** more
    return np.real(waves * weight).sum(-1) * (FREQUENCIES[1] - FREQUENCIES[0])


def meyer(u, more):
    """Its window is a quarter of a cosine of scipy's beta distribution."""
    size, beta = np.abs(u), stats.beta(4, 4)
    rise = np.pi / 2 * beta.cdf(2 * size - 1)
    if not more:
        return np.sin(np.pi * size) * np.cos(rise)
    slope = np.pi * np.cos(np.pi * size) * np.cos(rise)
    fall = np.sin(np.pi * size) * np.sin(rise) * np.pi * beta.pdf(2 * size - 1)
    return np.sign(u) * (slope - fall)


def shannon(u, more):
    """The spherical Bessel function, by channel under scipy's window."""
    window = signal.windows.hamming(CHANNELS)
    return window * special.spherical_jn(0, np.abs(u), derivative=bool(more)) * np.sign(u) ** more


WAVELETS = {
    "mexican_hat": lambda u, more: HAT * hermite_function(2 + more, u),
    "morlet": morlet,
    "dog": lambda u, more: hermite_function(1 + more, u),
    "meyer": meyer,
    "sinc": lambda u, more: special.spherical_jn(0, u, derivative=bool(more)),
    "shannon": shannon,
}


@pytest.mark.parametrize("kind", WAVELETS)
def test_wavelets_are_numpys_and_scipys_with_their_derivatives(kind):
    x = np.linspace(-2, 2, CHANNELS)  # 0 is not among them
    if kind == "meyer":
        x = x / 3  # most of them where the window falls
    place, scale = np.full((CHANNELS, 1), 0.1), np.full((CHANNELS, 1), 0.5)
    actual = values_and_slopes(
        lambda x: ops.wavelet_basis(x, jnp.asarray(place), jnp.asarray(scale), kind=kind)[:, 0],
        x,
    )
    u = (x - 0.1) / 0.5
    expected = WAVELETS[kind](u, 0), WAVELETS[kind](u, 1) / 0.5
    chex.assert_trees_all_close(actual, expected, rtol=1e-11, atol=1e-11)


def test_the_window_of_meyers_wavelet_is_flat_falls_and_ends():
    """Between 1/2 and 1, as the two windows of the wavelet's definition add to 1 in square."""
    u = np.linspace(0.5, 1, 9)
    whole = np.sin(np.pi * u)
    points = np.concatenate([u, 1.5 - u, [1.0, 1.5, -3.0]])
    zeros, ones = np.zeros((len(points), 1)), np.ones((len(points), 1))
    with jax.enable_x64(True):
        y = np.asarray(ops.wavelet_basis(jnp.asarray(points), zeros, ones, kind="meyer"))[:, 0]
    inner = slice(1, -1)
    squares = (y[:9][inner] / whole[inner]) ** 2
    squares += (y[9:18][inner] / np.sin(np.pi * (1.5 - u[inner]))) ** 2
    np.testing.assert_allclose(squares, 1, rtol=1e-12)
    np.testing.assert_allclose(y[18:], 0, atol=1e-15)


def test_switches_are_the_density_of_the_logistic_distribution_with_its_derivative():
    x, centers = np.linspace(-1, 1, 7), np.array([-1.0, 0.0, 4.0])
    actual = values_and_slopes(lambda x: ops.switch_basis(x, jnp.asarray(centers)), x)
    u = 2 * (x[:, None] - centers) / 0.33
    density = 4 * stats.logistic.pdf(u)
    slope = density * (1 - 2 * stats.logistic.cdf(u)) * 2 / 0.33
    chex.assert_trees_all_close(actual, (density, slope), rtol=1e-11, atol=0)


def test_bumps_are_gaussians_with_their_derivatives():
    x, centers = np.linspace(-1, 1, 7), np.array([-1.0, 0.0, 1.0])
    actual = values_and_slopes(lambda x: ops.radial_basis(x, jnp.asarray(centers), width=0.7), x)
    u = (x[:, None] - centers) * np.sqrt(2) / 0.7
    expected = hermite_function(0, u), hermite_function(1, u) * np.sqrt(2) / 0.7
    chex.assert_trees_all_close(actual, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", ["sinc", "meyer"])
def test_derivatives_of_wavelets_are_finite_at_zero(kind):
    def total(x):
        return jnp.sum(ops.wavelet_basis(x, jnp.zeros((1, 1)), jnp.ones((1, 1)), kind=kind))

    chex.assert_tree_all_finite(jax.grad(total)(jnp.zeros(1)))
