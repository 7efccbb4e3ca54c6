"""Rational functions, group by group."""

import jax.numpy as jnp


def group_rational(x, numerator, denominator, *, sizes="sum"):
    """y = P(x) / (1 + |Q(x)|) with the coefficients of the channel's group.

    With sizes="terms" each term of Q has its own size taken.
    """
    groups = max(len(numerator), len(denominator))
    outputs = []
    for g, part in enumerate(jnp.split(x, groups, -1)):
        a, b = numerator[g % len(numerator)], denominator[g % len(denominator)]
        top = sum(c * part**i for i, c in enumerate(a))
        terms = [c * part ** (i + 1) for i, c in enumerate(b)]
        inner = sum(jnp.abs(term) for term in terms) if sizes == "terms" else jnp.abs(sum(terms))
        outputs.append(top / (1 + inner))
    return jnp.concatenate(outputs, -1)
