"""A chunk of each recurrence that is a kernel: the delta rule, decays of channels, Mamba's scan."""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from scanmax.ops.kernel_parts import column, dot, one_row, places, summed
from scanmax.ops.scan.kernel import ROWS, TOKENS, WEIGHTS, Kernel

# Tokens of a chunk: a multiple of these where there is a matrix of a chunk's pairs, and these where
# token after token is taken, each written out.
PAIRS, STEPS = 64, 16
# A decay to nothing, in place of a logarithm that is not finite: exp of it is 0, 0 times it is 0.
NOTHING = -1e30


def finite(log_decay):
    """Logarithms of decays in float32, `NOTHING` for those that are not finite."""
    return jnp.maximum(log_decay.astype(jnp.float32), NOTHING)


def delta_rule(precision, state, q, k, v, beta, log_decay):
    """u = (I + L)^-1 beta (v - E k S), L = beta (k k^T) decay below the diagonal; y, S' from u."""
    product = functools.partial(dot, precision=precision)
    q, k, v = (x.astype(jnp.float32) for x in (q, k, v))
    i, j = places(q.shape[0])
    beta, a = column(beta.astype(jnp.float32)), column(finite(log_decay))
    sums = summed(i >= j, jnp.where(i > j, a, 0.0))
    decay = jnp.where(i >= j, jnp.exp(sums), 0.0)
    lower = jnp.where(i > j, beta * product(k, k, (1, 1)) * decay, 0.0)
    inverse = unit_inverse(lower, precision)
    total = summed(i >= j, a)
    into, through = jnp.exp(total), jnp.exp(one_row(total, q.shape[0] - 1))
    out = jnp.exp(column(one_row(sums, q.shape[0] - 1)))
    known = beta * (v - into * product(k, state))
    write = product(inverse, known)
    scores = product(q, k, (1, 1)) * decay
    y = product(q * into, state) + product(scores, write)
    return y, through * state + product(k * out, write, (0, 0))


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def unit_inverse(lower, precision):
    """(I + L)^-1 of strictly lower triangular L, by blocks of 1, 2, 4, ... tokens.

    With A and D inverted along the diagonal, the corner of [[A, 0], [C, D]]^-1 is -D^-1 C A^-1.
    """
    i, j = places(lower.shape[0])
    inverse = jnp.where(i == j, 1.0, 0.0)
    width = 1
    while width < lower.shape[0]:
        corner = (i // (2 * width) == j // (2 * width)) & (i // width > j // width)
        there = jnp.where(corner, lower, 0.0)
        step = dot(dot(inverse, there, precision=precision), inverse, precision=precision)
        inverse = inverse - step
        width *= 2
    return inverse


@unit_inverse.defjvp
def _unit_inverse_tangent(precision, primals, tangents):
    inverse = unit_inverse(*primals, precision)
    step = dot(dot(inverse, tangents[0], precision=precision), inverse, precision=precision)
    return inverse, -step


def channels(diagonal, precision, state, q, k, v, log_decay):
    """A decay for each key channel: between pairs of blocks of 1, 2, 4, ... tokens.

    The decay from a token of the left block to one of the right is exp(sum to the end of the left)
    times exp(sum from the start of the right): both at most 1, whatever the decays.
    """
    product = functools.partial(dot, precision=precision)
    q, k, v = (x.astype(jnp.float32) for x in (q, k, v))
    a, size = finite(log_decay), q.shape[0]
    i, j = places(size)
    scores = jnp.zeros((size, size), jnp.float32)
    if diagonal:
        scores = jnp.where(i == j, product(q, k, (1, 1)), 0.0)
    width = 1
    while width < size:
        own = i // width == j // width
        right, left = q * jnp.exp(summed(own & (i >= j), a)), k * jnp.exp(summed(own & (i < j), a))
        pair = (i // (2 * width) == j // (2 * width)) & (i // width > j // width)
        scores = scores + jnp.where(pair, product(right, left, (1, 1)), 0.0)
        width *= 2
    to, after = summed(i >= j, a), summed(i < j, a)
    y = product(q * jnp.exp(to), state) + product(scores, v)
    through = column(jnp.exp(one_row(to, size - 1)))
    return y, through * state + product(k * jnp.exp(after), v, (0, 0))


def selective(state, x, dt, B, C, starts, A):
    """h = exp(dt A) h + B (dt x), y = C h for [N, d] states, token after token.

    `starts` is 1 where the state is forgotten first, else 0.
    """
    x, dt, B, C, starts = (each.astype(jnp.float32) for each in (x, dt, B, C, starts))
    u = dt * x
    i = lax.broadcasted_iota(jnp.int32, u.shape, 0)
    y = jnp.zeros(u.shape, jnp.float32)
    kept = 1 - column(starts)
    for t in range(u.shape[0]):
        decay = jnp.exp(one_row(dt, t) * A) * one_row(kept, t)
        state = decay * state + column(one_row(B, t)) * one_row(u, t)
        y = jnp.where(i == t, jnp.sum(column(one_row(C, t)) * state, 0, keepdims=True), y)
    return y, state


@functools.cache
def delta_rule_kernel(precision, chunk_size=PAIRS) -> Kernel:
    """Of q, k [B, H, T, K], v [B, H, T, V], beta [B, H, T], log_decay [B, H, T]."""
    chunk = functools.partial(delta_rule, precision)
    kinds = (TOKENS, TOKENS, TOKENS, ROWS, ROWS)
    return Kernel("delta_rule", chunk, kinds, chunk_size + -chunk_size % PAIRS)


@functools.cache
def channels_kernel(diagonal, precision, chunk_size=PAIRS) -> Kernel:
    """Of q, k [B, G, T, K], v [B, H, T, V], log_decay [B, H, T, K]."""
    chunk = functools.partial(channels, diagonal, precision)
    return Kernel("channel_decays", chunk, (TOKENS,) * 4, chunk_size + -chunk_size % PAIRS)


@functools.cache
def selective_kernel() -> Kernel:
    """Of x, dt [B, H, T, d], B, C [B, 1, T, N], starts [B, H, T], A [B, H, N, d]."""
    kinds = (TOKENS, TOKENS, TOKENS, TOKENS, ROWS, WEIGHTS)
    return Kernel("selective_scan", selective, kinds, STEPS)
