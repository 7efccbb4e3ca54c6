"""Token shifts of RWKV: each token beside its neighbours, channel group by channel group."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from scanmax.ops.contract import align, check_rank, check_shape, op, require
from scanmax.ops.segments import segment_starts


@op("heads", "is_causal")
def token_shift(
    x: Float[Array, "*B T D"],
    *,
    heads: int = 1,
    is_causal: bool = True,
    segment_ids: Int[Array, "*B T"] | None = None,
    initial_state: Float[Array, "*B D"] | None = None,
) -> Float[Array, "*B T D"]:
    """The neighbour of each token in a sequence.

        causal: y_t = x_{t-1}
        else:   y_t = x_{t-1} in the first half of each head's channels, x_{t+1} in the second

    Beyond the ends there are zeros. The state to go on from is the last token, `x[..., -1, :]`.

    Args:
      x: the tokens.
      heads: groups of channels that are halved each; they divide D.
      is_causal: read the token before only.
      segment_ids: packed sequences: where the number changes from a token to the next a new one
        starts, and nothing passes.
      initial_state: the token before the first; causal only.

    Returns:
      [*B, T, D], each token's neighbours in its place.

    Raises:
      ValueError: heads that do not divide D, a state of the wrong shape or without is_causal.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax.ops import token_shift
      >>> x = jnp.array([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0]])
      >>> token_shift(x, is_causal=False)
      Array([[ 0., 20.],
             [ 1., 30.],
             [ 2.,  0.]], dtype=float32)

    Reference: rwkv-clip
    """
    check_rank(2, x=x)
    _check_heads(x, heads)
    require(
        is_causal or initial_state is None, "initial_state is the token before: is_causal=True."
    )
    check_shape("initial_state", initial_state, (*x.shape[:-2], x.shape[-1]), "[*B, D]")
    check_shape("segment_ids", segment_ids, x.shape[:-1], "[*B, T]")

    def within(y, reverse, trailing):
        """y, and zeros where the neighbour lies in another segment."""
        if segment_ids is None:
            return y
        starts = segment_starts(segment_ids, reverse)
        return jnp.where(align(starts, y, trailing), 0, y)

    if is_causal:
        first = jnp.zeros_like(x[..., :1, :])
        if initial_state is not None:
            first = initial_state[..., None, :].astype(x.dtype)
        return within(jnp.concatenate([first, x[..., :-1, :]], -2), False, 1)
    split = x.reshape(*x.shape[:-1], heads, x.shape[-1] // heads)
    before, after = jnp.split(split, [split.shape[-1] // 2], -1)
    before, after = within(_moved(before, -3, 1), False, 2), within(_moved(after, -3, -1), True, 2)
    return jnp.concatenate([before, after], -1).reshape(x.shape)


@op("heads", "shift")
def quarter_shift(
    x: Float[Array, "*B Y X D"], *, heads: int = 1, shift: int = 1
) -> Float[Array, "*B Y X D"]:
    """The four neighbours of each pixel, a quarter of each head's channels from each (Q-shift).

        y[p] = x[p - shift d_g] for quarter g,   d = right, left, down, up

    The quarters end at the floors of K / 4, K / 2 and 3 K / 4 of a head's K channels, as released.
    Pixels beyond the edges are zeros. One head is the shift of Vision-RWKV and Diffusion-RWKV,
    several that of RWKV-CLIP.

    Args:
      x: the map.
      heads: groups of channels that are quartered each; they divide D.
      shift: how far, in pixels.

    Returns:
      [*B, Y, X, D].

    Raises:
      ValueError: heads that do not divide D, a shift below 1.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax.ops import quarter_shift
      >>> x = jnp.broadcast_to(jnp.arange(1.0, 4.0)[:, None], (1, 3, 4))
      >>> quarter_shift(x)[0].T
      Array([[0., 1., 2.],
             [2., 3., 0.],
             [0., 0., 0.],
             [0., 0., 0.]], dtype=float32)

    Reference: rwkv-clip, diffusion-rwkv
    """
    check_rank(3, x=x)
    _check_heads(x, heads)
    require(shift >= 1, f"shift={shift}; expected at least 1.")
    split = x.reshape(*x.shape[:-1], heads, x.shape[-1] // heads)
    width = split.shape[-1]
    quarters = jnp.split(split, [width // 4, width // 2, 3 * width // 4], -1)
    moves = ((-3, shift), (-3, -shift), (-4, shift), (-4, -shift))
    moved = [_moved(quarter, *move) for quarter, move in zip(quarters, moves)]
    return jnp.concatenate(moved, -1).reshape(x.shape)


def _check_heads(x, heads):
    require(
        heads >= 1 and x.shape[-1] % heads == 0,
        f"x has shape {x.shape}: heads={heads} do not divide its {x.shape[-1]} channels.",
    )


def _moved(x, axis, by):
    """x moved along an axis, zeros behind it."""
    size = x.shape[axis]
    kept = min(abs(by), size)
    zeros = jnp.zeros_like(lax.slice_in_dim(x, 0, kept, axis=x.ndim + axis))
    if by > 0:
        rest = lax.slice_in_dim(x, 0, size - kept, axis=x.ndim + axis)
        return jnp.concatenate([zeros, rest], axis)
    return jnp.concatenate([lax.slice_in_dim(x, kept, size, axis=x.ndim + axis), zeros], axis)
