"""The wkv of RWKV-6: a matrix state per head, decays that depend on the token, and a bonus."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from scanmax.ops.contract import (
    accumulator_dtype,
    align,
    check_choice,
    check_rank,
    check_shape,
    op,
    require_causal_states,
)
from scanmax.ops.scan.recurrence import backend_of, decayed_products, flat_batch, forget, run, step
from scanmax.ops.segments import (
    FORMS,
    quarantine,
    same_segment,
    segment_starts,
    spoil,
    spoil_rows,
    spoil_state,
)


@op("is_causal", "return_state", "form", "chunk_size", "precision", "implementation")
def wkv6(
    query: Float[Array, "*B T H K"],
    key: Float[Array, "*B T H K"],
    value: Float[Array, "*B T H V"],
    log_decay: Float[Array, "*B T H K"],
    bonus: Float[Array, "H K"],
    *,
    is_causal: bool = True,
    segment_ids: Int[Array, "*B T"] | None = None,
    initial_state: Float[Array, "*B H K V"] | None = None,
    return_state: bool = False,
    form: str | None = None,
    chunk_size: int = 64,
    precision=None,
    implementation=None,
):
    """Linear attention with a decay per token and key channel, and a bonus for the token itself.

        y_t = (S_{t-1} + (u * k_t) (x) v_t)^T q_t,    S_t = exp(log_decay_t) S_{t-1} + k_t (x) v_t

    Token j reaches a later i with the decays of the tokens strictly between them: unlike in
    `linear_attention` neither its own nor that of i. Bidirectional, the same sums also run from the
    last token to the first and the bonus counts once, as in the released kernels of RWKV-CLIP (for
    images, whose tokens they read row by row, as for text). Exponents are sums of log decays alone,
    never differences: no decay overflows.

    Args:
      query: the receptances.
      key: the keys.
      value: the values.
      log_decay: at most 0; -exp(w) of RWKV-6.
      bonus: u, per head and key channel.
      is_causal: read the past and the token itself only.
      segment_ids: packed sequences: where the number changes from a token to the next a new one
        starts, and nothing passes.
      initial_state: the S before the first token, of the first segment; causal only.
      return_state: also return the S after the last token, of the last segment, in accumulator
        precision.
      form: "recurrent" takes T steps, "chunked" T / chunk_size, "parallel" builds the T x T matrix.
        None: "parallel" up to chunk_size tokens, else "chunked"; but on CPU, where no gradient is
        taken and K V is at most 64 * 64, "recurrent", which is faster there.
      chunk_size: tokens per chunk, rounded up to a power of two.
      precision: of every matrix product, as in jax.lax.dot_general.
      implementation: "xla" (also None), or "pallas": a kernel for TPUs (interpreted on a CPU) of
        causal sequences in chunks of a multiple of 64 tokens, whose gradient keeps one state each.

    Returns:
      [*B, T, H, V] in the dtype of value; with `return_state` also the state [*B, H, K, V].

    Raises:
      ValueError: an array of the wrong shape, an unknown form, a state without is_causal.
      NotImplementedError: a named implementation that cannot serve; the message says why.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax.ops import wkv6
      >>> q = k = v = jnp.ones((3, 1, 1))
      >>> wkv6(q, k, v, jnp.log(q / 2), jnp.full((1, 1), 3.0))[:, 0, 0]
      Array([3. , 4. , 4.5], dtype=float32)

    Reference: rwkv-clip
    """
    check_choice("form", form, FORMS)
    _check(query, key, value, log_decay, bonus, 3)
    require_causal_states(is_causal, initial_state, return_state)
    batch, (heads, width), dim = value.shape[:-3], value.shape[-2:], key.shape[-1]
    check_shape("initial_state", initial_state, (*batch, heads, dim, width), "[*B, H, K, V]")
    check_shape("segment_ids", segment_ids, value.shape[:-2], "[*B, T]")
    tokens, initial_state, spoiled = quarantine(
        segment_ids,
        (query, key, value),
        decays=(log_decay,),
        state=initial_state,
        factors=3,
        is_causal=is_causal,
    )
    query, key, value, log_decay = tokens
    dtype = accumulator_dtype(query, key, value, log_decay, bonus, initial_state)
    inputs = [flat_batch(x, len(batch)) for x in (query, key, value, log_decay, segment_ids)]
    initial_state = flat_batch(initial_state, len(batch))
    arrays = (query, key, value)
    backend = backend_of("wkv6", implementation, form, is_causal, dtype, *arrays)
    options = {"form": form, "chunk_size": chunk_size, "precision": precision, "dtype": dtype}
    options["backend"] = backend
    y, state = _past(*inputs, initial_state, options)
    if not is_causal:
        flipped = [None if x is None else jnp.flip(x, 1) for x in inputs]
        y = y + jnp.flip(_past(*flipped, None, options)[0], 1)
    y = y.reshape(value.shape) + _own(query, key, bonus, dtype)[..., None] * value.astype(dtype)
    y = spoil(y.astype(value.dtype), spoiled)
    if not return_state:
        return y
    # the last token has not been read into S yet
    last = inputs[3][:, -1].astype(dtype)
    keys, values = (x[:, -1].astype(dtype) for x in inputs[1:3])
    state = jnp.exp(last)[..., None] * state + keys[..., None] * values[..., None, :]
    return y, spoil_state(state.reshape(*batch, heads, dim, width), spoiled)


@op("precision")
def wkv6_step(
    state: Float[Array, "*B H K V"],
    query: Float[Array, "*B H K"],
    key: Float[Array, "*B H K"],
    value: Float[Array, "*B H V"],
    log_decay: Float[Array, "*B H K"],
    bonus: Float[Array, "H K"],
    *,
    precision=None,
):
    """One token of causal `wkv6`.

        y_t = (S_{t-1} + (u * k_t) (x) v_t)^T q_t,    S_t = exp(log_decay_t) S_{t-1} + k_t (x) v_t

    Args:
      state: S_{t-1}; zeros at the start.
      query: the receptance.
      key: the key.
      value: the value.
      log_decay: at most 0.
      bonus: u, per head and key channel.
      precision: of the matrix product.

    Returns:
      (y [*B, H, V] in the dtype of value, the next state in accumulator precision).

    Raises:
      ValueError: an array of the wrong shape.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax.ops import wkv6_step
      >>> one = jnp.ones((1, 1))
      >>> wkv6_step(jnp.ones((1, 1, 1)), one, one, one, 0 * one, 3 * one)
      (Array([[4.]], dtype=float32), Array([[[2.]]], dtype=float32))

    Reference: rwkv-clip
    """
    _check(query, key, value, log_decay, bonus, 2)
    expected = (*key.shape, value.shape[-1])
    check_shape("state", state, expected, "[*B, H, K, V]")
    dtype = accumulator_dtype(query, key, value, log_decay, bonus, state)
    state = state.astype(dtype)
    y = jnp.einsum("...k,...kv->...v", query.astype(dtype), state, precision=precision)
    y = y + _own(query, key, bonus, dtype)[..., None] * value.astype(dtype)
    _, state = step(state, query, key, value, log_decay, precision=precision)
    return y.astype(value.dtype), state


@op("is_causal", "precision")
def wkv6_matrix(
    query: Float[Array, "*B T H K"],
    key: Float[Array, "*B T H K"],
    log_decay: Float[Array, "*B T H K"],
    bonus: Float[Array, "H K"],
    *,
    is_causal: bool = True,
    segment_ids: Int[Array, "*B T"] | None = None,
    precision=None,
) -> Float[Array, "*B H T T"]:
    """The matrix over tokens that `wkv6` applies to its values, for small T.

        M_ts = sum_n q_tn k_sn exp(log decays of the tokens between)_n,   M_tt = q_t . u k_t

    Args:
      query: the receptances.
      key: the keys.
      log_decay: at most 0.
      bonus: u, per head and key channel.
      is_causal: lower triangular.
      segment_ids: packed sequences; blocks on the diagonal.
      precision: of the matrix products.

    Returns:
      [*B, H, T, T] in the dtype of query.

    Raises:
      ValueError: an array of the wrong shape.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax.ops import wkv6_matrix
      >>> x = jnp.ones((2, 1, 1))
      >>> wkv6_matrix(x, x, -x, jnp.full((1, 1), 3.0))[0]
      Array([[3., 0.],
             [1., 3.]], dtype=float32)

    Reference: rwkv-clip
    """
    _check(query, key, query, log_decay, bonus, 3)
    check_shape("segment_ids", segment_ids, query.shape[:-2], "[*B, T]")
    (query, key, log_decay), _, spoiled = quarantine(
        segment_ids, (query, key), decays=(log_decay,), factors=3, is_causal=is_causal
    )
    dtype = accumulator_dtype(query, key, log_decay, bonus)

    def below(query, key, log_decay):
        key, log_decay = (_delayed(x.astype(dtype)) for x in (key, log_decay))
        matrix = decayed_products(query.astype(dtype), key, log_decay, True, precision)
        # column j holds the token before j
        return jnp.concatenate([matrix[..., 1:], jnp.zeros_like(matrix[..., :1])], -1)

    matrix = below(query, key, log_decay)
    if not is_causal:
        flipped = (jnp.flip(x, -3) for x in (query, key, log_decay))
        matrix = matrix + jnp.flip(below(*flipped), (-2, -1))
    if segment_ids is not None:
        matrix = jnp.where(same_segment(segment_ids)[..., None, :, :], matrix, 0)
    own = jnp.swapaxes(_own(query, key, bonus, dtype), -1, -2)[..., None]
    matrix = matrix + own * align(jnp.eye(matrix.shape[-1], dtype=dtype), matrix)
    return spoil_rows(matrix, spoiled).astype(query.dtype)


def _check(query, key, value, log_decay, bonus, rank):
    """Refuses wrong shapes; rank 3 with time, 2 without."""
    check_rank(rank, query=query, key=key, value=value)
    time = "T, " if rank == 3 else ""
    check_shape("key", key, query.shape, "the shape of query")
    check_shape("log_decay", log_decay, query.shape, "the shape of query")
    expected = (*query.shape[:-1], value.shape[-1])
    check_shape("value", value, expected, f"[*B, {time}H, V] beside query")
    check_shape("bonus", bonus, query.shape[-2:], "[H, K]")


def _own(query, key, bonus, dtype):
    """How much a token reads of itself, [*B, T, H]."""
    return (query.astype(dtype) * key.astype(dtype) * align(bonus.astype(dtype), key)).sum(-1)


def _delayed(x):
    """Each token takes the place of the next; zeros in the first place."""
    return jnp.concatenate([jnp.zeros_like(x[..., :1, :, :]), x[..., :-1, :, :]], -3)


def _past(query, key, value, log_decay, segment_ids, state, options):
    """What each token reads of those before it, and the state before the last token.

    The state before a token is the state after the token before: the recurrence with keys, values
    and decays one token late.
    """
    key, value, log_decay = (_delayed(x) for x in (key, value, log_decay))
    if segment_ids is not None:
        key = jnp.where(segment_starts(segment_ids)[..., None, None], 0, key)
        log_decay = forget(log_decay, segment_ids)
    return run(query, key, value, log_decay, state, **options)
