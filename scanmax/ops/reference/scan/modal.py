"""Modal state spaces: the filter as a sum of powers, the output as a sum over the past."""

import jax.numpy as jnp
from jax import lax

from scanmax.ops.contract import accumulator_dtype, align


def modal_ssm(
    x,
    log_magnitude,
    angle,
    residue,
    *,
    D=None,
    initial_state=None,
    return_state=False,
    precision=None,
):
    """y_t = sum_{s <= t} h_{t-s} x_s, and Re R lambda^t of the state before the first token."""
    dtype = accumulator_dtype(x, log_magnitude, angle, residue, D, initial_state)
    inputs, length = x.astype(dtype), x.shape[-2]
    pole, weight = _poles(log_magnitude.astype(dtype), angle.astype(dtype), residue.astype(dtype))
    D = None if D is None else D.astype(dtype)
    taps = modal_ssm_filter(
        log_magnitude.astype(dtype),
        angle.astype(dtype),
        residue.astype(dtype),
        length=length,
        D=D,
    )
    state = jnp.zeros((*x.shape[:-2], *pole.shape), pole.dtype)
    if initial_state is not None:
        initial_state = initial_state.astype(dtype)
        state = lax.complex(initial_state[..., 0], initial_state[..., 1])
    rows = []
    for t in range(length):
        past = sum(align(taps[t - s], inputs[..., s, :]) * inputs[..., s, :] for s in range(t + 1))
        read = align(weight * pole**t, state) * state
        rows.append(past + read.real.sum(-1))
    y = jnp.stack(rows, -2).astype(x.dtype)
    last = align(pole**length, state) * state
    for s in range(length):
        token = inputs[..., s, :, None]
        last = last + align(pole ** (length - 1 - s), last) * token.astype(last.dtype)
    state = jnp.stack([last.real, last.imag], -1)
    return (y, state) if return_state else y


def modal_ssm_step(state, x, log_magnitude, angle, residue, *, D=None):
    """The equation for one token."""
    y, state = modal_ssm(
        x[..., None, :],
        log_magnitude,
        angle,
        residue,
        D=D,
        initial_state=state,
        return_state=True,
    )
    return y[..., 0, :], state


def modal_ssm_filter(log_magnitude, angle, residue, *, length, D=None):
    """h_0 = D, h_t = Re sum_n R_n lambda_n^(t-1)."""
    dtype = accumulator_dtype(log_magnitude, angle, residue, D)
    pole, weight = _poles(log_magnitude.astype(dtype), angle.astype(dtype), residue.astype(dtype))
    first = jnp.zeros(pole.shape[:1], dtype) if D is None else D.astype(dtype)
    taps = [(weight * pole ** (t - 1)).real.sum(-1) for t in range(1, length)]
    return jnp.stack([first, *taps]).astype(residue.dtype)


def modal_ssm_matrix(log_magnitude, angle, residue, *, length, D=None):
    """M_ts = h_{t-s}."""
    taps = modal_ssm_filter(log_magnitude, angle, residue, length=length, D=D)
    zero = jnp.zeros_like(taps[0])
    rows = [
        jnp.stack([taps[t - s] if s <= t else zero for s in range(length)], -1)
        for t in range(length)
    ]
    return jnp.stack(rows, -2)


def hankel_singular_values(filter):
    """Of H_ij = h_{1+i+j}, which is symmetric: the sizes of its eigenvalues."""
    size = filter.shape[0] // 2
    taps = filter.astype(accumulator_dtype(filter))
    rows = [jnp.stack([taps[1 + i + j] for j in range(size)], -1) for i in range(size)]
    matrix = jnp.stack(rows, -2)  # [D, n, n]
    return jnp.sort(jnp.abs(jnp.linalg.eigvalsh(matrix)), axis=-1)[:, ::-1]


def hankel_order(filter, *, tolerance=1e-2):
    """How many singular values exceed tolerance times the first."""
    values = hankel_singular_values(filter)
    return jnp.stack([(row > tolerance * row[0]).sum() for row in values]).astype(jnp.int32)


def _poles(log_magnitude, angle, residue):
    return jnp.exp(lax.complex(log_magnitude, angle)), lax.complex(residue[..., 0], residue[..., 1])
