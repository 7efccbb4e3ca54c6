"""The wkv of RWKV-6 as double sums over tokens."""

import jax.numpy as jnp

from scanmax.ops.contract import accumulator_dtype, align
from scanmax.ops.reference.segments import segment_runs


def wkv6(
    query,
    key,
    value,
    log_decay,
    bonus,
    *,
    is_causal=True,
    segment_ids=None,
    initial_state=None,
    return_state=False,
    precision=None,
):
    """y_t = sum_s M_ts v_s; a state is read through the decays of all tokens before t."""
    dtype = accumulator_dtype(query, key, value, log_decay, bonus, initial_state)
    q, k, v, a, u = (x.astype(dtype) for x in (query, key, value, log_decay, bonus))
    runs = segment_runs(jnp.zeros(q.shape[:-2], jnp.int32) if segment_ids is None else segment_ids)
    matrix = wkv6_matrix(q, k, a, u, is_causal=is_causal, segment_ids=runs)
    y = jnp.einsum("...hts,...shv->...thv", matrix, v)
    length = q.shape[-3]
    to_end = jnp.stack([a[..., s + 1 :, :, :].sum(-3) for s in range(length)], -3)
    kept = (runs == runs[..., -1:])[..., None, None]
    state = jnp.einsum("...shk,...shv->...hkv", jnp.where(kept, k * jnp.exp(to_end), 0), v)
    if initial_state is not None:
        initial_state = initial_state.astype(dtype)
        before = jnp.stack([a[..., :t, :, :].sum(-3) for t in range(length)], -3)
        first = (runs == 0)[..., None, None]
        read = jnp.where(first, q * jnp.exp(before), 0)
        y = y + jnp.einsum("...thk,...hkv->...thv", read, initial_state)
        whole = jnp.where(first[..., -1, :, :], jnp.exp(a.sum(-3)), 0)
        state = state + whole[..., None] * initial_state
    y = y.astype(value.dtype)
    return (y, state) if return_state else y


def wkv6_step(state, query, key, value, log_decay, bonus, *, precision=None):
    """One token after a state."""
    token = [x[..., None, :, :] for x in (query, key, value, log_decay)]
    y, state = wkv6(*token, bonus, initial_state=state, return_state=True)
    return y[..., 0, :, :], state


def wkv6_matrix(query, key, log_decay, bonus, *, is_causal=True, segment_ids=None, precision=None):
    """M_ts = sum_n q_tn k_sn exp(sum of log decays strictly between t and s)_n, and q_t . u k_t."""
    dtype = accumulator_dtype(query, key, log_decay, bonus)
    q, k, a, u = (x.astype(dtype) for x in (query, key, log_decay, bonus))
    length = q.shape[-3]
    rows = []
    for t in range(length):
        row = []
        for s in range(length):
            if s == t:
                weight = align(u, q[..., t, :, :])
            elif s > t and is_causal:
                weight = 0 * align(u, q[..., t, :, :])
            else:
                weight = jnp.exp(a[..., min(s, t) + 1 : max(s, t), :, :].sum(-3))
            row.append((q[..., t, :, :] * weight * k[..., s, :, :]).sum(-1))
        rows.append(jnp.stack(row, -1))
    matrix = jnp.stack(rows, -2)
    if segment_ids is not None:
        runs = segment_runs(segment_ids)
        same = runs[..., :, None] == runs[..., None, :]
        matrix = jnp.where(same[..., None, :, :], matrix, 0)
    return matrix.astype(query.dtype)
