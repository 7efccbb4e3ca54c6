"""What ops over packed rows share: where a sequence starts, which tokens are of one, the forms."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Int

from scanmax.ops.contract import align

# What a recurrence calls the ways to evaluate it.
FORMS = (None, "parallel", "chunked", "recurrent")


def segment_starts(segment_ids: Int[Array, "*B T"], reverse: bool = False) -> Bool[Array, "*B T"]:
    """Where a token has another number than the token read before it; never the first one read."""
    changes = segment_ids[..., 1:] != segment_ids[..., :-1]
    first = jnp.zeros_like(segment_ids[..., :1], bool)
    return jnp.concatenate([changes, first] if reverse else [first, changes], -1)


def same_segment(segment_ids: Int[Array, "*B T"]) -> Bool[Array, "*B T T"]:
    """Whether two tokens lie in one segment, a run of equal numbers."""
    runs = jnp.cumsum(segment_starts(segment_ids), -1)
    return runs[..., :, None] == runs[..., None, :]


def quarantine(
    segment_ids, arrays, *, factors: int, decays=(), state=None, is_causal=True, reverse=False
):
    """Zeros in place of broken tokens, and which tokens these spoil.

    Packed sequences are kept apart by products with 0, in which NaN and infinity would stay what
    they are. A token is broken where one of its numbers is NaN, or so large that a product of
    `factors` of them could overflow (from 7e12 on in float32 with two factors, 4e9 with three). It
    spoils its own sequence from there on (all of it where not causal), and no other: see `spoil`.

    Args:
      segment_ids: [*B, T]; None quarantines nothing.
      arrays: [*B, T, ...] each; None passes.
      factors: how many numbers of a token the op multiplies.
      decays: as arrays, but of logarithms, which may be as low as -inf.
      state: [*B, ...], which the first token meets; a broken one spoils the first sequence.
      is_causal: whether a token is read by later ones only.
      reverse: whether by earlier ones only; the state is then what the last token meets.

    Returns:
      (arrays and decays in one tuple, the state, spoiled [*B, T] or None).
    """
    if segment_ids is None:
        return (*arrays, *decays), state, None
    axes = segment_ids.ndim
    broken = jnp.zeros(segment_ids.shape, bool)
    for x in (*(x if x is None else jnp.abs(x) for x in arrays), *decays):
        if x is not None:
            broken |= _over(x, axes, factors)
    if state is not None:
        before = _over(jnp.abs(state), axes - 1, factors)
        state = _cleared(state, before)
        first = -1 if reverse else 0
        broken = broken.at[..., first].set(broken[..., first] | before)
    spoiled = jnp.zeros_like(broken)
    if not reverse:
        spoiled |= _reached(broken, segment_starts(segment_ids))
    if reverse or not is_causal:
        back = _reached(jnp.flip(broken, -1), jnp.flip(segment_starts(segment_ids, True), -1))
        spoiled |= jnp.flip(back, -1)
    return tuple(_cleared(x, broken) for x in (*arrays, *decays)), state, spoiled


def spoil(y, spoiled):
    """y [*B, T, ...] with NaN where a token was spoiled, and no gradient from there."""
    return y if spoiled is None else _filled(y, spoiled, jnp.nan)


def spoil_state(state, spoiled, reverse=False):
    """The state [*B, ...] with NaN where the last token that was read was spoiled."""
    if spoiled is None:
        return state
    return _filled(state, spoiled[..., 0 if reverse else -1], jnp.nan)


def spoil_rows(matrix, spoiled):
    """The matrix [*B, H, T, T] with NaN in the rows of tokens that were spoiled."""
    return matrix if spoiled is None else jnp.where(spoiled[..., None, :, None], jnp.nan, matrix)


def _filled(x, where, value):
    return jnp.where(align(where, x, x.ndim - where.ndim), value, x)


def _cleared(x, broken):
    return None if x is None else _filled(x, broken, 0)


def _over(sizes, axes, factors):
    """Whether any of the sizes [*B, ...] is NaN or over the limit, by the first `axes`."""
    largest = float(jnp.finfo(sizes.dtype).max)
    limit = max(largest, float(jnp.finfo(jnp.float32).max)) ** (1 / (factors + 1))
    over = ~(sizes <= jnp.asarray(min(limit, largest), sizes.dtype))
    return jnp.any(over, range(axes, sizes.ndim))


def _reached(broken, starts):
    """Whether a broken token stands at or before each, in the same segment."""
    place = jnp.broadcast_to(jnp.arange(broken.shape[-1], dtype=jnp.int32), broken.shape)
    last = lax.cummax(jnp.where(broken, place, -1), axis=broken.ndim - 1)
    first = lax.cummax(jnp.where(starts, place, 0), axis=broken.ndim - 1)
    return last >= first
