"""Manhattan self-attention (RMT): attention on a grid that decays with the Manhattan distance."""

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from scanmax.ops.attention.distance import distance_attention, distance_attention_matrix
from scanmax.ops.attention.dot_product import attention_matrix, dot_product_attention
from scanmax.ops.attention.normalizer import Normalizer
from scanmax.ops.attention.relative_term import PLACEMENTS
from scanmax.ops.contract import check_choice, check_grid, check_rank, check_shape, op, require


@op("num_heads", "initial", "span", "dtype")
def manhattan_log_decay(
    num_heads: int, *, initial: float = 2.0, span: float = 4.0, dtype=jnp.float32
) -> Float[Array, "H"]:
    """The decay of each head of RMT, from fast to slow, as a logarithm.

    log_decay_h = log(1 - 2^(-initial - span h / H)), h = 0, ..., H - 1

    Args:
      num_heads: H.
      initial: the first head decays by 1 - 2^-initial per step.
      span: the last heads decay by nearly 1 - 2^(-initial - span); 4 in RMT's stages, or 6.
      dtype: of the result; it is computed in float64 and rounded once.

    Returns:
      [H], negative.

    Raises:
      ValueError: num_heads or initial is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> jnp.exp(ops.manhattan_log_decay(2)).round(4)
      Array([0.75  , 0.9375], dtype=float32)

    Reference: rmt-masa
    """
    require(num_heads >= 1, f"num_heads={num_heads} must be positive.")
    require(initial > 0, f"initial={initial} must be positive, or the first head forgets all.")
    return jnp.asarray(
        np.log1p(-(2.0 ** (-initial - span * np.arange(num_heads) / num_heads))), dtype
    )


def _check(query, key, value, log_decay, grid, prefix, placement):
    check_grid("grid", grid)
    check_rank(3, query=query, key=key, value=value)
    check_choice("placement", placement, PLACEMENTS)
    *batch, T, H, K = query.shape
    require(
        prefix + grid[0] * grid[1] == T,
        f"query has shape {query.shape}; expected T = {prefix} + {grid[0]} * {grid[1]} tokens.",
    )
    G = key.shape[-2]
    require(G > 0 and H % G == 0, f"key has shape {key.shape}: its heads do not divide {H}.")
    check_shape("key", key, (*batch, T, G, K), "[*B, T, G, K]")
    if value is not None:
        check_shape("value", value, (*batch, T, G, value.shape[-1]), "[*B, T, G, V]")
    check_shape("log_decay", log_decay, (H,), "[H]")


def _grid_places(grid, prefix):
    """[T, 2] rows and columns; those of the prefix are not looked at."""
    places = np.stack([axis.reshape(-1) for axis in np.indices(grid)], -1)
    return jnp.asarray(np.pad(places, ((prefix, 0), (0, 0))), jnp.int32)


def _line_places(length, prefix):
    line = np.arange(length)
    return tuple(jnp.asarray(p, jnp.int32) for p in (line, np.pad(line, (prefix, 0))))


def _rows(x, grid, prefix, heads, axis=0):
    """Tokens [*B, T, G, K] as lines [*B, N, L, heads, K], rows (0) or columns (1), G repeated."""
    x = jnp.repeat(x, heads // x.shape[-2], axis=-2)
    maps = x[..., prefix:, :, :].reshape(*x.shape[:-3], *grid, *x.shape[-2:])
    return jnp.swapaxes(maps, -3, -4) if axis else maps


def _with_prefix(prefix_tokens, lines):
    """The prefix [*B, P, H, K] in front of each line [*B, N, L, H, K]."""
    shape = (*lines.shape[:-3], prefix_tokens.shape[-3], *lines.shape[-2:])
    repeated = jnp.broadcast_to(prefix_tokens[..., None, :, :, :], shape)
    return jnp.concatenate([repeated.astype(lines.dtype), lines], -3)


@op(
    "grid",
    "decomposed",
    "placement",
    "prefix_tokens",
    "normalizer",
    "form",
    "chunk_size",
    "precision",
    forward_mode="parallel",
)
def manhattan_attention(
    query: Float[Array, "*B T H K"],
    key: Float[Array, "*B T G K"],
    value: Float[Array, "*B T G V"],
    log_decay: Float[Array, "H"],
    *,
    grid: tuple[int, int],
    decomposed: bool = False,
    placement: str = "logits",
    prefix_tokens: int = 0,
    scale: Float[Array, ""] | float | None = None,
    normalizer: str | Normalizer = "softmax",
    form: str | None = None,
    chunk_size: int | tuple[int, int] | None = None,
    precision=None,
) -> Float[Array, "*B T H V"]:
    """Attention on a grid that decays with the Manhattan distance, whole or along one axis a time.

        full:        y = softmax(q k^T + log D) v,  log D_ts = log_decay (|y_t - y_s| + |x_t - x_s|)
        decomposed:  y = A_Y (A_X v),  A_X = softmax(q k^T + log D_X) within each row,
                                       A_Y = softmax(q k^T + log D_Y) within each column

    The decay stands on the logits, as in RMT's released code; placement "weights" multiplies the
    weights by D after the softmax, as the paper prints it. Decomposed, the cost is Y X (Y + X)
    instead of (Y X)^2. Prefix tokens (not in the paper) decay nowhere: they read all tokens in one
    softmax, and in either step every pixel reads them beside its row or column.

    Args:
      query: [*B, T, H, K], T = prefix_tokens + Y * X, pixels row by row.
      key: [*B, T, G, K], where G divides H.
      value: [*B, T, G, V].
      log_decay: [H], at most 0; see `manhattan_log_decay`.
      grid: (Y, X).
      decomposed: attend along rows, then along columns.
      placement: of the decay, "logits" or "weights".
      prefix_tokens: leading tokens (class, distillation) outside the grid.
      scale: scalar factor of the logits; None is K ** -0.5.
      normalizer: as in `dot_product_attention`, like all that follow.
      form: "parallel" or "chunked".
      chunk_size: the largest block of the chunked form.
      precision: of every matrix product.

    Returns:
      [*B, T, H, V] in the dtype of value.

    Raises:
      ValueError: a shape, dtype or option that does not fit.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> x, value = jnp.zeros((4, 1, 2)), jnp.array([8.0, 0.0, 0.0, 0.0]).reshape(4, 1, 1)
      >>> half = jnp.log(jnp.array([0.5]))  # of pixels in a square, the first is seen by all
      >>> ops.manhattan_attention(x, x, value, half, grid=(2, 2)).round(2)[:, 0, 0]
      Array([3.56, 1.78, 1.78, 0.89], dtype=float32)

    Reference: rmt-masa
    """
    _check(query, key, value, log_decay, grid, prefix_tokens, placement)
    options = {
        "scale": scale,
        "normalizer": normalizer,
        "form": form,
        "chunk_size": chunk_size,
        "precision": precision,
    }
    if not decomposed:
        places = _grid_places(grid, prefix_tokens)
        return distance_attention(
            query,
            key,
            value,
            log_decay,
            places,
            places,
            placement=placement,
            prefix_tokens=prefix_tokens,
            **options,
        )
    P, heads = prefix_tokens, query.shape[-2]
    key_prefix, value_prefix = (
        jnp.repeat(x[..., :P, :, :], heads // x.shape[-2], axis=-2) for x in (key, value)
    )
    lines = _rows(value, grid, P, heads)
    for axis in range(2):
        lines = jnp.swapaxes(lines, -3, -4) if axis else lines
        queries, keys = (_rows(x, grid, P, heads, axis) for x in (query, key))
        lines = distance_attention(
            queries,
            _with_prefix(key_prefix, keys),
            _with_prefix(value_prefix, lines),
            log_decay,
            *_line_places(lines.shape[-3], P),
            placement=placement,
            prefix_tokens=(0, P),
            **options,
        )
    pixels = lax.collapse(jnp.swapaxes(lines, -3, -4), -4, -2)
    if not P:
        return pixels
    first = dot_product_attention(query[..., :P, :, :], key, value, **options)
    return jnp.concatenate([first, pixels], -3)


@op("grid", "decomposed", "placement", "prefix_tokens", "normalizer", "precision")
def manhattan_attention_matrix(
    query: Float[Array, "*B T H K"],
    key: Float[Array, "*B T G K"],
    log_decay: Float[Array, "H"],
    *,
    grid: tuple[int, int],
    decomposed: bool = False,
    placement: str = "logits",
    prefix_tokens: int = 0,
    scale: Float[Array, ""] | float | None = None,
    normalizer: str | Normalizer = "softmax",
    precision=None,
) -> Float[Array, "*B H T T"]:
    """The weights by which `manhattan_attention` mixes the values.

    Decomposed, P[(y, x), (y', x')] = A_Y[x][y, y'] A_X[y'][x, x'].

    Args:
      query: [*B, T, H, K].
      key: [*B, T, G, K], where G divides H.
      log_decay: [H].
      grid: (Y, X).
      decomposed: along rows, then along columns.
      placement: "logits" or "weights".
      prefix_tokens: as in `manhattan_attention`, like all that follow.
      scale: scalar factor of the logits; None is K ** -0.5.
      normalizer: a name or a `Normalizer`.
      precision: of every matrix product.

    Returns:
      [*B, H, T, T] in the dtype of query.

    Raises:
      ValueError: a shape, dtype or option that does not fit.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> x, none = jnp.zeros((4, 1, 2)), jnp.zeros(1)
      >>> ops.manhattan_attention_matrix(x, x, none, grid=(2, 2), decomposed=True)[0, 0]
      Array([0.25, 0.25, 0.25, 0.25], dtype=float32)

    Reference: rmt-masa
    """
    _check(query, key, None, log_decay, grid, prefix_tokens, placement)
    options = {"scale": scale, "normalizer": normalizer, "precision": precision}
    P, heads = prefix_tokens, query.shape[-2]
    if not decomposed:
        places = _grid_places(grid, P)
        return distance_attention_matrix(
            query,
            key,
            log_decay,
            places,
            places,
            placement=placement,
            prefix_tokens=P,
            **options,
        )
    key_prefix = jnp.repeat(key[..., :P, :, :], heads // key.shape[-2], axis=-2)
    rows, columns = (
        distance_attention_matrix(
            _rows(query, grid, P, heads, axis),
            _with_prefix(key_prefix, _rows(key, grid, P, heads, axis)),
            log_decay,
            *_line_places(grid[1 - axis], P),
            placement=placement,
            prefix_tokens=(0, P),
            **options,
        )
        for axis in range(2)
    )  # [*B, Y, H, X, P + X] and [*B, X, H, Y, P + Y]
    pixels = jnp.einsum(
        "...xhyv,...vhxw->...hyxvw", columns[..., P:], rows[..., P:], precision=precision
    )
    by_prefix = jnp.einsum(
        "...xhyv,...vhxp->...hyxp", columns[..., P:], rows[..., :P], precision=precision
    )
    by_prefix = by_prefix + jnp.moveaxis(columns[..., :P], (-4, -3), (-2, -4))
    T = grid[0] * grid[1]
    lead = pixels.shape[:-4]
    lower = jnp.concatenate([by_prefix.reshape(*lead, T, P), pixels.reshape(*lead, T, T)], -1)
    upper = attention_matrix(query[..., :P, :, :], key, **options)
    return jnp.concatenate([upper, lower], -2)
