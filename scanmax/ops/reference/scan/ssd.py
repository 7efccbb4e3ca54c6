"""State-space duality, one token at a time, and its non-causal sum."""

import jax
import jax.numpy as jnp
from jax import lax

from scanmax.ops.contract import accumulator_dtype, align
from scanmax.ops.reference.segments import in_one_segment


def ssd(
    x,
    dt,
    A,
    B,
    C,
    *,
    D=None,
    dt_bias=None,
    dt_softplus=False,
    dt_limit=None,
    is_causal=True,
    segment_ids=None,
    initial_state=None,
    return_state=False,
    precision=None,
):
    """S_t = exp(dt_t A) S_{t-1} + dt_t B_t (x) x_t, y_t = S_t^T C_t + D x_t."""
    if not is_causal:
        options = {"D": D, "dt_bias": dt_bias, "dt_softplus": dt_softplus, "dt_limit": dt_limit}
        matrix = ssd_matrix(dt, A, B, C, **options, is_causal=False, segment_ids=segment_ids)
        dtype = accumulator_dtype(matrix, x)
        y = jnp.einsum("...hij,...jhp->...ihp", matrix.astype(dtype), x.astype(dtype))
        return y.astype(x.dtype)
    dtype = accumulator_dtype(x, dt, A, B, C, initial_state)
    time = x.ndim - 3
    if initial_state is None:
        initial_state = jnp.zeros((*x.shape[:time], x.shape[-2], B.shape[-1], x.shape[-1]), dtype)

    if segment_ids is None:
        segment_ids = jnp.zeros(x.shape[:-2], jnp.int32)

    def token(carry, inputs):
        state, segment = carry
        x_t, dt_t, B_t, C_t, segment_t = inputs
        state = jnp.where((segment_t == segment)[..., None, None, None], state, 0)
        y, state = ssd_step(
            state,
            x_t,
            dt_t,
            A,
            B_t,
            C_t,
            D=D,
            dt_bias=dt_bias,
            dt_softplus=dt_softplus,
            dt_limit=dt_limit,
        )
        return (state, segment_t), y

    by_token = [jnp.moveaxis(y, time, 0) for y in (x, dt, B, C, segment_ids)]
    (state, _), y = lax.scan(token, (initial_state.astype(dtype), by_token[-1][0]), by_token)
    y = jnp.moveaxis(y, 0, time)
    return (y, state) if return_state else y


def ssd_step(
    state, x, dt, A, B, C, *, D=None, dt_bias=None, dt_softplus=False, dt_limit=None, precision=None
):
    """The equation for one token."""
    dtype = accumulator_dtype(state, x, dt, A, B, C)
    dt = _dt(dt, dt_bias, dt_softplus, dt_limit, dtype)
    B, C = (_per_head(y, x.shape[-2]).astype(dtype) for y in (B, C))
    inputs = dt[..., None] * x.astype(dtype)
    decay = jnp.exp(dt * align(A.astype(dtype), dt))
    state = decay[..., None, None] * state.astype(dtype) + B[..., :, None] * inputs[..., None, :]
    y = jnp.einsum("...n,...np->...p", C, state)
    y = y if D is None else y + align(D.astype(dtype), x, 1) * x.astype(dtype)
    return y.astype(x.dtype), state


def ssd_matrix(
    dt,
    A,
    B,
    C,
    *,
    D=None,
    dt_bias=None,
    dt_softplus=False,
    dt_limit=None,
    is_causal=True,
    segment_ids=None,
    precision=None,
):
    """M_ij = C_i . B_j exp(A sum of dt over the tokens next to j up to i) dt_j, plus D."""
    dtype = accumulator_dtype(dt, A, B, C, D)
    dt = _dt(dt, dt_bias, dt_softplus, dt_limit, dtype)
    i, j, t = jnp.ix_(*[jnp.arange(dt.shape[-2])] * 3)
    log_decay = (dt * align(A.astype(dtype), dt))[..., None, None, :, :]
    between = align(((j < t) & (t <= i)) | ((i <= t) & (t < j)), log_decay, 1)
    sums = jnp.where(between, log_decay, 0).sum(-2)  # [*B, T, T, H]
    weights = jnp.exp(sums) * dt[..., None, :, :] * _dots(B, C, dt.shape[-1], dtype)
    matrix = jnp.moveaxis(weights, -1, -3)
    matrix = jnp.tril(matrix) if is_causal else matrix
    if segment_ids is not None:
        matrix = jnp.where(in_one_segment(segment_ids)[..., None, :, :], matrix, 0)
    return _plus_skip(matrix, D).astype(C.dtype)


def nc_ssd(
    x,
    dt,
    A,
    B,
    C,
    *,
    D=None,
    dt_bias=None,
    dt_softplus=False,
    dt_limit=None,
    positive=True,
    group_order="blocks",
    precision=None,
):
    """y_i = sum_j C_i . B_j w_j x_j + D x_i, with w_j = -dt_j A, or dt_j A."""
    matrix = nc_ssd_matrix(
        dt,
        A,
        B,
        C,
        D=D,
        dt_bias=dt_bias,
        dt_softplus=dt_softplus,
        dt_limit=dt_limit,
        positive=positive,
        group_order=group_order,
    )
    dtype = accumulator_dtype(matrix, x)
    y = jnp.einsum("...hij,...jhp->...ihp", matrix.astype(dtype), x.astype(dtype))
    return y.astype(x.dtype)


def nc_ssd_matrix(
    dt,
    A,
    B,
    C,
    *,
    D=None,
    dt_bias=None,
    dt_softplus=False,
    dt_limit=None,
    positive=True,
    group_order="blocks",
    precision=None,
):
    """M_ij = C_i . B_j w_j, plus D on i = j."""
    dtype = accumulator_dtype(dt, A, B, C, D)
    weight = _dt(dt, dt_bias, dt_softplus, dt_limit, dtype)
    weight = weight * align(A.astype(dtype), weight)
    weight = -weight if positive else weight
    weights = weight[..., None, :, :] * _dots(B, C, dt.shape[-1], dtype, group_order)
    return _plus_skip(jnp.moveaxis(weights, -1, -3), D).astype(C.dtype)


def _dt(dt, dt_bias, dt_softplus, dt_limit, dtype):
    dt = dt.astype(dtype)
    dt = dt if dt_bias is None else dt + align(dt_bias.astype(dtype), dt)
    dt = jax.nn.softplus(dt) if dt_softplus else dt
    return dt if dt_limit is None else jnp.clip(dt, *dt_limit)


def _per_head(x, heads, group_order="blocks"):
    """Head h reads group h // (H / G), or in turns h mod G."""
    groups, h = x.shape[-2], jnp.arange(heads)
    chosen = h // (heads // groups) if group_order == "blocks" else h % groups
    return jnp.take(x, chosen, axis=-2)


def _dots(B, C, heads, dtype, group_order="blocks"):
    B, C = (_per_head(y, heads, group_order).astype(dtype) for y in (B, C))
    return (C[..., :, None, :, :] * B[..., None, :, :, :]).sum(-1)  # [*B, T, T, H]


def _plus_skip(matrix, D):
    if D is None:
        return matrix
    eye = jnp.eye(matrix.shape[-1], dtype=matrix.dtype)
    return matrix + align(D.astype(matrix.dtype), matrix, 2) * align(eye, matrix)
