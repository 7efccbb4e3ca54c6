"""Third-order attention with a polynomial for the exponential: its tensor of weights factors."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from scanmax.ops.contract import (
    accumulator_dtype,
    check_rank,
    check_shape,
    op,
    require,
    require_causal_states,
    vary_like,
)
from scanmax.ops.softmax.softmax import divide


@op("degree", "bound", "is_causal", "return_state", "chunk_size", "precision")
def tensor_attention_poly(
    query: Float[Array, "*B T H K"],
    first_key: Float[Array, "*B S H K"],
    second_key: Float[Array, "*B S H K"],
    first_value: Float[Array, "*B S H V"],
    second_value: Float[Array, "*B S H V"],
    *,
    degree: int = 2,
    bound: float | None = None,
    scale: Float[Array, ""] | float | None = None,
    is_causal: bool = False,
    initial_state: Float[Array, "*B H 2 R _"] | None = None,
    return_state: bool = False,
    chunk_size: int | None = None,
    precision=None,
):
    """`tensor_attention` with a polynomial p for exp: linear in T, by features of all monomials.

        p(scale sum_d q_d a_d b_d) = sum_m U1(q)_m U2(a)_m U3(b)_m,   m over monomials up to degree
        y = U1 ((U2^T v1) * (U3^T v2)) / U1 ((U2^T 1) * (U3^T 1))

    There are R = (K + degree) over degree monomials; no pair of tokens is ever formed. The
    relative error of a weight is at most about |l|^(degree + 1) / (degree + 1)! exp(2 |l|) for the
    largest logit l: small for small entries only. With is_causal both sums run over the tokens up
    to t; they are the state.

    Args:
      query: [*B, T, H, K].
      first_key: the keys of the pairs' first tokens; S = T with is_causal.
      second_key: those of the second.
      first_value: the values of the first.
      second_value: those of the second.
      degree: of p. Even ones keep a Taylor polynomial positive.
      bound: None takes exp's Taylor polynomial at 0; a number B its interpolation at the Chebyshev
        points of [-B, B], whose error is spread evenly over logits of that size.
      scale: factor of the logits, may be traced; None is 1 / K.
      is_causal: query t reads pairs of tokens up to t.
      initial_state: the two sums before the first token; causal only.
      return_state: also return them after the last token, in accumulator precision.
      chunk_size: tokens whose features are in memory at a time, and with is_causal their sums, R by
        V each. None: 16 with is_causal, else 512.
      precision: of every matrix product.

    Returns:
      [*B, T, H, V] in the dtype of first_value, 0 where the weights sum to 0; with `return_state`
      also the state [*B, H, 2, R, V + 1], whose last column sums the features.

    Raises:
      ValueError: an array of the wrong shape, a degree below 1, a state without is_causal.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> x = jnp.array([0.0, 1.0]).reshape(2, 1, 1)
      >>> ops.tensor_attention_poly(0 * x, x, x, x, x)[:, 0, 0]
      Array([0.25, 0.25], dtype=float32)

    Reference: tensor-attention
    """
    arrays = (query, first_key, second_key, first_value, second_value)
    _check(*arrays, 3)
    *batch, T, H, K = query.shape
    S, width = first_value.shape[-3], first_value.shape[-1] + 1
    require_causal_states(is_causal, initial_state, return_state)
    require(
        not is_causal or T == S,
        f"first_key has shape {first_key.shape}; with is_causal its length is query's, {T}.",
    )
    size = (16 if is_causal else 512) if chunk_size is None else chunk_size
    require(size >= 1, f"chunk_size={chunk_size}; expected at least 1.")
    shape = (*batch, H, 2, _rank(K, degree), width)
    check_shape("initial_state", initial_state, shape, "[*B, H, 2, R, V + 1]")
    dtype = accumulator_dtype(*arrays, initial_state)
    arrays = [jnp.moveaxis(x, -2, -3) for x in arrays]  # [*B, H, T, .]
    fit = _Fit(degree, bound, precision, dtype)
    scale = jnp.asarray(1 / K if scale is None else scale, dtype)
    require(scale.ndim == 0, f"scale has shape {scale.shape}; expected a scalar.")
    query, *others = arrays
    arrays = [query.astype(dtype) * scale, *others]
    if is_causal:
        state = jnp.zeros(shape, dtype) if initial_state is None else initial_state.astype(dtype)
        y, state = _causal(fit, arrays, state, size)
    else:
        y = _both_ways(fit, arrays, size)
    y = jnp.moveaxis(y, -3, -2).astype(first_value.dtype)
    return (y, state) if return_state else y


@op("degree", "bound", "precision")
def tensor_attention_poly_step(
    state: Float[Array, "*B H 2 R _"],
    query: Float[Array, "*B H K"],
    first_key: Float[Array, "*B H K"],
    second_key: Float[Array, "*B H K"],
    first_value: Float[Array, "*B H V"],
    second_value: Float[Array, "*B H V"],
    *,
    degree: int = 2,
    bound: float | None = None,
    scale: Float[Array, ""] | float | None = None,
    precision=None,
):
    """One token of causal `tensor_attention_poly`.

        F_t = F_{t-1} + U2(k1_t) (x) v1_t,   G_t = G_{t-1} + U3(k2_t) (x) v2_t
        y_t = U1(q_t) (F_t * G_t), divided by its last column

    Args:
      state: F and G of the token before; zeros at the start.
      query: the query.
      first_key: the key as first token of a pair.
      second_key: as second.
      first_value: the value as first.
      second_value: as second.
      degree: of p.
      bound: as in `tensor_attention_poly`.
      scale: factor of the logits; None is 1 / K.
      precision: of the matrix product.

    Returns:
      (y [*B, H, V] in the dtype of first_value, the next state).

    Raises:
      ValueError: an array of the wrong shape.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> x = jnp.full((1, 1), 2.0)
      >>> y, state = ops.tensor_attention_poly_step(jnp.zeros((1, 2, 3, 2)), x, x, x, x, x)
      >>> round(float(y[0, 0]), 3)
      4.0

    Reference: tensor-attention
    """
    arrays = (query, first_key, second_key, first_value, second_value)
    _check(*arrays, 2)
    *batch, H, K = query.shape
    expected = (*batch, H, 2, _rank(K, degree), first_value.shape[-1] + 1)
    check_shape("state", state, expected, "[*B, H, 2, R, V + 1]")
    dtype = accumulator_dtype(*arrays, state)
    fit = _Fit(degree, bound, precision, dtype)
    scale = jnp.asarray(1 / K if scale is None else scale, dtype)
    u1 = fit.of_query(query.astype(dtype) * scale)
    u2, u3, v1, v2 = fit.of_pairs(first_key, second_key, first_value, second_value)
    added = jnp.stack([u2[..., None] * v1[..., None, :], u3[..., None] * v2[..., None, :]], -3)
    state = state.astype(dtype) + added
    both = state[..., 0, :, :] * state[..., 1, :, :]
    y = _normalized(jnp.einsum("...r,...rv->...v", u1, both, precision=precision))
    return y.astype(first_value.dtype), state


def _check(query, first_key, second_key, first_value, second_value, rank):
    check_rank(rank, query=query, first_key=first_key, first_value=first_value)
    *batch, width = query.shape
    layout = "[*B, H, .]"
    if rank == 3:
        batch[-2], layout = first_key.shape[-3], "[*B, S, H, .]"
    for name, key in (("first_key", first_key), ("second_key", second_key)):
        check_shape(name, key, (*batch, width), layout)
    for name, value in (("first_value", first_value), ("second_value", second_value)):
        check_shape(name, value, (*batch, first_value.shape[-1]), layout)


def _rank(width, degree):
    """Monomials of up to `degree` in `width` variables."""
    require(degree >= 1, f"degree={degree}; expected at least 1.")
    return math.comb(width + degree, degree)


def _coefficients(degree, bound):
    """Of the polynomial in place of exp, lowest power first."""
    if bound is None:
        return [1 / math.factorial(power) for power in range(degree + 1)]
    require(bound > 0, f"bound={bound}; expected a positive number.")
    fit = np.polynomial.Chebyshev.interpolate(np.exp, degree, domain=[-bound, bound])
    return [float(value) for value in fit.convert(kind=np.polynomial.Polynomial).coef]


def _powers(width, degree):
    """The exponents of each monomial, [R, width], in the order of `_monomials`."""
    level = np.zeros((1, width), int)
    levels, starts = [level], [0] * width
    for _ in range(degree):
        parts = [level[starts[d] :] + np.eye(width, dtype=int)[d] for d in range(width)]
        starts = np.cumsum([0] + [len(part) for part in parts])[:-1].tolist()
        level = np.concatenate(parts)
        levels.append(level)
    return np.concatenate(levels)


def _monomials(x, degree):
    """All products of up to `degree` entries of the last axis: [..., R].

    A level is ordered by its monomials' first variable, so that those which may follow a variable
    are a slice of the level before: no gathers.
    """
    width = x.shape[-1]
    level = jnp.ones_like(x[..., :1])
    levels, starts = [level], [0] * width
    for _ in range(degree):
        parts = [x[..., d : d + 1] * level[..., starts[d] :] for d in range(width)]
        starts = np.cumsum([0] + [part.shape[-1] for part in parts])[:-1].tolist()
        level = jnp.concatenate(parts, -1)
        levels.append(level)
    return jnp.concatenate(levels, -1)


@dataclasses.dataclass(frozen=True)
class _Fit:
    """The polynomial of a call, and the features that stand for it."""

    degree: int
    bound: float | None
    precision: object
    dtype: object

    def of_query(self, query):
        """U1: the monomials of scaled queries, with the polynomial's coefficients."""
        powers = _powers(query.shape[-1], self.degree)
        totals = powers.sum(-1)
        coefficients = np.array(_coefficients(self.degree, self.bound))[totals]
        # the multinomial coefficients of (sum_d q_d a_d b_d)^total
        factorials = np.vectorize(math.factorial)
        coefficients = coefficients * factorials(totals) / factorials(powers).prod(-1)
        coefficients = jnp.asarray(coefficients, self.dtype)
        u1 = _monomials(query, self.degree)
        return u1 * coefficients.reshape((1,) * (u1.ndim - 1) + coefficients.shape)

    def of_pairs(self, first_key, second_key, first_value, second_value):
        """U2 and U3, the monomials of the keys, and the values with a last column of ones."""
        keys = (_monomials(key.astype(self.dtype), self.degree) for key in (first_key, second_key))
        values = (
            jnp.concatenate(
                [v.astype(self.dtype), jnp.ones((*v.shape[:-1], 1), self.dtype)], axis=-1
            )
            for v in (first_value, second_value)
        )
        return *keys, *values

    def dot(self, subscripts, *arrays):
        return jnp.einsum(subscripts, *arrays, precision=self.precision)


def _normalized(y):
    return divide(y[..., :-1], y[..., -1:])


def _chunked(x, size):
    """[..., T, d] as [chunks, ..., size, d], padded with zeros."""
    count = max(-(-x.shape[-2] // size), 1)
    padding = [(0, 0)] * x.ndim
    padding[-2] = (0, count * size - x.shape[-2])
    x = jnp.pad(x, padding).reshape(*x.shape[:-2], count, size, x.shape[-1])
    return jnp.moveaxis(x, -3, 0)


def _joined(y, length):
    """[chunks, ..., size, d] as [..., length, d]."""
    return lax.collapse(jnp.moveaxis(y, 0, -3), -3, -1)[..., :length, :]


def _valid(x, size, dtype):
    """1 for tokens of x, 0 for padding, which adds no value and no one: [chunks, .., size, 1]."""
    valid = _chunked(jnp.ones((*(1,) * (x.ndim - 2), x.shape[-2], 1), dtype), size)
    return vary_like(valid, x)


def _both_ways(fit, arrays, size):
    """The two sums over all tokens, then what every query reads of their product."""
    query, *others = arrays
    tokens = [_chunked(x, min(size, max(x.shape[-2], 1))) for x in others]
    valid = _valid(others[0], tokens[0].shape[-2], fit.dtype)

    @jax.checkpoint
    def add(sums, inputs):
        *pairs, valid = inputs
        u2, u3, v1, v2 = fit.of_pairs(*pairs)
        first = fit.dot("...sr,...sv->...rv", u2, v1 * valid)
        second = fit.dot("...sr,...sv->...rv", u3, v2 * valid)
        return (sums[0] + first, sums[1] + second), None

    shape = (*query.shape[:-2], _rank(query.shape[-1], fit.degree), others[2].shape[-1] + 1)
    zeros = vary_like(jnp.zeros(shape, fit.dtype), *arrays)
    (first, second), _ = lax.scan(add, (zeros, zeros), (*tokens, valid))
    both = first * second

    @jax.checkpoint
    def read(query):
        return _normalized(fit.dot("...tr,...rv->...tv", fit.of_query(query), both))

    queries = _chunked(query, min(size, max(query.shape[-2], 1)))
    return _joined(lax.map(read, queries), query.shape[-2])


def _causal(fit, arrays, state, size):
    """Chunk by chunk: within one, the sums of every token; only those at its ends are kept."""
    length = arrays[0].shape[-2]
    past = jnp.tri(size, dtype=fit.dtype)

    @jax.checkpoint
    def chunk(state, inputs):
        query, *pairs, valid = inputs
        u2, u3, v1, v2 = fit.of_pairs(*pairs)
        first, second = (
            state[..., which, None, :, :]
            + fit.dot("ts,...srv->...trv", past, u[..., :, None] * (v * valid)[..., None, :])
            for which, u, v in ((0, u2, v1), (1, u3, v2))
        )
        y = fit.dot("...tr,...trv->...tv", fit.of_query(query), first * second)
        return jnp.stack([first[..., -1, :, :], second[..., -1, :, :]], -3), _normalized(y)

    state = vary_like(state, *arrays)
    chunked = [_chunked(x, size) for x in arrays]
    state, y = lax.scan(chunk, state, (*chunked, _valid(arrays[0], size, fit.dtype)))
    return _joined(y, length), state
