"""The wkv of RWKV as double sums over tokens."""

import jax
import jax.numpy as jnp

from scanmax.ops.contract import accumulator_dtype, align
from scanmax.ops.reference.segments import segment_runs


def wkv(
    key,
    value,
    log_decay,
    bonus,
    *,
    is_causal=True,
    segment_ids=None,
    initial_state=None,
    return_state=False,
):
    """The mean of all values, weighed by exp((|t-s| - 1) log_decay + k_s), and exp(u + k_t)."""
    dtype = accumulator_dtype(key, value, log_decay, bonus, initial_state)
    k, v = key.astype(dtype), value.astype(dtype)
    decay, u = log_decay.astype(dtype), bonus.astype(dtype)
    length = k.shape[-2]
    if segment_ids is None:
        segment_ids = jnp.zeros(k.shape[:-1], jnp.int32)
    segments = segment_runs(segment_ids)
    rows = [_logits(k, decay, u, t, is_causal, segments) for t in range(length)]
    after = k + align(_reach(decay, jnp.arange(length)[::-1]), k)
    after = jnp.where((segments == segments[..., -1:])[..., None], after, -jnp.inf)
    if initial_state is not None:
        # a token of its own before the first, its weight decayed by the tokens between
        mean, weight = (initial_state.astype(dtype)[..., i, :][..., None, :] for i in (0, 1))
        v = jnp.concatenate([mean, v], -2)
        steps = [align(_reach(decay, jnp.array([t])), weight) for t in range(length + 1)]
        # the first segment's alone
        steps = [
            jnp.where((segments[..., min(t, length - 1)] > 0)[..., None, None], -jnp.inf, step)
            for t, step in enumerate(steps)
        ]
        rows = [jnp.concatenate([weight + steps[t], row], -2) for t, row in enumerate(rows)]
        after = jnp.concatenate([weight + steps[length], after], -2)
    means = [_mean(row, v) for row in [*rows, after]]
    y = jnp.stack(means[:-1], -2).astype(value.dtype)
    state = jnp.stack([means[-1], jax.nn.logsumexp(after, axis=-2)], -2)
    return (y, state) if return_state else y


def wkv_step(state, key, value, log_decay, bonus):
    """One token after a state."""
    y, state = wkv(
        key[..., None, :],
        value[..., None, :],
        log_decay,
        bonus,
        initial_state=state,
        return_state=True,
    )
    return y[..., 0, :], state


def wkv_matrix(key, log_decay, bonus, *, is_causal=True, segment_ids=None):
    """M_ts = softmax over s of (|t-s| - 1) log_decay + k_s, on the diagonal u + k_t."""
    dtype = accumulator_dtype(key, log_decay, bonus)
    k, decay, u = key.astype(dtype), log_decay.astype(dtype), bonus.astype(dtype)
    segments = (
        jnp.zeros(k.shape[:-1], jnp.int32) if segment_ids is None else segment_runs(segment_ids)
    )
    rows = [_logits(k, decay, u, t, is_causal, segments) for t in range(k.shape[-2])]
    matrix = jnp.stack([jax.nn.softmax(row, axis=-2) for row in rows], -3)  # [*B, T, S, D]
    return jnp.moveaxis(matrix, -1, -3).astype(key.dtype)


def _reach(decay, steps):
    return steps[:, None].astype(decay.dtype) * decay[None]


def _logits(k, decay, u, t, is_causal, segments):
    """Of token t: for every token s, [*B, S, D]."""
    s = jnp.arange(k.shape[-2])
    added = jnp.where((s == t)[:, None], u[None], _reach(decay, jnp.abs(t - s) - 1))
    logits = k + align(added, k)
    logits = jnp.where((segments == segments[..., t : t + 1])[..., None], logits, -jnp.inf)
    return jnp.where(align((s <= t)[:, None], k), logits, -jnp.inf) if is_causal else logits


def _mean(logits, v):
    return (jax.nn.softmax(logits, axis=-2) * v).sum(-2)
