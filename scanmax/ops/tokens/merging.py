"""Merging of similar tokens: bipartite matching by one or several criteria, and what it merges.

A matching is one group number per token; tokens of a group become one. Numbers and sizes have
shapes that are known when traced.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from scanmax.ops.contract import (
    accumulator_dtype,
    check_choice,
    check_rank,
    check_shape,
    op,
    require,
)
from scanmax.ops.tokens.assignment import unit

Temperatures = tuple[float | None, float | None, float | None]


@op("remove", "temperatures", "bidirectional", "protected", "precision")
def bipartite_soft_matching(
    metric: Float[Array, "*B T K"],
    importance: Float[Array, "*B T"] | None = None,
    size: Float[Array, "*B T"] | None = None,
    *,
    remove: int,
    temperatures: Temperatures = (1.0, 20.0, 40.0),
    bidirectional: bool = True,
    protected: int = 1,
    precision=None,
) -> Int[Array, "*B T"]:
    """Chooses tokens to merge, by matching the even ones with the odd ones.

        W_ij = ((cos(x_i, x_j) + 1) / 2)^(1/t_0) (r_i r_j)^(1/t_1) (z_i z_j)^(1/t_2)

    with r = 1 / importance and z = 1 / size, each over its largest value: similar, unimportant and
    small tokens merge first. Every even token points to its best odd one and the `remove` strongest
    pairs merge. Bidirectional, half of them do; then the odd tokens point to the even ones that are
    left, and the other half merges into those. ToMe is one direction with similarity alone.

    Groups are numbered as the released codes order the tokens: protected tokens first, the even
    ones that stay, then the odd ones (in one direction in their order, in both by falling strength
    of their best pair). remove = 0 numbers the tokens as they are.

    Args:
      metric: [*B, T, K], what is compared: the tokens (MCTF), or their mean keys (ToMe).
      importance: [*B, T], positive, the attention a token receives; None leaves the factor out.
      size: [*B, T], positive, how many tokens each one holds; None leaves the factor out.
      remove: how many tokens to remove, at most (T - protected) // 2.
      temperatures: of similarity, importance and size; None leaves a factor out.
      bidirectional: two directions, remove // 2 from the even tokens, or one.
      protected: leading tokens (class, distillation) that never merge.
      precision: of the matrix product.

    Returns:
      [*B, T] integers from 0 to T - remove - 1, without a gradient.

    Raises:
      ValueError: too many tokens to remove, or shapes that do not agree.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> x = jnp.array([[1.0, 1.0], [1.0, 0.0], [0.0, 1.0], [0.1, 1.0]])
      >>> ops.bipartite_soft_matching(x, remove=1, bidirectional=False)
      Array([0, 1, 2, 2], dtype=int32)

    Reference: mctf
    """
    check_rank(2, metric=metric)
    *batch, T, _ = metric.shape
    check_shape("importance", importance, (*batch, T), "[*B, T]")
    check_shape("size", size, (*batch, T), "[*B, T]")
    require(protected >= 0, f"protected={protected} is negative.")
    most = max(T - protected, 0) // 2
    require(
        0 <= remove <= most,
        f"remove={remove}; with metric of shape {metric.shape} and {protected} protected tokens "
        f"at most {most}.",
    )
    require(
        len(temperatures) == 3 and all(t is None or t > 0 for t in temperatures),
        f"temperatures={temperatures}; expected three positive numbers or None.",
    )
    if not remove:
        return jnp.broadcast_to(jnp.arange(T, dtype=jnp.int32), (*batch, T))
    metric, importance, size = jax.lax.stop_gradient((metric, importance, size))
    weights = _pair_weights(metric, importance, size, temperatures, precision)
    even_free, odd_free = (np.arange(start, T, 2) >= protected for start in (0, 1))
    weights = jnp.where(jnp.asarray(even_free[:, None] & odd_free), weights, -jnp.inf)
    from_even = remove // 2 if bidirectional else remove
    evens, odds = weights.shape[-2:]
    moved, _, target = _strongest(weights, from_even, axis=-1)
    number = jnp.cumsum(~moved, axis=-1, dtype=jnp.int32) - 1
    kept = evens - from_even
    if bidirectional:
        left = jnp.where(moved[..., None], -jnp.inf, weights)
        odd_moved, odd_rank, odd_target = _strongest(left, remove - from_even, axis=-2)
        joined = jnp.take_along_axis(number, odd_target, axis=-1)
        odd_number = jnp.where(odd_moved, joined, kept + odd_rank - (remove - from_even))
    else:
        places = kept + jnp.arange(odds, dtype=jnp.int32)
        odd_number = jnp.broadcast_to(places, (*batch, odds))
    joined = jnp.take_along_axis(odd_number, target, axis=-1)
    number = jnp.where(moved, joined, number)
    number = _interleave(number, odd_number)
    return _protected_first(number, T, remove, protected, bidirectional)


def _pair_weights(metric, importance, size, temperatures, precision):
    """[*B, even, odd]."""
    dtype = accumulator_dtype(metric)
    x = unit(metric.astype(dtype))
    weights = jnp.ones((*x.shape[:-2], -(-x.shape[-2] // 2), x.shape[-2] // 2), dtype)
    if temperatures[0] is not None:
        even, odd = x[..., 0::2, :], x[..., 1::2, :]
        cosine = jnp.einsum("...id,...jd->...ij", even, odd, precision=precision)
        weights = jnp.maximum((cosine + 1) / 2, 0) ** (1 / temperatures[0])
    for quantity, temperature in zip((importance, size), temperatures[1:]):
        if quantity is not None and temperature is not None:
            inverse = 1 / quantity.astype(dtype)
            inverse = inverse / jnp.max(inverse, axis=-1, keepdims=True)
            pairs = inverse[..., 0::2, None] * inverse[..., None, 1::2]
            weights = weights * pairs ** (1 / temperature)
    return weights


def _strongest(weights, count, axis):
    """Along the other axis: which `count` tokens have the best pairs, their rank, the partner."""
    best, target = jnp.max(weights, axis=axis), jnp.argmax(weights, axis=axis)
    order = jnp.argsort(-best, axis=-1, stable=True)
    rank = jnp.argsort(order, axis=-1).astype(jnp.int32)
    return rank < count, rank, target.astype(jnp.int32)


def _interleave(even, odd):
    """[*B, T] from the numbers at even and at odd places."""
    padding = [(0, 0)] * (odd.ndim - 1) + [(0, even.shape[-1] - odd.shape[-1])]
    both = jnp.stack([even, jnp.pad(odd, padding)], axis=-1)
    return jax.lax.collapse(both, -2)[..., : even.shape[-1] + odd.shape[-1]]


def _protected_first(number, T, remove, protected, bidirectional):
    """Renumbers the groups of the odd protected tokens, whose numbers never depend on the data."""
    odd = protected // 2
    if not odd:
        return number
    groups = T - remove
    first = groups - odd if bidirectional else -(-T // 2) - remove
    old = [i // 2 + (first if i % 2 else 0) for i in range(protected)]
    order = [*old, *(i for i in range(groups) if i not in old)]
    new = np.empty(groups, np.int32)
    new[order] = np.arange(groups)
    return jnp.take(jnp.asarray(new), number)


def _by_group(x, groups, num_groups, reduce):
    """Sum or maximum over the tokens of each group: [*B, T, D] -> [*B, G, D]."""
    batch = x.shape[:-2]
    rows, groups = jax.lax.collapse(x, 0, -2), jax.lax.collapse(groups, 0, -1)
    segment = jax.ops.segment_max if reduce == "max" else jax.ops.segment_sum
    one = functools.partial(segment, num_segments=num_groups)
    return jax.vmap(one)(rows, groups).reshape(*batch, num_groups, x.shape[-1])


def _check_groups(x, groups, weights, num_groups):
    check_rank(2, x=x)
    check_shape("groups", groups, x.shape[:-1], "[*B, T]")
    check_shape("weights", weights, x.shape[:-1], "[*B, T]")
    require(
        jnp.issubdtype(groups.dtype, jnp.integer),
        f"groups has dtype {groups.dtype}; expected integers.",
    )
    require(num_groups >= 1, f"num_groups={num_groups}; expected a positive number.")


@op("num_groups", "reduce")
def merge_tokens(
    x: Float[Array, "*B T D"],
    groups: Int[Array, "*B T"],
    weights: Float[Array, "*B T"] | None = None,
    *,
    num_groups: int,
    reduce: str = "mean",
) -> Float[Array, "*B G D"]:
    """Makes one token of each group.

        y_g = sum_(i in g) w_i x_i / sum_(i in g) w_i

    Weighted by their sizes, tokens keep the mean of all that they ever held (ToMe); weighted by
    importance times size they follow MCTF. The weights take no gradient, as in both codes.

    Args:
      x: [*B, T, D] tokens.
      groups: [*B, T] integers below num_groups, as of `bipartite_soft_matching`.
      weights: [*B, T], positive; None is 1. They are not used by "max".
      num_groups: G, the number of groups.
      reduce: "mean", "sum" (of w_i x_i) or "max".

    Returns:
      [*B, G, D] in the dtype of x.

    Raises:
      ValueError: shapes or options that do not fit.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> x = jnp.array([[1.0], [2.0], [5.0]])
      >>> ops.merge_tokens(x, jnp.array([0, 1, 0]), jnp.array([3.0, 1.0, 1.0]), num_groups=2)[:, 0]
      Array([2., 2.], dtype=float32)

    Reference: mctf
    """
    _check_groups(x, groups, weights, num_groups)
    check_choice("reduce", reduce, ("mean", "sum", "max"))
    dtype = accumulator_dtype(x, weights)
    if reduce == "max":
        return _by_group(x, groups, num_groups, "max")
    tokens = x.astype(dtype)
    if weights is None:
        weights = jnp.ones(x.shape[:-1], dtype)
    weights = jax.lax.stop_gradient(weights.astype(dtype))[..., None]
    y = _by_group(weights * tokens, groups, num_groups, "sum")
    if reduce == "mean":
        y = y / _by_group(weights, groups, num_groups, "sum")
    return y.astype(x.dtype)


@op("num_groups")
def merge_attention(
    attention: Float[Array, "*B H T T"],
    groups: Int[Array, "*B T"],
    weights: Float[Array, "*B T"] | None = None,
    *,
    num_groups: int,
) -> Float[Array, "*B H G G"]:
    """Merges an attention matrix as its tokens were, so that it need not be computed again.

        P_gh = sum_(i in g) w_i sum_(j in h) A_ij / sum_(i in g) w_i

    Columns of a group are summed and its rows averaged: rows that sum to one still do.

    Args:
      attention: [*B, H, T, T].
      groups: [*B, T] integers below num_groups, as of `bipartite_soft_matching`.
      weights: [*B, T], those by which the tokens were merged; None is 1.
      num_groups: G, the number of groups.

    Returns:
      [*B, H, G, G] in the dtype of attention.

    Raises:
      ValueError: shapes that do not agree.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> attention = jnp.array([[[0.5, 0.5, 0.0], [0.2, 0.2, 0.6], [0.0, 0.5, 0.5]]])
      >>> ops.merge_attention(attention, jnp.array([0, 1, 0]), num_groups=2)[0]
      Array([[0.5, 0.5],
             [0.8, 0.2]], dtype=float32)

    Reference: mctf
    """
    check_rank(3, attention=attention)
    *batch, _, T, S = attention.shape
    require(S == T, f"attention has shape {attention.shape}; expected [*B, H, T, T].")
    check_shape("groups", groups, (*batch, T), "[*B, T]")

    def merged(head):  # [*B, T, T]
        rows = merge_tokens(head, groups, weights, num_groups=num_groups)
        rows = jnp.swapaxes(rows, -1, -2)
        columns = merge_tokens(rows, groups, num_groups=num_groups, reduce="sum")
        return jnp.swapaxes(columns, -1, -2)

    # Head after head: what one leaves halfway is small enough for a cache.
    return jnp.moveaxis(jax.lax.map(merged, jnp.moveaxis(attention, -3, 0)), 0, -3)


@op("remove", "temperatures", "bidirectional", "pooling", "protected", "precision")
def fuse_tokens(
    x: Float[Array, "*B T D"],
    attention: Float[Array, "*B H T T"],
    size: Float[Array, "*B T"] | None = None,
    *,
    remove: int,
    temperatures: Temperatures = (1.0, 20.0, 40.0),
    bidirectional: bool = True,
    pooling: str = "attention",
    protected: int = 1,
    precision=None,
):
    """Multi-criteria token fusion: matches, merges tokens and attention, and adds up sizes.

        groups = bipartite_soft_matching(x, a, size);   w = a size;   a_j = mean_hi attention_hij

    The attention is that of the layer in which the tokens are about to be used (one step ahead),
    and its merged matrix serves there.

    Args:
      x: [*B, T, D] tokens.
      attention: [*B, H, T, T], rows that sum to one.
      size: [*B, T] how many tokens each one holds; None is 1.
      remove: how many tokens to remove, at most (T - protected) // 2.
      temperatures: of similarity, importance and size; None leaves a criterion out.
      bidirectional: two directions of matching, or one.
      pooling: weights of a merge: "attention" (a times size, the released default), "size" or
        "mean". The maximum, which the released code has too, leaves rows that do not sum to one.
      protected: leading tokens (class, distillation) that never merge.
      precision: of the matrix product.

    Returns:
      (x [*B, T - remove, D], attention [*B, H, T - remove, T - remove], size [*B, T - remove]), the
      sizes in accumulator precision.

    Raises:
      ValueError: shapes or options that do not fit.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> x = jnp.array([[1.0, 1.0], [1.0, 0.0], [0.0, 1.0], [0.1, 1.0]])
      >>> x, attention, size = ops.fuse_tokens(x, jnp.full((1, 4, 4), 0.25), remove=1)
      >>> size, attention[0, 0]
      (Array([1., 2., 1.], dtype=float32), Array([0.25, 0.5 , 0.25], dtype=float32))

    Reference: mctf
    """
    check_rank(3, attention=attention)
    check_rank(2, x=x)
    *batch, T, _ = x.shape
    check_shape("attention", attention, (*batch, attention.shape[-3], T, T), "[*B, H, T, T]")
    check_shape("size", size, (*batch, T), "[*B, T]")
    check_choice("pooling", pooling, ("attention", "size", "mean"))
    dtype = accumulator_dtype(x, attention, size)
    importance = jnp.mean(attention.astype(dtype), axis=(-3, -2))
    given, size = size, jnp.ones((*batch, T), dtype) if size is None else size.astype(dtype)
    groups = bipartite_soft_matching(
        x,
        importance,
        None if given is None else size,
        remove=remove,
        temperatures=temperatures,
        bidirectional=bidirectional,
        protected=protected,
        precision=precision,
    )
    weights = {"attention": importance * size, "size": size, "mean": None}[pooling]
    merged = {"num_groups": T - remove}
    x = merge_tokens(x, groups, weights, **merged)
    attention = merge_attention(attention, groups, weights, **merged)
    size = merge_tokens(size[..., None], groups, **merged, reduce="sum")[..., 0]
    return x, attention, size
