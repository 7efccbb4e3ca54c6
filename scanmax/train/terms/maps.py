"""Activations as maps: what terms share that compare places."""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.errors import UserError

# A class token and one of distillation.
MOST_PREFIX_TOKENS = 2


def as_map(x: Float[Array, "B ... C"], where: str) -> Float[Array, "B Y X C"]:
    """An activation as a map, in float32 or wider.

    Tokens are read as a square of patches behind none, one or two tokens of no place.

    Args:
      x: a map [B, Y, X, C], tokens [B, T, C], or vectors [B, C], a map of one place.
      where: what names it in a message.

    Raises:
      UserError: tokens that are no square.
    """
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    if x.ndim == 4:
        return x
    if x.ndim == 2:
        return x[:, None, None]
    tokens = x.shape[1]
    for prefix in range(min(MOST_PREFIX_TOKENS + 1, tokens)):
        side = math.isqrt(tokens - prefix)
        if side * side == tokens - prefix:
            return x[:, prefix:].reshape(x.shape[0], side, side, x.shape[-1])
    raise UserError(f"{where} holds {tokens} tokens, which are no square of patches")


def as_tokens(x: Float[Array, "B Y X C"]) -> Float[Array, "B T C"]:
    """Places in a row."""
    return x.reshape(x.shape[0], x.shape[1] * x.shape[2], x.shape[-1])


def pooled_to(
    x: Float[Array, "B Y X C"], grid: tuple[int, int], where: str
) -> Float[Array, "B y x C"]:
    """Means over equal cells, so many.

    Raises:
      UserError: a grid that does not divide the map.
    """
    rows, height, width, channels = x.shape
    if height % grid[0] or width % grid[1]:
        raise UserError(f"{where}: a map of {height} x {width} does not divide into {grid}")
    cells = (rows, grid[0], height // grid[0], grid[1], width // grid[1], channels)
    return jnp.mean(x.reshape(cells), axis=(2, 4))


def with_places(
    seen: Float[Array, "B ... C"], x: Float[Array, "B Y X C"]
) -> Float[Array, "B ... C"]:
    """An activation whose places are others; its tokens of no place stay.

    Args:
      seen: the activation, a map, tokens or vectors.
      x: as `as_map` reads it.
    """
    if seen.ndim == 4:
        return x
    if seen.ndim == 2:
        return x[:, 0, 0]
    prefix = seen.shape[1] - x.shape[1] * x.shape[2]
    return jnp.concatenate([seen[:, :prefix].astype(x.dtype), as_tokens(x)], axis=1)


def equal_maps(own: Float[Array, "B Y X C"], told: Float[Array, "B y x D"], where: str) -> None:
    """Refuses maps of other sizes.

    Raises:
      UserError: other sizes.
    """
    if own.shape[1:3] != told.shape[1:3]:
        raise UserError(
            f"{where} holds a map of {own.shape[1]} x {own.shape[2]} of the student against "
            f"{told.shape[1]} x {told.shape[2]} of the teacher: take taps of equal maps"
        )
