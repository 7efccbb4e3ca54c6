"""The polynomial form of third-order attention: what it costs, and where it is close."""

import jax.numpy as jnp
import numpy as np

from benchmarks.claims import Finding, claim
from benchmarks.claims.slopes import exponent, heads, slope
from scanmax import ops

WIDTH = 4


@slope("tensor_attention_poly, degree 2")
def _poly(T):
    return ops.tensor_attention_poly, heads(T, 5, width=16)


@slope("tensor_attention_poly, degree 2, causal")
def _causal(T):
    return lambda *arrays: ops.tensor_attention_poly(*arrays, is_causal=True), heads(T, 5, width=16)


@slope("soft_attention, 49 landmarks")
def _soft(T):
    query, value = heads(T, 2)
    return ops.soft_attention, [query, value, 3 * query[:49]]


def _error(bound: float, degree: int, fit: float | None = None) -> float:
    """Largest difference from the exact weighting, entries uniform in [-bound, bound]."""
    rng = np.random.default_rng(0)
    keys = [bound * rng.uniform(-1, 1, size=(32, 1, WIDTH)).astype(np.float32) for _ in range(3)]
    values = [rng.normal(size=(32, 1, WIDTH)).astype(np.float32) for _ in range(2)]
    exact = ops.tensor_attention(*keys, *values)
    y = ops.tensor_attention_poly(*keys, *values, degree=degree, bound=fit)
    return float(jnp.abs(y - exact).max())


@claim("tensor-polynomial-error", paper="tensor-attention")
def tensor_polynomial_error(quick):
    """A low-rank form is close while entries are small; its degree must grow with their bound."""
    findings = []
    errors = {(b, g): _error(b, g) for b in (0.5, 1.0, 2.0) for g in (2, 4)}
    for bound in (0.5, 1.0, 2.0):
        low, high = errors[bound, 2], errors[bound, 4]
        findings.append(
            Finding(
                f"largest error, entries up to {bound:g}, degree 2 and 4",
                "falls with the degree",
                f"{low:.1e}, {high:.1e}",
                high < low,
            )
        )
    growth = [errors[2.0, degree] / errors[1.0, degree] for degree in (2, 4)]
    findings.append(
        Finding(
            "growth of the error as entries double from 1 to 2, degree 2 and 4",
            "grows with the bound",
            ", ".join(f"{factor:.0f} times" for factor in growth),
            min(growth) > 2,
        )
    )
    return findings


@claim("tensor-slopes", paper="tensor-attention", by_hand=True)
def tensor_slopes(quick):
    """Exact third-order attention takes time near T^3, its polynomial form near T."""

    def exact(T):
        return ops.tensor_attention, heads(T, 5, width=16, number=1)

    def polynomial(T):
        return ops.tensor_attention_poly, heads(T, 5, width=16, number=1)

    small = (64, 128) if quick else (128, 256, 512, 1024)
    large = (1024, 2048) if quick else (2048, 4096, 8192, 16384)
    slopes = exponent(exact, small, rounds=2), exponent(polynomial, large, rounds=3)
    return [
        Finding(
            f"exponent, exact, T = {small[0]}..{small[-1]}",
            "3",
            f"{slopes[0]:.2f}",
            2.5 < slopes[0] < 3.3,
        ),
        Finding(
            f"exponent, degree 2, T = {large[0]}..{large[-1]}",
            "1 + o(1)",
            f"{slopes[1]:.2f}",
            slopes[1] < 1.3,
        ),
    ]
