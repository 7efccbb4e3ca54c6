"""The selective scan, one token at a time."""

import jax
import jax.numpy as jnp
from jax import lax

from scanmax.ops.contract import accumulator_dtype, align
from scanmax.ops.reference.segments import in_one_segment


def selective_scan(
    x,
    dt,
    A,
    B,
    C,
    *,
    D=None,
    dt_bias=None,
    dt_softplus=False,
    is_causal=True,
    segment_ids=None,
    initial_state=None,
    return_state=False,
):
    """h_t = exp(dt_t A) h_{t-1} + dt_t B_t x_t, y_t = h_t C_t + D x_t."""
    if not is_causal:
        options = {"D": D, "dt_bias": dt_bias, "dt_softplus": dt_softplus, "is_causal": False}
        matrix = selective_scan_matrix(dt, A, B, C, **options, segment_ids=segment_ids)
        dtype = accumulator_dtype(matrix, x)
        y = jnp.einsum("...dij,...jd->...id", matrix.astype(dtype), x.astype(dtype))
        return y.astype(x.dtype)
    dtype = accumulator_dtype(x, dt, A, B, C, initial_state)
    time = x.ndim - 2
    if initial_state is None:
        initial_state = jnp.zeros((*x.shape[:time], *A.shape), dtype)

    if segment_ids is None:
        segment_ids = jnp.zeros(x.shape[:-1], jnp.int32)

    def token(carry, inputs):
        state, segment = carry
        x_t, dt_t, B_t, C_t, segment_t = inputs
        state = jnp.where((segment_t == segment)[..., None, None], state, 0)
        y, state = selective_scan_step(
            state, x_t, dt_t, A, B_t, C_t, D=D, dt_bias=dt_bias, dt_softplus=dt_softplus
        )
        return (state, segment_t), y

    by_token = [jnp.moveaxis(y, time, 0) for y in (x, dt, B, C, segment_ids)]
    (state, _), y = lax.scan(token, (initial_state.astype(dtype), by_token[-1][0]), by_token)
    y = jnp.moveaxis(y, 0, time)
    return (y, state) if return_state else y


def selective_scan_step(state, x, dt, A, B, C, *, D=None, dt_bias=None, dt_softplus=False):
    """The equation for one token."""
    dtype = accumulator_dtype(state, x, dt, A, B, C)
    dt = _dt(dt, dt_bias, dt_softplus, dtype)[..., None]
    B, C = (y.astype(dtype)[..., None, :] for y in (B, C))
    state = (
        jnp.exp(dt * align(A.astype(dtype), state)) * state.astype(dtype)
        + dt * B * x.astype(dtype)[..., None]
    )
    y = (state * C).sum(-1)
    y = y if D is None else y + align(D.astype(dtype), x) * x.astype(dtype)
    return y.astype(x.dtype), state


def selective_scan_matrix(
    dt, A, B, C, *, D=None, dt_bias=None, dt_softplus=False, is_causal=True, segment_ids=None
):
    """M_ij = sum_n C_in exp(A_n sum of dt over the tokens next to j up to i) B_jn dt_j, plus D."""
    dtype = accumulator_dtype(dt, A, B, C, D)
    dt = _dt(dt, dt_bias, dt_softplus, dtype)
    i, j, t = jnp.ix_(*[jnp.arange(dt.shape[-2])] * 3)
    steps = dt[..., None, None, :, :]
    between = align(((j < t) & (t <= i)) | ((i <= t) & (t < j)), steps, 1)
    sums = jnp.where(between, steps, 0).sum(-2)[..., None]  # [*B, T, T, D, 1]
    weights = jnp.exp(sums * align(A.astype(dtype), sums)) * dt[..., None, :, :, None]
    weights = weights * C.astype(dtype)[..., :, None, None, :]
    weights = weights * B.astype(dtype)[..., None, :, None, :]
    matrix = jnp.moveaxis(weights.sum(-1), -1, -3)
    matrix = jnp.tril(matrix) if is_causal else matrix
    if segment_ids is not None:
        matrix = jnp.where(in_one_segment(segment_ids)[..., None, :, :], matrix, 0)
    if D is None:
        return matrix.astype(C.dtype)
    eye = jnp.eye(matrix.shape[-1], dtype=dtype)
    return (matrix + align(D.astype(dtype), matrix, 2) * align(eye, matrix)).astype(C.dtype)


def _dt(dt, dt_bias, dt_softplus, dtype):
    dt = dt.astype(dtype)
    dt = dt if dt_bias is None else dt + align(dt_bias.astype(dtype), dt)
    return jax.nn.softplus(dt) if dt_softplus else dt
