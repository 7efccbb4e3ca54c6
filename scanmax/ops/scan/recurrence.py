"""The matrix-valued recurrence shared by linear attention and the state-space duality.

    S_t = exp(log_decay_t) * S_{t-1} + weight_t * k_t (x) v_t,    y_t = S_t^T q_t

One batch axis, G groups of queries and keys over H heads of values. `run` evaluates it in chunks:
inside a chunk as a masked matrix over its tokens, between chunks through the state. The parallel
form is one chunk of all tokens. On a CPU, where small states stay in cache, no form named means
token after token, unless gradients are asked for: training is several times faster in chunks.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from scanmax.ops.contract import (
    align,
    check_implementation,
    first_available,
    kernel_obstacles,
    over_mesh,
    platform,
    unless_differentiated,
    vary_together,
)
from scanmax.ops.scan import pallas
from scanmax.ops.scan.diagonal import join_blocks, join_ends, pair_decays, segment_sums
from scanmax.ops.scan.kernel_chunks import channels_kernel
from scanmax.ops.segments import segment_starts

# Numbers in a head's state, K V, up to which tokens one by one outrun chunks on a CPU. Forward
# alone, heads of 64 by 64 took 0.4 to 1.1 of the time of chunks on one thread and on two; heads of
# 128 by 128 up to 1.6, and 2.5 with the delta rule. More threads were not at hand.
SMALL_STATE = 64 * 64


def one_by_one(form, length: int, chunk_size: int, dim: int, width: int) -> bool:
    """Whether the forward pass alone goes token by token where no form is named."""
    small = dim * width <= SMALL_STATE and platform() == "cpu"
    return form is None and length > chunk_size and small


def flat_batch(x, axes: int):
    """Merges the leading `axes` batch axes into one (makes one where there is none)."""
    if x is None:
        return None
    size = 1
    for n in x.shape[:axes]:
        size *= n
    return x.reshape(size, *x.shape[axes:])


def repeat_groups(x, heads: int, axis: int):
    """Gives every head the array of its group."""
    return x if x.shape[axis] == heads else jnp.repeat(x, heads // x.shape[axis], axis=axis)


def forget(log_decay, segment_ids, reverse=False):
    """The logarithms of the decays, [*B, T, ...], with -inf where a segment starts."""
    starts = segment_starts(segment_ids, reverse)
    return jnp.where(align(starts, log_decay, log_decay.ndim - starts.ndim), -jnp.inf, log_decay)


def step(state, query, key, value, log_decay=None, *, weight=None, diagonal=True, precision=None):
    """One token: query, key [*B, G, K], value [*B, H, V], state [*B, H, K, V] -> y, state."""
    dtype, heads = state.dtype, value.shape[-2]
    query = repeat_groups(query, heads, -2).astype(dtype)
    key = repeat_groups(key, heads, -2).astype(dtype)
    value = value.astype(dtype)
    if weight is not None:
        value = value * weight.astype(dtype)[..., None]
    if log_decay is not None:
        decay = jnp.exp(log_decay.astype(dtype))
        missing = state.ndim - decay.ndim
        state = state * decay.reshape(decay.shape + (1,) * missing)
    after = state + key[..., :, None] * value[..., None, :]
    read = after if diagonal else state
    return jnp.einsum("...k,...kv->...v", query, read, precision=precision), after


def decayed_products(query, key, log_decay, is_causal=True, precision=None):
    """The matrix [*B, H, T, T] that the recurrence without values is: q_i . k_j, decayed.

    query, key [*B, T, H, K], log_decay [*B, T, H] or [*B, T, H, K], all of one dtype.
    """
    per_channel = log_decay.ndim == query.ndim
    # time last: [*B, H, (K,) T]
    decay = pair_decays(jnp.moveaxis(log_decay, -3 if per_channel else -2, -1), is_causal)
    if per_channel:
        return jnp.einsum("...ihk,...jhk,...hkij->...hij", query, key, decay, precision=precision)
    return decay * jnp.einsum("...ihk,...jhk->...hij", query, key, precision=precision)


def run(
    query,
    key,
    value,
    log_decay,
    state,
    *,
    weight=None,
    diagonal=True,
    form,
    chunk_size,
    precision,
    dtype,
    backend="xla",
):
    """The recurrence over [B, T, ...]: y [B, T, H, V] in `dtype`, and the last state [B, H, K, V].

    Without `diagonal`, y_t reads the decayed state before it takes token t in. A weight, [B, T, H],
    comes with a decay per head. `backend` is that of `backend_of`.
    """
    if backend == "pallas":
        if log_decay is not None and log_decay.ndim == value.ndim:
            kernel = channels_kernel(diagonal, precision, chunk_size)
            return by_heads(kernel, [query, key, value, log_decay], state)
        return _kernel(query, key, value, log_decay, state, weight, chunk_size, precision)
    options = {
        "diagonal": diagonal,
        "chunk_size": chunk_size,
        "precision": precision,
        "dtype": dtype,
    }
    evaluate = functools.partial(_evaluate, form=form, **options)
    length, width = value.shape[1], value.shape[-1]
    if one_by_one(form, length, chunk_size, query.shape[-1], width):
        # one loop: what chunks of it would save, a backward pass needs
        alone = functools.partial(_evaluate, form="recurrent", **options | {"chunk_size": length})
        evaluate = unless_differentiated(alone, evaluate)
    return evaluate(query, key, value, log_decay, state, weight)


def backend_of(op_name, implementation, form, is_causal, dtype, *arrays) -> str:
    """The backend of a recurrence, "xla" unless another is asked for and serves.

    Raises:
      NotImplementedError: none that is asked for serves; the message says why.
    """
    obstacles = kernel_obstacles(*arrays, interpreted=implementation == "pallas")
    for there, obstacle in (
        (form in ("parallel", "recurrent"), f"form={form!r}"),
        (not is_causal, "is_causal=False"),
        (dtype != jnp.float32, f"sums in {dtype}"),
    ):
        if there:
            obstacles.append(obstacle)
    available = ("xla",) if obstacles else ("xla", "pallas")
    check_implementation(op_name, implementation, available, {"pallas": obstacles})
    return "xla" if implementation is None else first_available(implementation, available)


def by_heads(kernel, arrays, state):
    """A kernel of arrays [B, T, H, ...]: y [B, T, H, V] and the state [B, H, K, V], in float32."""
    (batch, _, heads, width), dim = arrays[2].shape, arrays[0].shape[-1]
    if state is None:
        state = jnp.zeros((batch, heads, dim, width), jnp.float32)
    y, state = kernel.run([jnp.moveaxis(x, 2, 1) for x in arrays], state, jnp.float32)
    return jnp.moveaxis(y, 1, 2), state


def _kernel(query, key, value, log_decay, state, weight, chunk_size, precision):
    """`run` by the kernel, in chunks of a multiple of 128 tokens."""
    (batch, length, heads, width), dim = value.shape, query.shape[-1]
    operands = functools.reduce(jnp.promote_types, (x.dtype for x in (query, key, value)))
    if weight is not None:
        value = value.astype(jnp.float32) * weight[..., None]
    if log_decay is None:
        log_decay = jnp.zeros((batch, length, heads), jnp.float32)
    if state is None:
        state = jnp.zeros((batch, heads, dim, width), jnp.float32)
    chunk_size += -chunk_size % 128

    def heads_first(x, dtype):
        x = jnp.moveaxis(x.astype(dtype), 2, 1)
        # tokens of zeros that do not decay leave the state as it is
        return jnp.pad(x, [(0, 0), (0, 0), (0, -length % chunk_size)] + [(0, 0)] * (x.ndim - 3))

    arrays = [heads_first(x, operands) for x in (query, key, value)]
    arrays += [heads_first(log_decay, jnp.float32), state.astype(jnp.float32)]
    local = functools.partial(pallas.chunked, chunk_size, precision, platform() == "cpu")
    y, state = over_mesh(local, arrays)
    return jnp.moveaxis(y[:, :, :length], 1, 2).astype(jnp.float32), state


def _evaluate(
    query, key, value, log_decay, state, weight, *, diagonal, form, chunk_size, precision, dtype
):
    """The recurrence in the form named, or in chunks."""
    batch, length, heads, width = value.shape
    per_channel = log_decay is not None and log_decay.ndim == 4
    if form == "parallel" or (form is None and length <= chunk_size):
        chunk_size = length
    chunk_size = max(1, min(chunk_size, length))
    if per_channel and form != "recurrent":
        query, key = repeat_groups(query, heads, 2), repeat_groups(key, heads, 2)
        chunk_size = 1 << (chunk_size - 1).bit_length()
    groups, dim = query.shape[2:]
    if state is None:
        state = jnp.zeros((batch, heads, dim, width), dtype)
    query, key, value, log_decay, weight, state = vary_together(
        query, key, value, log_decay, weight, state.astype(dtype)
    )
    chunked = _channels if per_channel else _heads
    body = _recurrent if form == "recurrent" else chunked
    if body is _heads:
        # [B, G, K, R, V]: reading and updating it are products of plain matrices per group
        state = state.reshape(batch, groups, heads // groups, dim, width).swapaxes(2, 3)
    # tokens of zeros that do not decay leave the state as it is
    pad = -length % chunk_size
    chunks = [_chunks(x, pad, chunk_size) for x in (query, key, value, log_decay, weight)]
    operands = functools.reduce(jnp.promote_types, (x.dtype for x in (query, key, value)))
    if platform() == "cpu":
        # products of bfloat16 are slow there
        operands = dtype

    @jax.checkpoint
    def chunk(state, inputs):
        q, k, v = (x.astype(operands) for x in inputs[:3])
        a, w = (None if x is None else x.astype(dtype) for x in inputs[3:])
        return body(state, q, k, v, a, w, diagonal=diagonal, precision=precision)

    state, y = lax.scan(chunk, state, chunks)
    if body is _heads:
        state = state.swapaxes(2, 3).reshape(batch, heads, dim, width)
    y = y.swapaxes(0, 1).reshape(batch, length + pad, heads, width)
    return y[:, :length], state


def run_both_ways(query, key, value, decays, *, weight=None, **options):
    """y of `run` in both directions; each token's own term counts once.

    `decays` are those of the way forward and of the way back, which differ where segments start.
    """
    forward, backward = decays
    y, _ = run(query, key, value, forward, None, weight=weight, **options)
    flipped = [None if x is None else jnp.flip(x, 1) for x in (query, key, value, backward, weight)]
    back, _ = run(*flipped[:-1], None, weight=flipped[-1], **options, diagonal=False)
    return y + jnp.flip(back, 1)


def _chunks(x, pad, chunk_size):
    """[B, T, ...] -> [T / c, B, c, ...]."""
    if x is None:
        return None
    x = jnp.pad(x, [(0, 0), (0, pad)] + [(0, 0)] * (x.ndim - 2)) if pad else x
    chunks = x.shape[1] // chunk_size
    return x.reshape(x.shape[0], chunks, chunk_size, *x.shape[2:]).swapaxes(0, 1)


def _recurrent(state, *chunk, diagonal, precision):
    """The tokens of a chunk one by one."""

    def one(s, token):
        q, k, v, a, w = token
        y, after = step(s, q, k, v, a, weight=w, diagonal=diagonal, precision=precision)
        return after, y

    by_token = [None if x is None else x.swapaxes(0, 1) for x in chunk]
    state, y = lax.scan(one, state, by_token)
    return state, y.swapaxes(0, 1)


def _heads(state, q, k, v, a, w, *, diagonal, precision):
    """One chunk with one decay per head, or none; state [B, G, K, R, V]."""
    batch, c, groups, _ = q.shape
    repeats = v.shape[2] // groups
    dtype = state.dtype
    dot = functools.partial(jnp.einsum, precision=precision, preferred_element_type=dtype)
    shape, v = v.shape, v.reshape(batch, c, groups, repeats, v.shape[-1])
    if w is not None:
        w = _spread("bigr,v->bigrv", w.reshape(v.shape[:-1]), v.shape[-1])
        v = (v.astype(dtype) * w).astype(v.dtype)
    # [B, G, R, c, c]: the products of queries and keys are taken once for all heads of a group
    scores = _spread("bgij,r->bgrij", dot("bigk,bjgk->bgij", q, k), v.shape[3])
    mask = align(jnp.tri(c, k=0 if diagonal else -1, dtype=bool), scores)
    y = dot("bigk,bgkrv->bigrv", q, state.astype(q.dtype))
    update = v
    if a is None:
        scores = jnp.where(mask, scores, 0)
    else:
        a = a.reshape(batch, c, groups, repeats).transpose(0, 2, 3, 1)  # [B, G, R, c]
        sums = segment_sums(a)
        scores = scores * jnp.exp(sums if diagonal else jnp.where(mask, sums, -jnp.inf))
        into = jnp.exp(jnp.cumsum(a, -1))  # decay from the state to a token
        y = y * _spread("bgri,v->bigrv", into, v.shape[-1])
        total = _spread("bgr,v->bgrv", into[..., -1], v.shape[-1])
        state = state * _spread("bgrv,k->bgkrv", total, state.shape[2])
        out = jnp.exp(sums[..., -1, :])  # decay from a token to the next state
        out = _spread("bgri,v->bigrv", out, v.shape[-1])
        update = (v.astype(dtype) * out).astype(v.dtype)
    y = y + dot("bgrij,bjgrv->bigrv", scores.astype(v.dtype), v)
    state = state + dot("bjgk,bjgrv->bgkrv", k, update)
    return state, y.reshape(shape)


def _spread(equation, x, size):
    """x along a new axis of `size`, as a product with ones.

    Its gradient is then a product with ones too, which XLA on CPU runs several times faster than
    the sum that the gradient of a broadcast is.
    """
    return jnp.einsum(equation, x, jnp.ones(size, x.dtype), precision=lax.Precision.HIGHEST)


def _channels(state, q, k, v, a, w, *, diagonal, precision):
    """One chunk with one decay per key channel: pairs of blocks of 1, 2, 4, ... tokens.

    The decay from a token in the left block to one in the right block is exp(sum to the end of the
    left) * exp(sum from the start of the right): both at most 1, whatever the decays.
    """
    dtype = state.dtype
    dot = functools.partial(jnp.einsum, precision=precision, preferred_element_type=dtype)
    batch, c, heads, dim = q.shape
    q, k, a = (x.transpose(0, 2, 1, 3) for x in (q, k, a))  # [B, H, c, K]
    # sums within blocks: from the start to a token, and from after a token to the end
    to, after = a[..., None, :], jnp.zeros_like(a)[..., None, :]  # [B, H, blocks, size, K]
    scores = dot("bhik,bhik->bhi", q, k)[..., None, None]  # [B, H, blocks, size, size]
    scores = scores if diagonal else jnp.zeros_like(scores)
    size = 1
    while size < c:
        blocks = (batch, heads, c // (2 * size), 2, size, dim)
        right = q.reshape(blocks)[:, :, :, 1] * jnp.exp(to[:, :, 1::2]).astype(q.dtype)
        left = k.reshape(blocks)[:, :, :, 0] * jnp.exp(after[:, :, ::2]).astype(k.dtype)
        cross = dot("bhnik,bhnjk->bhnij", right, left)
        scores = join_blocks(scores, cross, 0)
        to, after = join_ends(to, after, -2)
        size *= 2
    to, after, scores = to[:, :, 0], after[:, :, 0], scores[:, :, 0]
    y = dot("bhik,bhkv->bihv", q * jnp.exp(to).astype(q.dtype), state.astype(q.dtype))
    y = y + dot("bhij,bjhv->bihv", scores.astype(v.dtype), v)
    state = state * jnp.exp(to[:, :, -1])[..., None]
    k = k * jnp.exp(after).astype(k.dtype)
    return state + dot("bhjk,bjhv->bhkv", k, v), y
