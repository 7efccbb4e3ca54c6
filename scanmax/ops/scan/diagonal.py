"""The diagonal linear recurrence under the scans, and the segment sums of their chunked forms."""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Inexact, Int

from scanmax.ops.contract import (
    accumulator_dtype,
    align,
    check_choice,
    check_implementation,
    check_rank,
    check_shape,
    op,
    platform,
    require,
    vary_together,
)
from scanmax.ops.segments import FORMS, quarantine, segment_starts, spoil, spoil_state


@op("axis", "reverse", "bidirectional", "return_state", "form", "chunk_size", "implementation")
def diagonal_scan(
    decay: Inexact[Array, "..."],
    x: Inexact[Array, "*B T D"],
    *,
    axis: int = -2,
    reverse: bool = False,
    bidirectional: bool = False,
    segment_ids: Int[Array, "..."] | None = None,
    initial_state: Inexact[Array, "..."] | None = None,
    return_state: bool = False,
    form: str | None = None,
    chunk_size: int = 64,
    implementation=None,
):
    """Diagonal linear recurrence along one axis: forward, in reverse, or in both directions.

        h_t = decay_t * h_{t-1} + x_t          (reverse: h_t = decay_t * h_{t+1} + x_t)

    In both directions, the two are added and the token itself counts once. The decay itself is
    taken, not its logarithm, so that zero, negative and complex decays work. The gradient is the
    same recurrence run the other way; it keeps only `decay` and the outputs.

    Args:
      decay: same rank as `x`; axes of size 1 broadcast against it (never the scanned one).
      x: the inputs.
      axis: the time axis, -2 by default.
      reverse: run from the last token to the first.
      bidirectional: the sum of both directions, less x; it has no state.
      segment_ids: packed sequences, [*B, T] (of the shape of x up to `axis`): nothing passes from a
        token to the next where the number changes.
      initial_state: the h before the first token (after the last one in reverse), shaped as `x`
        without `axis`; zeros by default. With segments it enters the first one read.
      return_state: also return the h after the last token read.
      form: "recurrent" takes T steps; "chunked" runs all chunks side by side, then passes states
        from chunk to chunk, in chunk_size + T / chunk_size steps; "parallel" is an associative
        scan of depth log T. None: "recurrent" on CPU, where it is the fastest, else "parallel".
      chunk_size: tokens per chunk of the chunked form.
      implementation: only "xla".

    Returns:
      All h, in the shape of `x` and its dtype (complex where another array is); with `return_state`
      also the last h, in accumulator precision.

    Raises:
      ValueError: decay does not broadcast to x, a state of the wrong shape or where there is none,
        an unknown form.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax.ops import diagonal_scan
      >>> diagonal_scan(jnp.full((3, 1), 0.5), jnp.ones((3, 1)))[:, 0]
      Array([1.  , 1.5 , 1.75], dtype=float32)

    Reference: mamba2-ssd
    """
    check_choice("form", form, FORMS)
    check_implementation("diagonal_scan", implementation, ("xla",))
    check_rank(1, x=x)
    require(-x.ndim <= axis < x.ndim, f"axis={axis} is out of range for x of shape {x.shape}.")
    axis %= x.ndim
    broadcasts = decay.ndim == x.ndim and all(
        have == want or (have == 1 and i != axis)
        for i, (have, want) in enumerate(zip(decay.shape, x.shape))
    )
    require(
        broadcasts,
        f"decay has shape {decay.shape}; expected that of x, {x.shape}, or 1 on axes other than "
        f"axis {axis}.",
    )
    state_shape = x.shape[:axis] + x.shape[axis + 1 :]
    if initial_state is not None:
        require(
            initial_state.shape == state_shape,
            f"initial_state has shape {initial_state.shape}; expected {state_shape}.",
        )
    check_shape("segment_ids", segment_ids, x.shape[: axis + 1], "[*B, T]")
    require(
        not bidirectional or (initial_state is None and not return_state and not reverse),
        "bidirectional=True runs both ways: initial_state, return_state and reverse do not go with "
        "it.",
    )
    if segment_ids is not None:
        decay = jnp.broadcast_to(decay, x.shape)
    (x, decay), initial_state, spoiled = quarantine(
        segment_ids,
        (x, decay),
        factors=2,
        state=initial_state,
        is_causal=not bidirectional,
        reverse=reverse,
    )
    dtype = accumulator_dtype(decay, x, initial_state)
    if initial_state is None:
        initial_state = jnp.zeros(state_shape, dtype)
    if form is None:
        form = "recurrent" if platform() == "cpu" else "parallel"
    result = dtype if jnp.issubdtype(dtype, jnp.complexfloating) else x.dtype
    inputs = jnp.moveaxis(x, axis, 0).astype(dtype)

    def run(reverse):
        factors = decay.astype(dtype)
        if segment_ids is not None:
            starts = segment_starts(segment_ids, reverse)
            starts = starts.reshape(starts.shape + (1,) * (x.ndim - starts.ndim))
            factors = jnp.where(starts, 0, factors)
        arrays = vary_together(jnp.moveaxis(factors, axis, 0), inputs, initial_state.astype(dtype))
        return scan_leading(*arrays, (form, chunk_size, reverse))

    states, final = run(reverse)
    if bidirectional:
        states = states + run(True)[0] - inputs
    states = spoil(jnp.moveaxis(states, 0, axis).astype(result), spoiled)
    return (states, spoil_state(final, spoiled, reverse)) if return_state else states


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def scan_leading(decay, x, state, options):
    """The recurrence along the leading axis: all states, and the last one."""
    form, chunk_size, reverse = options
    if form == "recurrent":

        def step(h, inputs):
            a, b = inputs
            h = a * h + b
            return h, h

        final, states = lax.scan(step, state, (decay, x), reverse=reverse)
        return states, final
    if form == "parallel":
        products, states = lax.associative_scan(_compose, (decay, x), reverse=reverse)
        states = states + products * state[None]
        return states, states[0 if reverse else -1]
    return _scan_chunks(decay, x, state, chunk_size, reverse)


def _compose(first, second):
    """The map h -> a h + b of two stretches of tokens, one after the other."""
    (a, b), (c, d) = first, second
    return c * a, c * b + d


def _scan_chunks(decay, x, state, chunk_size, reverse):
    length = x.shape[0]
    c = min(chunk_size, length)
    # the padding is read last, and leaves the state as it is
    pad = (-length % c, 0) if reverse else (0, -length % c)
    decay = jnp.pad(decay, [pad] + [(0, 0)] * (decay.ndim - 1), constant_values=1)
    x = jnp.pad(x, [pad] + [(0, 0)] * (x.ndim - 1))
    chunks = x.shape[0] // c
    # [c, n, ...]
    decay, x = (y.reshape(chunks, c, *y.shape[1:]).swapaxes(0, 1) for y in (decay, x))

    def step(carry, inputs):
        carry = _compose(carry, inputs)
        return carry, carry

    identity = vary_together(jnp.ones_like(decay[0]), jnp.zeros_like(x[0]), decay, x)[:2]
    (total, last), (products, states) = lax.scan(step, tuple(identity), (decay, x), reverse=reverse)

    def pass_on(h, inputs):
        a, b = inputs
        return a * h + b, h

    final, entering = lax.scan(pass_on, state, (total, last), reverse=reverse)
    states = lax.collapse((states + products * entering[None]).swapaxes(0, 1), 0, 2)
    return lax.slice_in_dim(states, pad[0], pad[0] + length), final


def _scan_forward(decay, x, state, options):
    states, final = scan_leading(decay, x, state, options)
    return (states, final), (decay, states, state)


def _scan_backward(options, residuals, cotangents):
    form, chunk_size, reverse = options
    decay, states, state = residuals
    d_states, d_final = cotangents
    # the cotangent of h_t is d_t + decay_{t+1} * that of h_{t+1}: the recurrence run backwards,
    # its decays shifted by one token
    if reverse:
        previous = jnp.concatenate([states[1:], state[None]])
        shifted = jnp.concatenate([jnp.ones_like(decay[:1]), decay[:-1]])
    else:
        previous = jnp.concatenate([state[None], states[:-1]])
        shifted = jnp.concatenate([decay[1:], jnp.ones_like(decay[:1])])
    d_x, _ = scan_leading(shifted, d_states, d_final, (form, chunk_size, not reverse))
    d_decay = d_x * previous
    summed = tuple(i for i, size in enumerate(decay.shape) if size != d_decay.shape[i])
    d_decay = d_decay.sum(summed, keepdims=True) if summed else d_decay
    first = -1 if reverse else 0
    return d_decay, d_x, decay[first] * d_x[first]


scan_leading.defvjp(_scan_forward, _scan_backward)


def pair_decays(log_decay: Float[Array, "*B T"], is_causal: bool) -> Float[Array, "*B T T"]:
    """The decay from token j to token i, at [i, j]: of the tokens next to j up to i itself.

    Causal, it is 0 where j > i; else the same holds on either side.
    """
    decay = jnp.exp(segment_sums(log_decay))
    if is_causal:
        return decay
    backwards = jnp.flip(jnp.exp(segment_sums(jnp.flip(log_decay, -1))), (-2, -1))
    past = jnp.tri(decay.shape[-1], dtype=bool)
    return jnp.where(align(past, decay), decay, backwards)


def segment_sums(x: Float[Array, "*B T"], block: int = 128) -> Float[Array, "*B T T"]:
    """Sums of x over the tokens after j up to i, at [i, j]; -inf where j > i.

    Each is a sum of its own terms alone: a difference of two cumulative sums would lose the digits
    that they share. Infinite decays become very large ones, for zero times infinity is no number.
    Beyond `block` tokens, a sum goes from j to the end of its block, over the blocks between, and
    from the start of the block of i to i.
    """
    length = x.shape[-1]
    if length <= block:
        x = jnp.maximum(x, -1e30)
        terms = jnp.where(align(jnp.tri(length, k=-1, dtype=bool), x[..., None]), x[..., None], 0)
        past = jnp.tri(length, dtype=x.dtype)
        sums = jnp.einsum("it,...tj->...ij", past, terms, precision=lax.Precision.HIGHEST)
        return jnp.where(align(past, sums) > 0, sums, -jnp.inf)
    x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, -length % block)])
    x = x.reshape(*x.shape[:-1], x.shape[-1] // block, block)  # [*B, blocks, block]
    within = segment_sums(x, block)
    to, after = within[..., 0] + x[..., :1], within[..., -1, :]
    # the blocks strictly between: row I of the sums of totals, moved one block down
    between = segment_sums(to[..., -1], block)
    above = jnp.full_like(between[..., :1, :], -jnp.inf)
    between = jnp.concatenate([above, between[..., :-1, :]], -2)
    sums = to[..., :, :, None, None] + between[..., :, None, :, None] + after[..., None, None, :, :]
    same = jnp.eye(x.shape[-2], dtype=bool)[:, None, :, None]
    sums = jnp.where(align(same, sums), within[..., :, :, None, :], sums)
    padded = x.shape[-2] * block
    return sums.reshape(*x.shape[:-2], padded, padded)[..., :length, :length]


def join_blocks(blocks, cross, above):
    """Blocks [.., n, s, s] on the diagonal, in pairs, `cross` below and a constant above them."""
    left, right = blocks[..., ::2, :, :], blocks[..., 1::2, :, :]
    upper = jnp.concatenate([left, jnp.full_like(left, above)], -1)
    return jnp.concatenate([upper, jnp.concatenate([cross, right], -1)], -2)


def join_ends(to, after, axis):
    """Sums from the start of a block and to its end, for pairs of blocks; tokens lie on `axis`."""
    blocks = axis - 1

    def half(x, first):
        return lax.slice_in_dim(x, first, None, 2, axis=x.ndim + blocks)

    left_total = lax.slice_in_dim(half(to, 0), -1, None, axis=to.ndim + axis)
    right_total = lax.slice_in_dim(half(to, 1), -1, None, axis=to.ndim + axis)
    to = jnp.concatenate([half(to, 0), left_total + half(to, 1)], axis)
    return to, jnp.concatenate([half(after, 0) + right_total, half(after, 1)], axis)
