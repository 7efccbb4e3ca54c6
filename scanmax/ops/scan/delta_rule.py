"""The delta rule: linear attention that replaces what a key was bound to, with or without decay."""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from scanmax.ops.contract import (
    accumulator_dtype,
    check_choice,
    check_rank,
    check_shape,
    op,
    require_causal_states,
    unless_differentiated,
    vary_together,
)
from scanmax.ops.scan.diagonal import join_blocks, segment_sums
from scanmax.ops.scan.kernel_chunks import delta_rule_kernel
from scanmax.ops.scan.recurrence import backend_of, by_heads, flat_batch, forget, one_by_one
from scanmax.ops.segments import FORMS, quarantine, spoil, spoil_rows, spoil_state

# Tokens of one system at most. What they write is summed before it cancels in the state, so that
# float32 loses digits with their number: 1.3e-6 of the outputs at 256, 2.3e-6 at 512, 1e-5 at 3000
# (relative RMS, beta up to 2), where the recurrence has 2e-7.
LARGEST_CHUNK = 256


@op("is_causal", "return_state", "form", "chunk_size", "precision", "implementation")
def delta_rule(
    query: Float[Array, "*B T H K"],
    key: Float[Array, "*B T H K"],
    value: Float[Array, "*B T H V"],
    beta: Float[Array, "*B T H"],
    *,
    log_decay: Float[Array, "*B T H"] | None = None,
    is_causal: bool = True,
    scale: Float[Array, ""] | float | None = None,
    segment_ids: Int[Array, "*B T"] | None = None,
    initial_state: Float[Array, "*B H K V"] | None = None,
    return_state: bool = False,
    form: str | None = None,
    chunk_size: int = 32,
    precision=None,
    implementation=None,
):
    """Delta rule: each token moves the value bound to its key towards its own; gated, with decay.

        S_t = a_t (I - beta_t k_t k_t^T) S_{t-1} + beta_t k_t (x) v_t,    y_t = scale * S_t^T q_t

    with a_t = exp(log_decay_t). It is a step of gradient descent on |S^T k_t - v_t|^2 / 2 from the
    decayed state. Keys should have norm 1 and beta lie in [0, 2], else the state may grow.

    In chunks of c tokens (the WY form), what the tokens write, u, solves a unit lower triangular
    system, u_i = beta_i (v_i - a_1..a_i S^T k_i - sum_{j < i} a_{j+1}..a_i (k_i . k_j) u_j), all
    chunks side by side; then y and the states are those of linear attention with values u. The
    backward pass keeps one state per chunk.

    Args:
      query: the queries.
      key: the keys.
      value: the values.
      beta: how far each token's key is moved: 0 writes nothing, 1 replaces (at keys of norm 1).
      log_decay: at most 0 (-inf forgets everything); None is no decay.
      is_causal: read the past and the token itself; else the outputs of the recurrence and of the
        one from the last token on are added, each with its own S, and what a token writes and
        reads itself, beta_t (q_t . k_t) v_t, counts once.
      scale: None is 1.
      segment_ids: packed sequences: where the number changes from a token to the next a new one
        starts, and nothing passes.
      initial_state: the S before the first token, of the first segment; causal only.
      return_state: also return the S after the last token, of the last segment, in accumulator
        precision.
      form: "recurrent" takes T steps, "chunked" T / chunk_size, "parallel" solves one system of
        all tokens up to 256, beyond them systems of 256: a larger one loses digits in float32.
        None: "parallel" up to chunk_size tokens, else "chunked"; but on CPU, where no gradient is
        taken and K V is at most 64 * 64, "recurrent", which is faster there.
      chunk_size: tokens per chunk, at most 256; 32 trains fastest on CPU.
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
      >>> from scanmax.ops import delta_rule
      >>> q = k = jnp.ones((3, 1, 1))
      >>> v = jnp.array([1.0, 5.0, 2.0])[:, None, None]
      >>> delta_rule(q, k, v, jnp.ones((3, 1)))[:, 0, 0]
      Array([1., 5., 2.], dtype=float32)

    Reference: zoology-mqar
    """
    check_choice("form", form, FORMS)
    _check(query, key, value, beta, log_decay, 3)
    batch, (heads, width), dim = value.shape[:-3], value.shape[-2:], query.shape[-1]
    require_causal_states(is_causal, initial_state, return_state)
    check_shape("initial_state", initial_state, (*batch, heads, dim, width), "[*B, H, K, V]")
    check_shape("segment_ids", segment_ids, value.shape[:-2], "[*B, T]")
    tokens, initial_state, spoiled = quarantine(
        segment_ids,
        (query, key, value, beta),
        decays=(log_decay,),
        state=initial_state,
        factors=4,
        is_causal=is_causal,
    )
    query, key, value, beta, log_decay = tokens
    dtype = accumulator_dtype(query, key, value, beta, log_decay, initial_state)
    if initial_state is None:
        initial_state = jnp.zeros((*batch, heads, dim, width), dtype)
    log_decay = jnp.zeros(beta.shape, dtype) if log_decay is None else log_decay.astype(dtype)
    arrays = (query, key, value)
    backend = backend_of("delta_rule", implementation, form, is_causal, dtype, *arrays)
    options = {"form": form, "chunk_size": chunk_size, "precision": precision}

    def rule(reverse=False):
        decay = log_decay if segment_ids is None else forget(log_decay, segment_ids, reverse)
        if backend == "pallas":
            flat = [flat_batch(x, len(batch)) for x in (query, key, value, beta, decay)]
            kernel = delta_rule_kernel(precision, min(chunk_size, LARGEST_CHUNK))
            return by_heads(kernel, flat, flat_batch(initial_state, len(batch)))
        tokens = [x.astype(dtype) for x in (query, key, value, beta, decay)]
        *tokens, state = vary_together(
            *(flat_batch(x, len(batch)) for x in tokens),
            flat_batch(initial_state.astype(dtype), len(batch)),
        )
        if not reverse:
            return _run(tokens, state, **options)
        y, state = _run([jnp.flip(x, 1) for x in tokens], state, **options)
        return jnp.flip(y, 1), state

    y, state = rule()
    y = y.reshape(value.shape)
    if not is_causal:
        own = [x.astype(dtype) for x in (query, key, beta, value)]
        y = y + rule(reverse=True)[0].reshape(value.shape)
        y = y - jnp.einsum("...k,...k,...,...v->...v", *own)
    y = spoil((y if scale is None else y * scale).astype(value.dtype), spoiled)
    if not return_state:
        return y
    return y, spoil_state(state.reshape(*batch, heads, dim, width), spoiled)


def _run(tokens, state, *, form, chunk_size, precision):
    """The recurrence over [B, T, ...]: y [B, T, H, V] and the last state [B, H, K, V]."""
    options = {"chunk_size": chunk_size, "precision": precision}
    evaluate = functools.partial(_evaluate, form=form, **options)
    length = tokens[0].shape[1]
    if one_by_one(form, length, chunk_size, *state.shape[-2:]):
        alone = functools.partial(_evaluate, form="recurrent", **options | {"chunk_size": length})
        evaluate = unless_differentiated(alone, evaluate)
    return evaluate(tokens, state)


def _evaluate(tokens, state, *, form, chunk_size, precision):
    """The recurrence in the form named, or in chunks."""
    length = tokens[2].shape[1]
    if form == "parallel" or (form is None and length <= chunk_size):
        chunk_size = length
    chunk_size = max(1, min(chunk_size, length, LARGEST_CHUNK))
    # tokens of zeros write nothing and leave the state as it is
    chunks = [_chunks(x, -length % chunk_size, chunk_size) for x in tokens]
    if form == "recurrent":
        body = functools.partial(_tokens, precision=precision)
    else:
        chunks = _solve(*chunks, precision)
        body = functools.partial(_chunk, precision=precision)
    state, y = lax.scan(jax.checkpoint(body), state, chunks)  # [T / c, B, H, c, V]
    y = lax.collapse(y.transpose(1, 0, 3, 2, 4), 1, 3)
    return y[:, :length], state


def _chunks(x, pad, chunk_size):
    """[B, T, H, ...] -> [T / c, B, H, c, ...]."""
    x = jnp.pad(x, [(0, 0), (0, pad)] + [(0, 0)] * (x.ndim - 2)) if pad else x
    x = x.reshape(x.shape[0], x.shape[1] // chunk_size, chunk_size, *x.shape[2:])
    return jnp.moveaxis(jnp.moveaxis(x, 1, 0), 2, 3)


def _tokens(state, chunk, precision):
    """The tokens of a chunk one by one."""

    def one(state, token):
        return _step(state, *token, precision=precision)

    state, y = lax.scan(one, state, [jnp.moveaxis(x, 2, 0) for x in chunk])
    return state, jnp.moveaxis(y, 0, 2)


def _step(state, q, k, v, beta, log_decay, *, precision):
    """One token: q, k [..., K], v [..., V], beta, log_decay [...] -> state, y."""
    dot = functools.partial(jnp.einsum, precision=precision)
    state = jnp.exp(log_decay)[..., None, None] * state
    write = beta[..., None] * (v - dot("...k,...kv->...v", k, state))
    state = state + k[..., :, None] * write[..., None, :]
    return state, dot("...k,...kv->...v", q, state)


def _system(key, beta, log_decay, precision):
    """(I + L)^-1 of a chunk, L_ij = beta_i (k_i . k_j) decay_ij below the diagonal; the decays."""
    decay = jnp.exp(segment_sums(log_decay))  # [..., c, c]
    products = jnp.einsum("...ik,...jk->...ij", key, key, precision=precision)
    lower = jnp.tril(beta[..., :, None] * products * decay, -1)
    return _inverse(lower, precision), decay


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _inverse(lower, precision):
    """(I + L)^-1 of strictly lower triangular L, by blocks of 1, 2, 4, ... tokens.

    The inverse of [[A, 0], [C, D]] has -D^-1 C A^-1 in the corner. Forward substitution in small;
    the powers of L would cancel each other's digits. (XLA's triangular solve of many systems was
    seen to hang on two CPU cores.)
    """
    length = lower.shape[-1]
    size = 1 << (length - 1).bit_length()
    lower = jnp.pad(lower, [(0, 0)] * (lower.ndim - 2) + [(0, size - length)] * 2)
    lead = lower.shape[:-2]
    blocks = jnp.ones((*lead, size, 1, 1), lower.dtype)
    dot = functools.partial(jnp.matmul, precision=precision)
    width = 1
    while width < size:
        pairs = lower.reshape(*lead, size // (2 * width), 2, width, size // (2 * width), 2, width)
        # the corners below the diagonal: row half 1, column half 0 of each pair of blocks
        corner = jnp.einsum("...ninj->...nij", pairs[..., 1, :, :, 0, :])
        corner = -dot(dot(blocks[..., 1::2, :, :], corner), blocks[..., ::2, :, :])
        blocks = join_blocks(blocks, corner, 0)
        width *= 2
    return blocks[..., 0, :length, :length]


@_inverse.defjvp
def _inverse_tangent(precision, primals, tangents):
    dot = functools.partial(jnp.matmul, precision=precision)
    inverse = _inverse(*primals, precision)
    return inverse, -dot(dot(inverse, tangents[0]), inverse)


def _solve(q, k, v, beta, log_decay, precision):
    """What is not left to the passing of states, for all chunks at once.

    With u = fixed - read S, S the state before the chunk: y = q' S + scores u, and the next state
    is total S + k'^T u.
    """
    inverse, decay = _system(k, beta, log_decay, precision)
    into = jnp.exp(jnp.cumsum(log_decay, -1))[..., None]  # decay from the state to a token
    known = beta[..., None] * jnp.concatenate([v, into * k], -1)
    solved = jnp.matmul(inverse, known, precision=precision)
    fixed, read = jnp.split(solved, [v.shape[-1]], -1)
    scores = jnp.einsum("...ik,...jk->...ij", q, k, precision=precision) * decay
    out = decay[..., -1, :, None]  # decay from a token to the next state
    return fixed, read, q * into, scores, k * out, into[..., -1:, :]


def _chunk(state, chunk, precision):
    """Reads and updates the state [B, H, K, V] once."""
    dot = functools.partial(jnp.matmul, precision=precision)
    fixed, read, q, scores, k, total = chunk
    write = fixed - dot(read, state)
    y = dot(q, state) + dot(scores, write)
    return total * state + dot(jnp.swapaxes(k, -1, -2), write), y


@op("precision")
def delta_rule_step(
    state: Float[Array, "*B H K V"],
    query: Float[Array, "*B H K"],
    key: Float[Array, "*B H K"],
    value: Float[Array, "*B H V"],
    beta: Float[Array, "*B H"],
    *,
    log_decay: Float[Array, "*B H"] | None = None,
    scale: Float[Array, ""] | float | None = None,
    precision=None,
):
    """One token of `delta_rule`.

        S_t = a_t (I - beta_t k_t k_t^T) S_{t-1} + beta_t k_t (x) v_t,    y_t = scale * S_t^T q_t

    Args:
      state: S_{t-1}; zeros at the start.
      query: the query.
      key: the key.
      value: the value.
      beta: how far the value bound to the key is moved.
      log_decay: at most 0; None is no decay.
      scale: None is 1.
      precision: of the matrix products.

    Returns:
      (y [*B, H, V] in the dtype of value, the next state in accumulator precision).

    Raises:
      ValueError: an array of the wrong shape.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax.ops import delta_rule_step
      >>> q = k = v = jnp.ones((1, 1))
      >>> y, state = delta_rule_step(jnp.full((1, 1, 1), 3.0), q, k, v, jnp.array([0.5]))
      >>> y
      Array([[2.]], dtype=float32)

    Reference: zoology-mqar
    """
    _check(query, key, value, beta, log_decay, 2)
    expected = (*value.shape[:-1], query.shape[-1], value.shape[-1])
    check_shape("state", state, expected, "[*B, H, K, V]")
    dtype = accumulator_dtype(query, key, value, beta, log_decay, state)
    log_decay = jnp.zeros(beta.shape, dtype) if log_decay is None else log_decay
    token = (x.astype(dtype) for x in (query, key, value, beta, log_decay))
    state, y = _step(state.astype(dtype), *token, precision=precision)
    return (y if scale is None else y * scale).astype(value.dtype), state


@op("is_causal", "precision")
def delta_rule_matrix(
    query: Float[Array, "*B T H K"],
    key: Float[Array, "*B T H K"],
    beta: Float[Array, "*B T H"],
    *,
    log_decay: Float[Array, "*B T H"] | None = None,
    is_causal: bool = True,
    scale: Float[Array, ""] | float | None = None,
    segment_ids: Int[Array, "*B T"] | None = None,
    precision=None,
) -> Float[Array, "*B H T T"]:
    """The matrix over tokens that `delta_rule` applies to its values, for small T.

        M_ij = scale * q_i^T (prod_{t = j+1..i} a_t (I - beta_t k_t k_t^T)) k_j beta_j,    j <= i

    Args:
      query: the queries.
      key: the keys.
      beta: how far each token's key is moved.
      log_decay: at most 0; None is no decay.
      is_causal: lower triangular; else j > i has the product over t = j-1..i.
      scale: None is 1.
      segment_ids: packed sequences; blocks on the diagonal.
      precision: of the matrix products.

    Returns:
      [*B, H, T, T] in the dtype of query.

    Raises:
      ValueError: an array of the wrong shape.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax.ops import delta_rule_matrix
      >>> x = jnp.ones((2, 1, 1))
      >>> delta_rule_matrix(x, x, jnp.full((2, 1), 0.5))[0]
      Array([[0.5 , 0.  ],
             [0.25, 0.5 ]], dtype=float32)

    Reference: hidden-mamba-attention
    """
    value = jax.ShapeDtypeStruct((*query.shape[:-1], 1), query.dtype)
    _check(query, key, value, beta, log_decay, 3)
    check_shape("segment_ids", segment_ids, query.shape[:-2], "[*B, T]")
    tokens, _, spoiled = quarantine(
        segment_ids, (query, key, beta), decays=(log_decay,), factors=4, is_causal=is_causal
    )
    query, key, beta, log_decay = tokens
    dtype = accumulator_dtype(query, key, beta, log_decay)
    log_decay = jnp.zeros(beta.shape, dtype) if log_decay is None else log_decay.astype(dtype)
    q, k = (jnp.moveaxis(x.astype(dtype), -2, -3) for x in (query, key))  # [*B, H, T, K]
    beta = jnp.moveaxis(beta.astype(dtype), -1, -2)

    def matrix_of(q, k, beta, log_decay):
        inverse, decay = _system(k, beta, log_decay, precision)
        scores = jnp.einsum("...ik,...jk->...ij", q, k, precision=precision) * decay
        return jnp.matmul(scores, inverse, precision=precision) * beta[..., None, :]

    def decays(reverse):
        given = log_decay if segment_ids is None else forget(log_decay, segment_ids, reverse)
        return jnp.moveaxis(given, -1, -2)

    matrix = matrix_of(q, k, beta, decays(False))
    if not is_causal:
        tokens = [jnp.flip(x, -2) for x in (q, k)]
        back = matrix_of(*tokens, jnp.flip(beta, -1), jnp.flip(decays(True), -1))
        matrix = matrix + jnp.triu(jnp.flip(back, (-2, -1)), 1)
    matrix = spoil_rows(matrix, spoiled)
    return (matrix if scale is None else matrix * scale).astype(query.dtype)


def _check(query, key, value, beta, log_decay, rank):
    """Refuses wrong shapes; rank 3 with time, 2 without."""
    check_rank(rank, query=query, key=key, value=value)
    check_shape("key", key, query.shape, "the shape of query")
    time = "T, " if rank == 3 else ""
    expected = (*query.shape[:-1], value.shape[-1])
    check_shape("value", value, expected, f"[*B, {time}H, V] beside query")
    check_shape("beta", beta, query.shape[:-1], f"[*B, {time}H]")
    check_shape("log_decay", log_decay, query.shape[:-1], f"[*B, {time}H]")
