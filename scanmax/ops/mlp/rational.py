"""Rational functions as activations, shared by the channels of a group."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.ops.contract import accumulator_dtype, check_rank, op, require, vary_together


def _horner(x: Array, coefficients: list[Array]) -> Array:
    y = jnp.zeros_like(x)
    for c in reversed(coefficients):
        y = y * x + c
    return y


def _columns(weights: Array, x: Array) -> list[Array]:
    """Each coefficient as [1, .., G or 1, 1] beside x [*B, G, D / G]."""
    return [weights[:, i].reshape((1,) * (x.ndim - 2) + (-1, 1)) for i in range(weights.shape[1])]


def _under(x: Array, denominator: Array, sizes: str) -> tuple[Array, Array]:
    """What the denominator is a polynomial of, and its coefficients."""
    return (x, denominator) if sizes == "sum" else (jnp.abs(x), jnp.abs(denominator))


def _side(x: Array) -> Array:
    """-1 below zero, else 1."""
    return jnp.where(x < 0, jnp.array(-1, x.dtype), jnp.array(1, x.dtype))


def _parts(x: Array, numerator: Array, denominator: Array, sizes: str):
    """P, the sum under the bars, and 1 + its size."""
    top = _horner(x, _columns(numerator, x))
    z, weights = _under(x, denominator, sizes)
    inner = z * _horner(z, _columns(weights, x))
    return top, inner, 1 + jnp.abs(inner)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _rational(x: Array, numerator: Array, denominator: Array, sizes: str) -> Array:
    top, _, under = _parts(x, numerator, denominator, sizes)
    return top / under


def _forward(x, numerator, denominator, sizes):
    # What is kept is the input; polynomials are cheaper to take again than to read back.
    return _rational(x, numerator, denominator, sizes), (x, numerator, denominator)


def _backward(sizes, kept, cotangent):
    x, numerator, denominator = kept
    x, numerator, denominator, cotangent = vary_together(x, numerator, denominator, cotangent)
    top, inner, under = _parts(x, numerator, denominator, sizes)
    z, weights = _under(x, denominator, sizes)
    slope = _horner(x, [i * c for i, c in enumerate(_columns(numerator, x))][1:])
    bend = _horner(z, [(i + 1) * c for i, c in enumerate(_columns(weights, x))])
    by_top = cotangent / under
    by_inner = -by_top * top / under
    if sizes == "sum":
        by_inner = by_inner * jnp.sign(inner)
    by_denominator = _moments(by_inner, z, denominator, 1)
    if sizes == "terms":
        # Coefficients that start as zeros have a slope, in the released kernels too.
        by_denominator = by_denominator * _side(denominator)
        bend = bend * _side(x)
    return by_top * slope + by_inner * bend, _moments(by_top, x, numerator, 0), by_denominator


def _moments(weight: Array, x: Array, like: Array, first: int) -> Array:
    """The sums of weight x^i that belong to each coefficient, over all but its group."""
    power, sums = weight if first == 0 else weight * x, []
    axes = (*range(x.ndim - 2), x.ndim - 1)
    for _ in range(like.shape[1]):
        total = jnp.sum(power, axes)
        sums.append(total if like.shape[0] > 1 else jnp.sum(total, keepdims=True))
        power = power * x
    return jnp.stack(sums, -1)


_rational.defvjp(_forward, _backward)


SIZES = ("sum", "terms")


@op("sizes")
def group_rational(
    x: Float[Array, "*B D"],
    numerator: Float[Array, "G M"],
    denominator: Float[Array, "J N"],
    *,
    sizes: str = "sum",
) -> Float[Array, "*B D"]:
    """A learned rational function of every number, one for each group of channels.

        y = (a_0 + a_1 x + .. + a_m x^m) / (1 + |b_1 x + .. + b_n x^n|)          sizes="sum"
        y = (a_0 + a_1 x + .. + a_m x^m) / (1 + |b_1 x| + .. + |b_n x^n|)        sizes="terms"

    The first is the paper's, the second what its released kernels compute. Neither has poles. A
    group is a run of D / G channels. The gradient is written out: it keeps x
    alone, and sums the powers of x once for all channels of a group.

    Args:
      x: the numbers.
      numerator: a_0 .. a_m of each group; one row serves all, as in the released models.
      denominator: b_1 .. b_n of each group; one row serves all.
      sizes: of what the denominator has the size, "sum" or each of the "terms".

    Returns:
      [*B, D] in the dtype of x.

    Raises:
      ValueError: another name of sizes, or a table that has no column, or more rows than one that
        are not those of the other or do not divide D.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> ops.group_rational(jnp.array([-1.0, 3.0]), jnp.array([[0.0, 1.0]]), jnp.ones((1, 1)))
      Array([-0.5 ,  0.75], dtype=float32)

    Reference: kat
    """
    check_rank(1, x=x)
    require(sizes in SIZES, f"sizes={sizes!r} is not one of {SIZES}.")
    for name, table in (("numerator", numerator), ("denominator", denominator)):
        require(
            table.ndim == 2 and min(table.shape) >= 1,
            f"{name} has shape {table.shape}; expected [G, coefficients], at least one of each.",
        )
    rows = {numerator.shape[0], denominator.shape[0]}
    groups = max(rows)
    require(
        rows <= {1, groups} and x.shape[-1] % groups == 0,
        f"numerator has shape {numerator.shape} and denominator {denominator.shape}; expected 1 or "
        f"G rows, where G divides the {x.shape[-1]} channels.",
    )
    dtype = accumulator_dtype(x, numerator, denominator)
    split = x.astype(dtype).reshape(*x.shape[:-1], groups, x.shape[-1] // groups)
    y = _rational(split, numerator.astype(dtype), denominator.astype(dtype), sizes)
    return y.reshape(x.shape).astype(x.dtype)
