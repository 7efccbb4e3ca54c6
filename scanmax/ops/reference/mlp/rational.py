"""Rational functions, group by group."""

import jax.numpy as jnp


def group_rational(x, numerator, denominator):
    """y = P(x) / (1 + |Q(x)|) with the coefficients of the channel's group."""
    groups = max(len(numerator), len(denominator))
    outputs = []
    for g, part in enumerate(jnp.split(x, groups, -1)):
        a, b = numerator[g % len(numerator)], denominator[g % len(denominator)]
        top = sum(c * part**i for i, c in enumerate(a))
        inner = sum(c * part ** (i + 1) for i, c in enumerate(b))
        outputs.append(top / (1 + jnp.abs(inner)))
    return jnp.concatenate(outputs, -1)
