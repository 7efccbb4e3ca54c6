"""The selective scan of Mamba: a diagonal state space per channel with inputs that gate it."""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from scanmax.ops.contract import (
    accumulator_dtype,
    align,
    check_choice,
    check_rank,
    check_shape,
    op,
    platform,
    require_causal_states,
    spread,
    vary_like,
    vary_together,
)
from scanmax.ops.scan.diagonal import scan_leading, segment_sums
from scanmax.ops.scan.kernel_chunks import selective_kernel
from scanmax.ops.scan.recurrence import backend_of, flat_batch
from scanmax.ops.scan.ssd import time_steps, with_skip
from scanmax.ops.segments import (
    FORMS,
    quarantine,
    same_segment,
    segment_starts,
    spoil,
    spoil_rows,
    spoil_state,
)

# Channels of one program of the kernel.
BLOCK = 512


@op("dt_softplus", "is_causal", "return_state", "form", "chunk_size", "implementation")
def selective_scan(
    x: Float[Array, "*B T D"],
    dt: Float[Array, "*B T D"],
    A: Float[Array, "D N"],
    B: Float[Array, "*B T N"],
    C: Float[Array, "*B T N"],
    *,
    D: Float[Array, " D"] | None = None,
    dt_bias: Float[Array, " D"] | None = None,
    dt_softplus: bool = False,
    is_causal: bool = True,
    segment_ids: Int[Array, "*B T"] | None = None,
    initial_state: Float[Array, "*B D N"] | None = None,
    return_state: bool = False,
    form: str | None = None,
    chunk_size: int = 64,
    implementation=None,
):
    """Selective scan, the recurrence of Mamba: a diagonal state space of N states per channel.

        h_t = exp(dt_t A) * h_{t-1} + dt_t B_t x_t,    y_t = h_t C_t + D x_t

    It is `linear_attention` over D heads of value width 1 with decays per key channel; its state
    leaves that width out.

    Args:
      x: the inputs.
      dt: the step sizes, per channel.
      A: the rates, negative.
      B: input vectors, shared by the channels.
      C: output vectors, shared by the channels.
      D: skip weights per channel.
      dt_bias: added to dt first.
      dt_softplus: then dt = softplus(dt).
      is_causal: read the past and the token itself; else both sides: what lies ahead reaches the
        token by the same recurrence from the last token on, and the token itself counts once.
      segment_ids: packed sequences: where the number changes from a token to the next a new one
        starts, and nothing passes.
      initial_state: the h before the first token, of the first segment; causal only.
      return_state: also return the h after the last token, of the last segment, in accumulator
        precision.
      form: "recurrent" takes T steps; "chunked" scans chunk_size tokens at once by an associative
        scan, chunk after chunk; "parallel" scans all T at once, and keeps [*B, T, D, N].
        None: "recurrent" on CPU, where it is the fastest, else "chunked".
      chunk_size: tokens between the states kept for the backward pass, which recomputes the rest.
      implementation: "xla" (also None), or "pallas": a kernel for TPUs (interpreted on a CPU) of
        causal sequences, which keeps a state every 16 tokens whatever chunk_size is.

    Returns:
      [*B, T, D] in the dtype of x; with `return_state` also the state [*B, D, N].

    Raises:
      ValueError: an array of the wrong shape, an unknown form, a state without is_causal.
      NotImplementedError: a named implementation that cannot serve; the message says why.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax.ops import selective_scan
      >>> x = dt = B = C = jnp.ones((3, 1))
      >>> selective_scan(x, dt, jnp.log(jnp.array([[0.5]])), B, C)[:, 0]
      Array([1.  , 1.5 , 1.75], dtype=float32)

    Reference: hidden-mamba-attention
    """
    check_choice("form", form, FORMS)
    _check(x, dt, A, B, C, D, dt_bias, 2)
    batch, length, (dim, states) = x.shape[:-2], x.shape[-2], A.shape
    require_causal_states(is_causal, initial_state, return_state)
    check_shape("initial_state", initial_state, (*batch, dim, states), "[*B, D, N]")
    check_shape("segment_ids", segment_ids, x.shape[:-1], "[*B, T]")
    (x, dt, B, C), initial_state, spoiled = quarantine(
        segment_ids, (x, dt, B, C), state=initial_state, factors=4, is_causal=is_causal
    )
    dtype = accumulator_dtype(x, dt, A, B, C, initial_state)
    backend = backend_of("selective_scan", implementation, form, is_causal, dtype, x, dt, B, C)
    if initial_state is None:
        initial_state = jnp.zeros((*batch, dim, states), dtype)
    if form is None:
        form = "recurrent" if platform() == "cpu" else "chunked"
    steps = time_steps(dt, dt_bias, dt_softplus, None, dtype)
    chunk_size = length if form == "parallel" else max(1, min(chunk_size, length))

    def scan(reverse=False):
        keep = None
        if segment_ids is not None:
            keep = 1 - segment_starts(segment_ids, reverse)[..., None].astype(dtype)
        tokens = [flat_batch(y.astype(dtype), len(batch)) for y in (x, steps, B, C)]
        tokens.append(flat_batch(keep, len(batch)))
        if reverse:
            tokens = [y if y is None else jnp.flip(y, 1) for y in tokens]
        # [B, N, D]: the channels vectorise
        state = flat_batch(initial_state.astype(dtype), len(batch)).swapaxes(1, 2)
        if backend == "pallas":
            y, state = _by_kernel(*tokens, state, A.astype(dtype).T)
            return y.reshape(x.shape), state
        *tokens, keep, state, rates = vary_together(*tokens, state, A.astype(dtype).T)
        y, state = _run(*tokens, state, rates, keep, form, chunk_size)
        return (jnp.flip(y, 1) if reverse else y).reshape(x.shape), state

    y, state = scan()
    if not is_causal:
        own = (B.astype(dtype) * C.astype(dtype)).sum(-1, keepdims=True)
        y = y + scan(reverse=True)[0] - own * steps * x.astype(dtype)
    if D is not None:
        y = y + spread(D.astype(dtype), x) * x.astype(dtype)
    y = spoil(y.astype(x.dtype), spoiled)
    if not return_state:
        return y
    return y, spoil_state(state.swapaxes(1, 2).reshape(*batch, dim, states), spoiled)


def _run(x, dt, B, C, state, A, keep, form, chunk_size):
    """y [B, T, D] and the last state [B, N, D], in which the channels vectorise.

    `keep` [B, T, 1] is 0 where the state is forgotten, else 1; None is 1 everywhere.
    """
    length = x.shape[1]
    pad = -length % chunk_size

    def chunks(y, fill=0):
        y = jnp.pad(y, ((0, 0), (0, pad), (0, 0)), constant_values=fill) if pad else y
        y = y.reshape(y.shape[0], y.shape[1] // chunk_size, chunk_size, y.shape[2])
        return y.transpose(1, 2, 0, 3)

    keep = None if keep is None else chunks(keep, 1)
    chunks = (*(chunks(y) for y in (dt * x, dt, B, C)), keep)  # [T / c, c, B, .]
    if form == "recurrent":
        y, state = _recurrent(A, state, chunks)
    else:
        body = jax.checkpoint(functools.partial(_associative, A))
        state, y = lax.scan(body, state, chunks)
    y = lax.collapse(y, 0, 2).swapaxes(0, 1)
    return y[:, :length], state


def _by_kernel(x, dt, B, C, keep, state, A):
    """`_run` by the kernel, in blocks of up to `BLOCK` channels."""
    batch, length, dim = x.shape
    # blocks of whole rows of the chip's memory, but for a single one
    dims = dim + (-dim % 128 if dim > 128 else 0)
    block = max((n for n in range(128, BLOCK + 1, 128) if dims % n == 0), default=dims)
    blocks = dims // block

    def split(y):
        y = jnp.pad(y, [(0, 0)] * (y.ndim - 1) + [(0, dims - dim)])
        return jnp.moveaxis(y.reshape(*y.shape[:-1], blocks, block), -2, 1)

    starts = jnp.zeros((batch, length, 1), x.dtype) if keep is None else 1 - keep
    starts = jnp.broadcast_to(starts[:, None, :, 0], (batch, blocks, length))
    rates = jnp.broadcast_to(A, (batch, *A.shape))
    arrays = [split(x), split(dt), B[:, None], C[:, None], starts, split(rates)]
    y, state = selective_kernel().run(arrays, split(state), jnp.float32)
    y, state = (jnp.moveaxis(each, 1, -2) for each in (y, state))
    return tuple(lax.collapse(each, each.ndim - 2)[..., :dim] for each in (y, state))


def _associative(A, h, chunk):
    u, dt, b, c, keep = chunk
    states, h = scan_leading(
        _kept(jnp.exp(dt[:, :, None] * A[None, None]), keep),
        b[..., None] * u[:, :, None],
        h,
        ("parallel", 1, False),
    )
    return h, jnp.einsum("tbn,tbnd->tbd", c, states)


def _kept(decay, keep):
    """The decay [..., N, D], and 0 where a segment starts."""
    return decay if keep is None else decay * keep[..., None]


@jax.custom_vjp
def _recurrent(A, state, chunks):
    """Token after token. The backward pass keeps one state per chunk and recomputes the others."""

    def body(h, chunk):
        return lax.scan(functools.partial(_token, A), h, chunk)

    state, y = lax.scan(body, state, chunks)
    return y, state


def _token(A, h, token):
    u, dt, b, c, keep = token
    h = _kept(jnp.exp(dt[:, None] * A[None]), keep) * h + b[:, :, None] * u[:, None]
    # a dot: XLA on CPU does not vectorise the equal sum over the middle axis
    return h, jnp.einsum("bn,bnd->bd", c, h)


def _recurrent_forward(A, state, chunks):
    def body(h, chunk):
        after, y = lax.scan(functools.partial(_token, A), h, chunk)
        return after, (y, h)

    state, (y, entering) = lax.scan(body, state, chunks)
    return (y, state), (A, entering, chunks)


def _recurrent_backward(residuals, cotangents):
    A, entering, chunks = residuals
    d_y, d_state = cotangents

    def chunk_backward(carry, inputs):
        h, chunk, d_y = inputs
        _, before = lax.scan(lambda h, token: (_token(A, h, token)[0], h), h, chunk)
        return lax.scan(token_backward, carry, (before, chunk, d_y), reverse=True)

    def token_backward(carry, inputs):
        g, d_A = carry
        h, (u, dt, b, c, keep), d_y = inputs
        decay = _kept(jnp.exp(dt[:, None] * A[None]), keep)
        decayed = decay * h
        after = decayed + b[:, :, None] * u[:, None]
        g = g + c[:, :, None] * d_y[:, None]
        d_log = g * decayed  # of the logarithm of the decay, dt * A
        gradients = (
            jnp.einsum("bn,bnd->bd", b, g),
            jnp.einsum("n,bnd->bd", jnp.ones_like(A[:, 0]), A[None] * d_log),
            jnp.einsum("bnd,bd->bn", g, u),
            jnp.einsum("bnd,bd->bn", after, d_y),
            # what is kept is given, and not learned
            None if keep is None else jnp.zeros_like(keep),
        )
        return (g * decay, d_A + d_log * dt[:, None]), gradients

    carry = (d_state, vary_like(jnp.zeros_like(d_state), d_state))
    (d_state, d_A), d_chunks = lax.scan(
        chunk_backward, carry, (entering, chunks, d_y), reverse=True
    )
    return d_A.sum(0), d_state, d_chunks


_recurrent.defvjp(_recurrent_forward, _recurrent_backward)


@op("dt_softplus")
def selective_scan_step(
    state: Float[Array, "*B D N"],
    x: Float[Array, "*B D"],
    dt: Float[Array, "*B D"],
    A: Float[Array, "D N"],
    B: Float[Array, "*B N"],
    C: Float[Array, "*B N"],
    *,
    D: Float[Array, " D"] | None = None,
    dt_bias: Float[Array, " D"] | None = None,
    dt_softplus: bool = False,
):
    """One token of `selective_scan`.

        h_t = exp(dt_t A) * h_{t-1} + dt_t B_t x_t,    y_t = h_t C_t + D x_t

    Args:
      state: h_{t-1}; zeros at the start.
      x: the input.
      dt: the step size, per channel.
      A: the rates, negative.
      B: the input vector.
      C: the output vector.
      D: skip weights per channel.
      dt_bias: added to dt first.
      dt_softplus: then dt = softplus(dt).

    Returns:
      (y [*B, D] in the dtype of x, the next state in accumulator precision).

    Raises:
      ValueError: an array of the wrong shape.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax.ops import selective_scan_step
      >>> one = jnp.ones(1)
      >>> y, state = selective_scan_step(jnp.ones((1, 1)), one, one, jnp.zeros((1, 1)), one, one)
      >>> y
      Array([2.], dtype=float32)

    Reference: hidden-mamba-attention
    """
    _check(x, dt, A, B, C, D, dt_bias, 1)
    check_shape("state", state, (*x.shape[:-1], *A.shape), "[*B, D, N]")
    dtype = accumulator_dtype(x, dt, A, B, C, state)
    dt = time_steps(dt, dt_bias, dt_softplus, None, dtype)[..., None]  # [*B, D, 1]
    B, C = (y.astype(dtype)[..., None, :] for y in (B, C))  # [*B, 1, N]
    inputs = x.astype(dtype)[..., None]
    state = jnp.exp(dt * align(A.astype(dtype), state)) * state.astype(dtype) + dt * inputs * B
    y = (state * C).sum(-1)
    if D is not None:
        y = y + spread(D.astype(dtype), x) * x.astype(dtype)
    return y.astype(x.dtype), state


@op("dt_softplus", "is_causal")
def selective_scan_matrix(
    dt: Float[Array, "*B T D"],
    A: Float[Array, "D N"],
    B: Float[Array, "*B T N"],
    C: Float[Array, "*B T N"],
    *,
    D: Float[Array, " D"] | None = None,
    dt_bias: Float[Array, " D"] | None = None,
    dt_softplus: bool = False,
    is_causal: bool = True,
    segment_ids: Int[Array, "*B T"] | None = None,
) -> Float[Array, "*B D T T"]:
    """The matrix over tokens that `selective_scan` applies to each channel, for small T.

        M_ij = sum_n C_in exp(A_n sum of dt over the tokens next to j up to i) B_jn dt_j + D [i = j]

    Args:
      dt: the step sizes, per channel.
      A: the rates, negative.
      B: input vectors.
      C: output vectors.
      D: skip weights per channel.
      dt_bias: added to dt first.
      dt_softplus: then dt = softplus(dt).
      is_causal: lower triangular; else the tokens of both sides weigh.
      segment_ids: packed sequences; blocks on the diagonal.

    Returns:
      [*B, D, T, T] in the dtype of C: one hidden attention per channel.

    Raises:
      ValueError: an array of the wrong shape.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax.ops import selective_scan_matrix
      >>> dt = B = C = jnp.ones((2, 1))
      >>> selective_scan_matrix(dt, jnp.log(jnp.array([[0.5]])), B, C)[0]
      Array([[1. , 0. ],
             [0.5, 1. ]], dtype=float32)

    Reference: hidden-mamba-attention
    """
    _check(dt, dt, A, B, C, D, dt_bias, 2)
    check_shape("segment_ids", segment_ids, B.shape[:-1], "[*B, T]")
    (dt, B, C), _, spoiled = quarantine(segment_ids, (dt, B, C), factors=4, is_causal=is_causal)
    dtype = accumulator_dtype(dt, A, B, C, D)
    dt = time_steps(dt, dt_bias, dt_softplus, None, dtype).swapaxes(-1, -2)  # [*B, D, T]
    # one state at a time: all of them would take [*B, D, T, T, N]
    sums = segment_sums(dt)
    past = sums > -jnp.inf
    if not is_causal:
        back = jnp.flip(segment_sums(jnp.flip(dt, -1)), (-2, -1))
        sums, past = jnp.where(past, sums, back), jnp.ones_like(past)
    if segment_ids is not None:
        past &= same_segment(segment_ids)[..., None, :, :]
    sums = jnp.where(past, sums, 0)

    def add(matrix, state):
        a, b, c = state
        decay = jnp.exp(sums * align(a, sums, 2))
        return matrix + decay * c[..., None, :, None] * b[..., None, None, :], None

    by_state = (A.astype(dtype).T, *(jnp.moveaxis(y.astype(dtype), -1, 0) for y in (B, C)))
    matrix, _ = lax.scan(add, jnp.zeros_like(sums), by_state)
    matrix = jnp.where(past, matrix * dt[..., None, :], 0)
    return spoil_rows(with_skip(matrix, D), spoiled).astype(C.dtype)


def _check(x, dt, A, B, C, D, dt_bias, rank):
    """Refuses wrong shapes; rank 2 with time, 1 without."""
    check_rank(rank, x=x, B=B)
    check_rank(2, A=A)
    time = "T, " if rank == 2 else ""
    dim, states = x.shape[-1], A.shape[-1]
    check_shape("dt", dt, x.shape, "the shape of x")
    check_shape("A", A, (dim, states), "[D, N]")
    check_shape("B", B, (*x.shape[:-1], states), f"[*B, {time}N]")
    check_shape("C", C, (*x.shape[:-1], states), f"[*B, {time}N]")
    check_shape("D", D, (dim,), "[D]")
    check_shape("dt_bias", dt_bias, (dim,), "[D]")
