"""Third-order attention with a polynomial for the exponential, as its equations."""

import math

import jax.numpy as jnp
import numpy as np

from scanmax.ops.contract import accumulator_dtype


def _polynomial(x, degree, bound):
    """exp's Taylor polynomial, or its Lagrange interpolation at the Chebyshev points."""
    if bound is None:
        return sum(x**m / math.factorial(m) for m in range(degree + 1))
    points = bound * np.cos((2 * np.arange(degree + 1) + 1) * np.pi / (2 * degree + 2))
    y = jnp.zeros_like(x)
    for i, point in enumerate(points):
        others = np.delete(points, i)
        basis = math.prod((x - float(other)) / float(point - other) for other in others)
        y = y + math.exp(point) * basis
    return y


def tensor_attention_poly(
    query,
    first_key,
    second_key,
    first_value,
    second_value,
    *,
    degree=2,
    bound=None,
    scale=None,
    is_causal=False,
    initial_state=None,
    return_state=False,
    precision=None,
):
    """sum_jk p(l_tjk) v1_j v2_k / sum_jk p(l_tjk), or token by token."""
    if is_causal:
        return _by_token(
            (query, first_key, second_key, first_value, second_value),
            initial_state,
            return_state,
            degree=degree,
            bound=bound,
            scale=scale,
        )
    scale = 1 / query.shape[-1] if scale is None else scale
    logits = scale * jnp.einsum("...thd,...jhd,...khd->...htjk", query, first_key, second_key)
    weights = _polynomial(logits, degree, bound)
    y = jnp.einsum("...htjk,...jhv,...khv->...thv", weights, first_value, second_value)
    total = jnp.moveaxis(jnp.sum(weights, (-2, -1)), -2, -1)[..., None]
    return y / jnp.where(total == 0, 1, total)


def _by_token(arrays, state, return_state, **options):
    time = arrays[0].ndim - 3
    *batch, length, heads, width = arrays[0].shape
    if state is None:
        rank = math.comb(width + options["degree"], width)
        shape = (*batch, heads, 2, rank, arrays[3].shape[-1] + 1)
        state = jnp.zeros(shape, accumulator_dtype(*arrays))
    outputs = []
    for t in range(length):
        token = [jnp.take(x, t, axis=time) for x in arrays]
        y, state = tensor_attention_poly_step(state, *token, **options)
        outputs.append(y)
    y = jnp.stack(outputs, time)
    return (y, state) if return_state else y


def tensor_attention_poly_step(
    state,
    query,
    first_key,
    second_key,
    first_value,
    second_value,
    *,
    degree=2,
    bound=None,
    scale=None,
    precision=None,
):
    """F_t = F_{t-1} + k1^m (x) v1,  G_t likewise,  y_t = sum_m c_m q^m F_m G_m / the same of 1."""
    width = query.shape[-1]
    dtype = accumulator_dtype(state, query, first_key, second_key, first_value, second_value)
    scale = 1 / width if scale is None else scale
    powers = _multi_indices(width, degree)
    x = np.linspace(-1, 1, degree + 1)
    taylor = np.array([1 / math.factorial(m) for m in range(degree + 1)])
    chebyshev = np.polyfit(x, np.array(_polynomial(x, degree, bound)), degree)[::-1]
    coefficients = taylor if bound is None else chebyshev
    totals = [sum(m) for m in powers]
    multinomials = [math.factorial(sum(m)) / math.prod(map(math.factorial, m)) for m in powers]
    c = np.array([coefficients[total] for total in totals]) * np.array(multinomials)

    def monomials(x):
        exponents = jnp.asarray(powers, dtype).reshape((1,) * (x.ndim - 1) + (len(powers), width))
        return jnp.prod(x.astype(dtype)[..., None, :] ** exponents, -1)

    u1 = monomials(query * scale)
    u1 = u1 * jnp.asarray(c, dtype).reshape((1,) * (u1.ndim - 1) + c.shape)
    u2, u3 = monomials(first_key), monomials(second_key)
    v1, v2 = (
        jnp.concatenate([v, jnp.ones_like(v[..., :1])], -1) for v in (first_value, second_value)
    )
    F = state[..., 0, :, :] + u2[..., :, None] * v1[..., None, :]
    G = state[..., 1, :, :] + u3[..., :, None] * v2[..., None, :]
    y = jnp.einsum("...r,...rv->...v", u1, F * G)
    total = jnp.where(y[..., -1:] == 0, 1, y[..., -1:])
    return (y[..., :-1] / total).astype(first_value.dtype), jnp.stack([F, G], -3)


def _multi_indices(width, degree):
    """Exponents of the monomials: by total degree, then by variables in order."""
    found = []
    for total in range(degree + 1):
        indices = [tuple(m) for m in np.ndindex(*(total + 1,) * width) if sum(m) == total]
        found.extend(sorted(indices, reverse=True))
    return found
