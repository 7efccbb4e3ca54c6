"""Convolutions whose taps are softmax weights shared by the channels of a head.

Lightweight: the taps are parameters. Dynamic: each token brings its own.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from scanmax.ops.contract import (
    accumulator_dtype,
    align,
    check_rank,
    check_shape,
    op,
    require,
    require_causal_states,
    spread,
)
from scanmax.ops.conv.conv1d import neighbours
from scanmax.ops.segments import same_segment


@op("is_causal", "return_state")
def lightweight_conv(
    x: Float[Array, "*B T D"],
    logits: Float[Array, "H W"],
    *,
    is_causal: bool = True,
    segment_ids: Int[Array, "*B T"] | None = None,
    initial_state: Float[Array, "*B before D"] | None = None,
    return_state: bool = False,
):
    """Lightweight convolution: W taps for each head, normalised by softmax.

        y_t = sum_w softmax(logits_h)_w x_{t - b + w},   b = W - 1 if causal, floor(W / 2) if not

    for the channels of head h; beyond the ends there are zeros, with the weights that fall there.

    Args:
      x: the tokens; H divides D.
      logits: of the taps, oldest token first.
      is_causal: the last tap meets the token itself; otherwise the middle one.
      segment_ids: packed sequences: where the number changes from a token to the next a new one
        starts, and nothing passes.
      initial_state: the W - 1 tokens before the first, of the first segment; causal only.
      return_state: also return the last W - 1 tokens, to go on from.

    Returns:
      [*B, T, D] in the dtype of x; with `return_state` also [*B, W-1, D] in the dtype of x.

    Raises:
      ValueError: an array of the wrong shape, heads that do not divide D, or states without
        is_causal.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> ops.lightweight_conv(jnp.array([[2.0], [4.0], [8.0]]), jnp.zeros((1, 2)))[:, 0]
      Array([1., 3., 6.], dtype=float32)

    Reference: lightconv-dynamicconv
    """
    check_rank(2, x=x, logits=logits)
    check_shape("logits", logits, logits.shape[-2:], "[H, W]")
    return _mixed(x, logits, is_causal, segment_ids, initial_state, return_state)


@op("is_causal", "return_state")
def dynamic_conv(
    x: Float[Array, "*B T D"],
    logits: Float[Array, "*B T H W"],
    *,
    is_causal: bool = True,
    segment_ids: Int[Array, "*B T"] | None = None,
    initial_state: Float[Array, "*B before D"] | None = None,
    return_state: bool = False,
):
    """Dynamic convolution: every token brings the W taps of each head, normalised by softmax.

        y_t = sum_w softmax(logits_{t,h})_w x_{t - b + w},  b = W - 1 if causal, floor(W / 2) if not

    for the channels of head h; beyond the ends there are zeros, with the weights that fall there.
    Time and memory are those of W multiply-adds a channel; no matrix over tokens is made.

    Args:
      x: the tokens; H divides D.
      logits: of the taps, oldest token first; a linear map of the token in the paper.
      is_causal: the last tap meets the token itself; otherwise the middle one.
      segment_ids: packed sequences: where the number changes from a token to the next a new one
        starts, and nothing passes.
      initial_state: the W - 1 tokens before the first, of the first segment; causal only.
      return_state: also return the last W - 1 tokens, to go on from.

    Returns:
      [*B, T, D] in the dtype of x; with `return_state` also [*B, W-1, D] in the dtype of x.

    Raises:
      ValueError: an array of the wrong shape, heads that do not divide D, or states without
        is_causal.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> x = jnp.array([[2.0], [4.0], [8.0]])
      >>> logits = jnp.array([[0.0, 30.0], [30.0, 0.0], [0.0, 0.0]])
      >>> ops.dynamic_conv(x, logits[:, None])[:, 0]
      Array([2., 2., 6.], dtype=float32)

    Reference: lightconv-dynamicconv
    """
    check_rank(2, x=x)
    check_rank(3, logits=logits)
    check_shape("logits", logits, (*x.shape[:-1], *logits.shape[-2:]), "[*B, T, H, W]")
    return _mixed(x, logits, is_causal, segment_ids, initial_state, return_state)


@op()
def lightweight_conv_step(
    state: Float[Array, "*B _ D"], x: Float[Array, "*B D"], logits: Float[Array, "H W"]
):
    """One token of the causal `lightweight_conv`.

        y_t = sum_w softmax(logits_h)_w x_{t - (W - 1) + w}

    Args:
      state: the W - 1 tokens before this one, oldest first; zeros at the start.
      x: the token.
      logits: of the taps, oldest token first.

    Returns:
      (y [*B, D] in the dtype of x, the next state).

    Raises:
      ValueError: an array of the wrong shape, heads that do not divide D.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> y, state = ops.lightweight_conv_step(jnp.zeros((1, 1)), jnp.ones(1), jnp.zeros((1, 2)))
      >>> y, state
      (Array([0.5], dtype=float32), Array([[1.]], dtype=float32))

    Reference: lightconv-dynamicconv
    """
    check_rank(1, x=x)
    check_rank(2, logits=logits)
    check_shape("logits", logits, logits.shape[-2:], "[H, W]")
    return _step(state, x, logits)


@op()
def dynamic_conv_step(
    state: Float[Array, "*B _ D"], x: Float[Array, "*B D"], logits: Float[Array, "*B H W"]
):
    """One token of the causal `dynamic_conv`.

        y_t = sum_w softmax(logits_{t,h})_w x_{t - (W - 1) + w}

    Args:
      state: the W - 1 tokens before this one, oldest first; zeros at the start.
      x: the token.
      logits: of this token's taps, oldest token first.

    Returns:
      (y [*B, D] in the dtype of x, the next state).

    Raises:
      ValueError: an array of the wrong shape, heads that do not divide D.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> y, state = ops.dynamic_conv_step(jnp.zeros((1, 1)), jnp.ones(1), jnp.zeros((1, 2)))
      >>> y, state
      (Array([0.5], dtype=float32), Array([[1.]], dtype=float32))

    Reference: lightconv-dynamicconv
    """
    check_rank(1, x=x)
    check_rank(2, logits=logits)
    check_shape("logits", logits, (*x.shape[:-1], *logits.shape[-2:]), "[*B, H, W]")
    return _step(state, x, logits)


@op("is_causal")
def dynamic_conv_matrix(
    logits: Float[Array, "*B T H W"],
    *,
    is_causal: bool = True,
    segment_ids: Int[Array, "*B T"] | None = None,
) -> Float[Array, "*B H T T"]:
    """The weights between tokens of `dynamic_conv`, a band of W diagonals; for small T.

        M_{h,t,s} = softmax(logits_{t,h})_{s - t + b},   b = W - 1 if causal, floor(W / 2) if not

    Those of `lightweight_conv` are the same for logits that are repeated for every token.

    Args:
      logits: of the taps, oldest token first.
      is_causal: the last tap meets the token itself; otherwise the middle one.
      segment_ids: packed sequences, as in `dynamic_conv`.

    Returns:
      [*B, H, T, T] in the dtype of logits.

    Raises:
      ValueError: an array of the wrong shape.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> ops.dynamic_conv_matrix(jnp.zeros((3, 1, 2)))[0]
      Array([[0.5, 0. , 0. ],
             [0.5, 0.5, 0. ],
             [0. , 0.5, 0.5]], dtype=float32)

    Reference: lightconv-dynamicconv
    """
    check_rank(3, logits=logits)
    check_shape("segment_ids", segment_ids, logits.shape[:-2], "[*B, T]")
    length, width = logits.shape[-3], logits.shape[-1]
    taps = jnp.swapaxes(_taps(logits, logits), -3, -2)  # [*B, H, T, W]
    before = _before(width, is_causal)
    place = jnp.arange(length)[None] - jnp.arange(length)[:, None] + before
    inside = (place >= 0) & (place < width)
    index = jnp.broadcast_to(jnp.clip(place, 0, width - 1), (*taps.shape[:-1], length))
    matrix = jnp.where(align(inside, index), jnp.take_along_axis(taps, index, -1), 0)
    if segment_ids is not None:
        matrix = jnp.where(same_segment(segment_ids)[..., None, :, :], matrix, 0)
    return matrix.astype(logits.dtype)


def _before(width: int, is_causal: bool) -> int:
    """How many tokens before its own a token reads."""
    return width - 1 if is_causal else width // 2


def _taps(logits: Array, *arrays: Array) -> Array:
    return jax.nn.softmax(logits.astype(accumulator_dtype(logits, *arrays)), -1)


def _check_heads(x: Array, logits: Array) -> None:
    heads, width = logits.shape[-2:]
    require(
        width >= 1 and heads >= 1 and x.shape[-1] % heads == 0,
        f"logits has shape {logits.shape}: its {heads} heads of {width} taps must divide the "
        f"{x.shape[-1]} channels of x.",
    )


def _mixed(x, logits, is_causal, segment_ids, initial_state, return_state):
    """Both convolutions: logits lack the axes of batch and time, or have them."""
    _check_heads(x, logits)
    require_causal_states(is_causal, initial_state, return_state)
    heads, width = logits.shape[-2:]
    ahead = width - 1 - _before(width, is_causal)
    tokens, state = neighbours(x, width, ahead, initial_state, segment_ids)
    taps = _taps(logits, x)
    split = (*x.shape[:-1], heads, x.shape[-1] // heads)
    y = 0
    for w, token in enumerate(tokens):
        token = token.reshape(split).astype(taps.dtype)
        y = y + token * spread(taps[..., w], token, 1)
    y = y.reshape(x.shape).astype(x.dtype)
    return (y, state) if return_state else y


def _step(state, x, logits):
    _check_heads(x, logits)
    heads, width = logits.shape[-2:]
    check_shape("state", state, (*x.shape[:-1], width - 1, x.shape[-1]), "[*B, W-1, D]")
    window = jnp.concatenate([state, x[..., None, :].astype(state.dtype)], -2)
    taps = jnp.moveaxis(_taps(logits, x), -1, -2)  # [(*B,) W, H]
    split = window.astype(taps.dtype).reshape(*window.shape[:-1], heads, x.shape[-1] // heads)
    y = (split * spread(taps, split, 1)).sum(-3).reshape(x.shape)
    return y.astype(x.dtype), window[..., 1:, :]
