"""Bases by their formulas: closed sums of powers, not recurrences, where there are some."""

import math

import jax.numpy as jnp


def _power(x, n):
    y = jnp.ones_like(x)
    for _ in range(n):
        y = y * x
    return y


def _binomial(top, n):
    """For any real top."""
    return math.prod((top - i) / (i + 1) for i in range(n))


def _jacobi(x, m, a, b):
    """P_m = sum_s C(m + a, m - s) C(m + b, s) ((x - 1) / 2)^s ((x + 1) / 2)^(m - s)."""
    total = 0
    for s in range(m + 1):
        count = _binomial(m + a, m - s) * _binomial(m + b, s)
        total = total + count * _power((x - 1) / 2, s) * _power((x + 1) / 2, m - s)
    return total


def polynomial_basis(x, *, kind="chebyshev", degree=3, alpha=1.0, beta=1.0):
    """Each polynomial as its sum of powers."""
    terms = []
    for m in range(degree + 1):
        if kind == "bernstein":
            term = math.comb(degree, m) * _power(x, m) * _power(1 - x, degree - m)
        elif kind == "chebyshev":
            # Jacobi's with a = b = -1/2, scaled to 1 at x = 1.
            term = _jacobi(x, m, -0.5, -0.5) / _binomial(m - 0.5, m)
        else:
            term = _jacobi(x, m, *((0, 0) if kind == "legendre" else (alpha, beta)))
        terms.append(term)
    return jnp.stack(terms, -1)


def gram_basis(x, weight):
    """P_m by its recurrence, from the top down."""

    def polynomial(m):
        if m < 2:
            return x if m else jnp.ones_like(x)
        n = m - 1
        b = weight[n] * (m + n) * (m - n) * n**2 / (m**2 / (4 * n**2 - 1))
        return x * polynomial(m - 1) - b * polynomial(m - 2)

    return jnp.stack([polynomial(m) for m in range(weight.shape[0])], -1)


def radial_basis(x, centers, *, width=None):
    """exp(-((x - c) / width)^2)."""
    step = (centers[-1] - centers[0]) / (len(centers) - 1) if width is None else width
    return jnp.stack([jnp.exp(-(((x - c) / step) ** 2)) for c in centers], -1)


def switch_basis(x, centers, *, width=0.33):
    """1 / cosh((x - c) / width)^2."""
    return jnp.stack([1 / jnp.cosh((x - c) / width) ** 2 for c in centers], -1)


def _wavelet(u, kind):
    bump = jnp.exp(-(u**2) / 2)
    if kind == "mexican_hat":
        return 2 / (math.sqrt(3) * math.pi**0.25) * (u**2 - 1) * bump
    if kind == "morlet":
        return jnp.cos(5 * u) * bump
    if kind == "dog":
        return -u * bump
    if kind == "meyer":
        v = jnp.abs(u)
        t = 2 * v - 1
        falling = jnp.cos(math.pi / 2 * t**4 * (35 - 84 * t + 70 * t**2 - 20 * t**3))
        window = jnp.where(v <= 0.5, 1.0, jnp.where(v >= 1, 0.0, falling))
        return jnp.sin(math.pi * v) * window
    return jnp.where(u == 0, 1.0, jnp.sin(u) / jnp.where(u == 0, 1.0, u))


def wavelet_basis(x, translation, scale, *, kind="mexican_hat"):
    """psi((x - translation) / scale), channel by channel."""
    channels = []
    for d in range(x.shape[-1]):
        places = [(x[..., d] - t) / s for t, s in zip(translation[d], scale[d])]
        window = 1.0
        if kind == "shannon" and x.shape[-1] > 1:
            window = 0.54 - 0.46 * math.cos(2 * math.pi * d / (x.shape[-1] - 1))
        channels.append(window * jnp.stack([_wavelet(u, kind) for u in places], -1))
    return jnp.stack(channels, -2)
