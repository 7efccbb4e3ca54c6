"""The wkv of RWKV: weighted means with a decay per channel, in linear time and log space."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from scanmax.ops.contract import (
    accumulator_dtype,
    align,
    check_choice,
    check_implementation,
    check_rank,
    check_shape,
    op,
    platform,
    require_causal_states,
    vary_together,
)
from scanmax.ops.scan.diagonal import scan_leading
from scanmax.ops.scan.recurrence import flat_batch
from scanmax.ops.segments import (
    FORMS,
    quarantine,
    same_segment,
    segment_starts,
    spoil,
    spoil_rows,
    spoil_state,
)

# Below every level that a weight can have: the level of no weight at all.
_NOTHING = -1e30


@op("is_causal", "return_state", "form", "chunk_size", "implementation")
def wkv(
    key: Float[Array, "*B T D"],
    value: Float[Array, "*B T D"],
    log_decay: Float[Array, " D"],
    bonus: Float[Array, " D"],
    *,
    is_causal: bool = True,
    segment_ids: Int[Array, "*B T"] | None = None,
    initial_state: Float[Array, "*B 2 D"] | None = None,
    return_state: bool = False,
    form: str | None = None,
    chunk_size: int = 64,
    implementation=None,
):
    """The weighted mean of RWKV-4 per channel, over the past or (Bi-WKV) over all tokens.

        y_t = (sum_{s != t} exp((|t-s| - 1) log_decay + k_s) v_s + exp(u + k_t) v_t)
              / (the same sum without v)

    with s < t in the causal form. Log-space: keys of any size neither overflow nor vanish, and a
    key of -inf is a token that nobody reads (where all are, y is 0). The released kernel of
    Diffusion-RWKV also adds 1e-6 to its rescaled denominators; here it is left out. Decay and bonus
    are taken as they are: Diffusion-RWKV divides both by T first, RWKV-4 has
    log_decay = -exp(time_decay).

    Args:
      key: logarithms of the weights.
      value: the values.
      log_decay: per channel, at most 0 for a decay; the -w of the papers.
      bonus: u, added to a token's key when it reads itself.
      is_causal: read the past and the token itself only.
      segment_ids: packed sequences: where the number changes from a token to the next a new one
        starts, and nothing passes.
      initial_state: causal only: the mean of the values so far, and the logarithm of the sum of
        their weights as the first token meets it, of the first segment. None is (0, -inf).
      return_state: also return both after the last token, of the last segment, in accumulator
        precision.
      form: how the sums are carried: "recurrent" takes T steps, "parallel" is an associative scan
        of depth log T, "chunked" scans chunks side by side. None: "recurrent" on CPU, else
        "parallel".
      chunk_size: tokens per chunk of the chunked form.
      implementation: only "xla".

    Returns:
      [*B, T, D] in the dtype of value; with `return_state` also the state [*B, 2, D].

    Raises:
      ValueError: an array of the wrong shape, an unknown form, a state without is_causal.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax.ops import wkv
      >>> k, v = jnp.zeros((3, 1)), jnp.array([[1.0], [2.0], [4.0]])
      >>> wkv(k, v, jnp.log(jnp.array([0.5])), jnp.zeros(1))[:, 0]
      Array([1. , 1.5, 2.6], dtype=float32)

    Reference: diffusion-rwkv
    """
    check_choice("form", form, FORMS)
    check_implementation("wkv", implementation, ("xla",))
    _check(key, value, log_decay, bonus, 2)
    require_causal_states(is_causal, initial_state, return_state)
    batch, dim = key.shape[:-2], key.shape[-1]
    check_shape("initial_state", initial_state, (*batch, 2, dim), "[*B, 2, D]")
    check_shape("segment_ids", segment_ids, key.shape[:-1], "[*B, T]")
    dtype = accumulator_dtype(key, value, log_decay, bonus, initial_state)
    if initial_state is None:
        initial_state = _empty((*batch, dim), dtype)
    nothing = initial_state == -jnp.inf
    (value, key), state, spoiled = quarantine(
        segment_ids,
        (value,),
        decays=(key,),
        state=jnp.where(nothing, 0, initial_state),
        factors=1,
        is_causal=is_causal,
    )
    initial_state = jnp.where(nothing, initial_state, state)
    if form is None:
        form = "recurrent" if platform() == "cpu" else "parallel"
    k, v, state, log_decay, bonus, segment_ids = vary_together(
        *(flat_batch(x.astype(dtype), len(batch)) for x in (key, value, initial_state)),
        log_decay.astype(dtype)[None],
        bonus.astype(dtype)[None, None],
        flat_batch(segment_ids, len(batch)),
    )
    k, v = k.swapaxes(0, 1), v.swapaxes(0, 1)  # [T, B, D]

    def read(k, v, segment_ids):
        starts = None
        if segment_ids is not None:
            starts = segment_starts(segment_ids).swapaxes(0, 1)[..., None]  # [T, B, 1]
        return _before(k, v, log_decay, state, starts, (form, chunk_size, False))

    past, last = read(k, v, segment_ids)
    parts = [past, (jnp.stack([v, jnp.ones_like(v)], -2), bonus + k)]
    if not is_causal:
        ids = None if segment_ids is None else segment_ids[:, ::-1]
        future, _ = read(k[::-1], v[::-1], ids)
        parts.append(tuple(x[::-1] for x in future))
    y = _mean(*_join(parts)).swapaxes(0, 1).reshape(key.shape).astype(value.dtype)
    y = spoil(y, spoiled)
    return (y, spoil_state(last.reshape(*batch, 2, dim), spoiled)) if return_state else y


@op()
def wkv_step(
    state: Float[Array, "*B 2 D"],
    key: Float[Array, "*B D"],
    value: Float[Array, "*B D"],
    log_decay: Float[Array, " D"],
    bonus: Float[Array, " D"],
):
    """One token of causal `wkv`.

        y_t = (S_{t-1} + exp(u + k_t) (v_t, 1)) as a mean,
        S_t = exp(log_decay) S_{t-1} + exp(k_t) (v_t, 1)

    Args:
      state: the mean of the values so far and the logarithm of their weight; (0, -inf) at first.
      key: the logarithm of the weight.
      value: the value.
      log_decay: per channel, at most 0 for a decay.
      bonus: u.

    Returns:
      (y [*B, D] in the dtype of value, the next state in accumulator precision).

    Raises:
      ValueError: an array of the wrong shape.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax.ops import wkv_step
      >>> zero, state = jnp.zeros(1), jnp.array([[1.0], [0.0]])
      >>> wkv_step(state, zero, jnp.array([3.0]), zero, zero)[0]
      Array([2.], dtype=float32)

    Reference: diffusion-rwkv
    """
    _check(key, value, log_decay, bonus, 1)
    check_shape("state", state, (*key.shape[:-1], 2, key.shape[-1]), "[*B, 2, D]")
    dtype = accumulator_dtype(key, value, log_decay, bonus, state)
    k, v = key.astype(dtype), value.astype(dtype)
    log_decay, bonus = (align(x.astype(dtype), k) for x in (log_decay, bonus))
    sums, level = _sums_of(state.astype(dtype))
    own = jnp.stack([v, jnp.ones_like(v)], -2)
    y = _mean(*_join([(sums, level), (own, bonus + k)]))
    state = _state_of(*_join([(sums, level + log_decay), (own, k)]))
    return y.astype(value.dtype), state


@op("is_causal")
def wkv_matrix(
    key: Float[Array, "*B T D"],
    log_decay: Float[Array, " D"],
    bonus: Float[Array, " D"],
    *,
    is_causal: bool = True,
    segment_ids: Int[Array, "*B T"] | None = None,
) -> Float[Array, "*B D T T"]:
    """The matrix over tokens that `wkv` applies to each channel, for small T.

        M_ts = softmax over s of (|t-s| - 1) log_decay + k_s, on the diagonal u + k_t

    Args:
      key: logarithms of the weights.
      log_decay: per channel, at most 0 for a decay.
      bonus: u.
      is_causal: lower triangular.
      segment_ids: packed sequences; blocks on the diagonal.

    Returns:
      [*B, D, T, T] in the dtype of key: rows that sum to one, per channel.

    Raises:
      ValueError: an array of the wrong shape.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax.ops import wkv_matrix
      >>> wkv_matrix(jnp.zeros((2, 1)), jnp.zeros(1), jnp.zeros(1))[0]
      Array([[1. , 0. ],
             [0.5, 0.5]], dtype=float32)

    Reference: diffusion-rwkv
    """
    _check(key, key, log_decay, bonus, 2)
    check_shape("segment_ids", segment_ids, key.shape[:-1], "[*B, T]")
    (key,), _, spoiled = quarantine(segment_ids, (), decays=(key,), factors=1, is_causal=is_causal)
    dtype = accumulator_dtype(key, log_decay, bonus)
    length = key.shape[-2]
    t, s = jnp.ix_(*[jnp.arange(length)] * 2)
    steps = (jnp.abs(t - s) - 1).astype(dtype)
    own = (t == s)[None]
    added = jnp.where(
        own,
        bonus.astype(dtype)[:, None, None],
        log_decay.astype(dtype)[:, None, None] * steps[None],
    )
    keys = jnp.swapaxes(key.astype(dtype), -1, -2)[..., None, :]  # [*B, D, 1, T]
    logits = keys + align(added, keys)
    logits = jnp.where(align((s <= t) | (not is_causal), logits), logits, -jnp.inf)
    if segment_ids is not None:
        logits = jnp.where(same_segment(segment_ids)[..., None, :, :], logits, -jnp.inf)
    top = lax.stop_gradient(jnp.maximum(logits.max(-1, keepdims=True), _NOTHING))
    weights = jnp.exp(logits - top)
    total = weights.sum(-1, keepdims=True)
    return spoil_rows(weights / jnp.where(total == 0, 1, total), spoiled).astype(key.dtype)


def _check(key, value, log_decay, bonus, rank):
    check_rank(rank, key=key)
    check_shape("value", value, key.shape, "the shape of key")
    check_shape("log_decay", log_decay, key.shape[-1:], "[D]")
    check_shape("bonus", bonus, key.shape[-1:], "[D]")


# Sums (of weights times values, and of weights) stand for themselves times exp(level). The level is
# any number near the logarithm of the weights; results do not depend on it, nor do gradients.


def _empty(shape, dtype):
    *lead, dim = shape
    mean = jnp.zeros((*lead, 1, dim), dtype)
    return jnp.concatenate([mean, jnp.full_like(mean, -jnp.inf)], -2)


def _sums_of(state):
    """The sums [*B, 2, D] and level [*B, D] of a state."""
    mean, weight = state[..., :1, :], state[..., 1:, :]
    level = lax.stop_gradient(jnp.maximum(weight, _NOTHING))
    weight = jnp.exp(weight - level)
    return jnp.concatenate([mean * weight, weight], -2), level[..., 0, :]


def _state_of(sums, level):
    weight = sums[..., 1, :]
    some = weight > 0
    log_weight = jnp.where(some, jnp.log(jnp.where(some, weight, 1)) + level, -jnp.inf)
    return jnp.stack([_mean(sums, level), log_weight], -2)


def _mean(sums, level):
    total = sums[..., 1, :]
    return sums[..., 0, :] / jnp.where(total == 0, 1, total)


def _join(parts):
    """The sum of several sums, at their highest level."""
    levels = [lax.stop_gradient(level) for _, level in parts]
    top = _NOTHING
    for level in levels:
        top = jnp.maximum(top, level)
    sums = sum(sums * jnp.exp(level - top)[..., None, :] for sums, level in parts)
    return sums, top


def _before(k, v, log_decay, state, starts, options):
    """The sums and levels of the tokens before each, and the state after the last; [T, B, D].

    Where a token starts a segment, [T, B, 1], nothing stands before it.
    """
    sums, level = _sums_of(state)
    decays = log_decay[None]  # [1 or T, 1 or B, D]
    if starts is not None:
        decays = jnp.where(starts, -jnp.inf, decays)
    levels = _levels(lax.stop_gradient(k), lax.stop_gradient(decays), level, options[0])
    before = jnp.concatenate([level[None], levels[:-1]])
    decay = jnp.exp(before + decays - levels)
    if starts is not None:
        decay = jnp.where(starts, 0, decay)
    weight = jnp.exp(k - levels)
    inputs = jnp.stack([weight * v, weight], -2)  # [T, B, 2, D]
    states, last = scan_leading(decay[..., None, :], inputs, sums, options)
    states = jnp.concatenate([sums[None], states[:-1]])
    if starts is not None:
        states = jnp.where(starts[..., None], 0, states)
        before = jnp.where(starts, _NOTHING, before)
    return (states, before), _state_of(last, levels[-1])


def _levels(k, log_decay, level, form):
    """l_t = max(l_{t-1} + log_decay_t, k_t), and never below the level of no weight."""
    k = jnp.maximum(k, _NOTHING)
    log_decay = jnp.broadcast_to(log_decay, (k.shape[0], *log_decay.shape[1:]))
    if form == "recurrent":

        def step(level, token):
            decay_t, k_t = token
            level = jnp.maximum(level + decay_t, k_t)
            return level, level

        return lax.scan(step, level, (log_decay, k))[1]

    def compose(first, second):
        (a, b), (c, d) = first, second
        return a + c, jnp.maximum(b + c, d)

    sums, levels = lax.associative_scan(compose, (log_decay, k))
    return jnp.maximum(level[None] + sums, levels)
