"""Inverted softmax over banks: retrieval without hubs.

A gallery item near to everything, a hub, is the answer to too many queries. Each item's similarity
is divided by how near a bank of other items (queries, or gallery items) lies to it.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from scanmax.ops.contract import (
    accumulator_dtype,
    check_choice,
    check_rank,
    check_shape,
    op,
    require,
    vary_like,
    vary_together,
)

INACTIVE = ("similarity", "one")


def _checked(similarity, banks, top_k):
    check_rank(2, similarity=similarity, **banks)
    *batch, _, S = similarity.shape
    for name, bank in {"similarity": similarity, **banks}.items():
        require(
            jnp.issubdtype(bank.dtype, jnp.floating),
            f"{name} has dtype {bank.dtype}; expected a floating one.",
        )
        check_shape(name, bank, (*batch, bank.shape[-2], S), "[*B, N, S]")
        require(bank.shape[-2] >= 1, f"{name} has shape {bank.shape}; expected at least one row.")
    require(1 <= top_k <= S, f"top_k={top_k}; expected between 1 and the {S} gallery items.")
    dtype = accumulator_dtype(similarity)
    return (x.astype(dtype) for x in (similarity, *banks.values()))


def _log_factor(similarity, bank, beta):
    """log of exp(b s) / sum_n exp(b bank_n), per gallery item."""
    return beta * similarity - _log_totals(*vary_together(bank, beta))


@jax.custom_vjp
def _log_totals(bank, beta):
    """log sum_n exp(b bank_n), [*B, 1, S].

    Similarities are small numbers: their plain sums tell by their own size whether anything was
    lost, and only then is the bank read again with its maxima taken off. What falls below the least
    normal number is no share of a sum far above it; what overflows makes it infinite.
    """
    # A beta of its own: where banks are as large as what they normalize, XLA on CPU shares beta's
    # broadcast between the two, and writes it out.
    total = jnp.exp(jax.lax.optimization_barrier(beta) * bank).sum(-2, keepdims=True)
    safe = (total > float(jnp.finfo(total.dtype).tiny) ** (2 / 3)) & jnp.isfinite(total)
    return jax.lax.cond(
        jnp.all(safe), lambda: jnp.log(total), lambda: _protected_log_totals(bank, beta)
    )


def _protected_log_totals(bank, beta):
    """The same for any numbers.

    The bank is read once, block after block of rows that a cache holds, for its maximum and its sum
    together: two passes over one that is larger than the caches took longer, and half its memory.
    """
    rows, length = 32, bank.shape[-2]

    def add(sums, block):
        level, total = sums
        logits = beta * block
        higher = jnp.maximum(level, jnp.max(logits, -2, keepdims=True))
        # what is -inf throughout stays at level 0
        base = jnp.where(jnp.isfinite(higher), higher, jnp.zeros_like(higher))
        total = total * jnp.exp(level - base) + jnp.exp(logits - base).sum(-2, keepdims=True)
        return higher, total

    def one(i, sums):
        return add(sums, jax.lax.dynamic_slice_in_dim(bank, rest + i * rows, rows, -2))

    rest = length % rows
    level = vary_like(jnp.full_like(bank[..., :1, :], -jnp.inf), bank)
    sums = level, vary_like(jnp.zeros_like(level), level)
    if rest:
        sums = add(sums, bank[..., :rest, :])
    if length >= rows:
        sums = jax.lax.fori_loop(0, length // rows, one, sums)
    level, total = sums
    return jnp.where(jnp.isfinite(level), level, jnp.zeros_like(level)) + jnp.log(total)


def _log_totals_forward(bank, beta):
    totals = _log_totals(bank, beta)
    return totals, (bank, beta, totals)


def _log_totals_backward(residuals, cotangent):
    bank, beta, totals = residuals
    shares = cotangent * jnp.exp(beta * bank - totals)
    return beta * shares, jnp.sum(shares * bank)


_log_totals.defvjp(_log_totals_forward, _log_totals_backward)


def _activated(similarity, bank, top_k):
    """[*B, T, 1]: whether the query's nearest item is among the top_k of some row of the bank."""
    nearest = jax.lax.collapse(jax.lax.top_k(bank, top_k)[1], -2)[..., None]
    items = jnp.arange(similarity.shape[-1], dtype=nearest.dtype)
    items = items.reshape((1,) * (nearest.ndim - 1) + (-1,))
    hubs = jnp.any(nearest == items, -2)  # [*B, S]
    first = jnp.argmax(similarity, -1)
    return jnp.take_along_axis(hubs, first, -1)[..., None]


@op("dynamic", "top_k", "log")
def inverted_softmax(
    similarity: Float[Array, "*B T S"],
    bank: Float[Array, "*B N S"],
    *,
    beta: Float[Array, ""] | float = 20.0,
    dynamic: bool = False,
    top_k: int = 1,
    log: bool = False,
) -> Float[Array, "*B T S"]:
    """Inverted softmax: normalizes over a bank of queries instead of over the gallery.

        y_qg = exp(beta s_qg) / sum_n exp(beta bank_ng)

    Args:
      similarity: of each query to each gallery item.
      bank: similarity of each bank item to each gallery item.
      beta: inverse temperature, may be traced.
      dynamic: normalize only the queries whose nearest item is among the `top_k` nearest of some
        bank item (a potential hub); the others keep their similarity.
      top_k: see dynamic.
      log: return log y, which ranks alike and cannot overflow (with `dynamic`, queries left alone
        keep their similarity all the same: rows rank, columns do not).

    Returns:
      In the shape and dtype of similarity.

    Raises:
      ValueError: a shape or dtype that does not fit, an empty bank, top_k beyond the gallery.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> bank = jnp.array([[0.0, 1.0], [0.0, 1.0]])  # item 1 is near to everything
      >>> query = jnp.array([[0.8, 0.9]])
      >>> ops.inverted_softmax(query, bank).argmax(-1)
      Array([0], dtype=int32)

    Reference: dbnorm-dual-inverted-softmax
    """
    dtype = similarity.dtype
    similarity, bank = _checked(similarity, {"bank": bank}, top_k)
    y = _log_factor(similarity, bank, jnp.asarray(beta, similarity.dtype))
    y = y if log else jnp.exp(y)
    if dynamic:
        y = jnp.where(_activated(similarity, bank, top_k), y, similarity)
    return y.astype(dtype)


@op("dynamic", "top_k", "inactive")
def dual_inverted_softmax(
    similarity: Float[Array, "*B T S"],
    query_bank: Float[Array, "*B N S"],
    gallery_bank: Float[Array, "*B M S"],
    *,
    query_beta: Float[Array, ""] | float = 20.0,
    gallery_beta: Float[Array, ""] | float = 20.0,
    dynamic: bool = False,
    top_k: int = 1,
    inactive: str = "similarity",
) -> Float[Array, "*B T S"]:
    """Dual inverted softmax: the product of the factors of a query bank and a gallery bank.

        y_qg = exp(a s_qg) / sum_n exp(a Q_ng)  exp(b s_qg) / sum_m exp(b G_mg)

    Dynamic, a bank's factor is used for the queries whose nearest item is among the `top_k`
    nearest of some item of that bank. The released code multiplies by the raw similarity in place
    of a factor not used, so a query that no bank activates has s^2, which ranks as s does while s
    is positive. (That code also hands the bank's own similarities in as the test's; here they are
    the test's, as in the paper.)

    Args:
      similarity: of each query to each gallery item.
      query_bank: similarity of each bank query to each gallery item.
      gallery_bank: similarity of each bank gallery item to each gallery item.
      query_beta: a, an inverse temperature of its own; may be traced.
      gallery_beta: b.
      dynamic: see above; if not, both factors are used for every query.
      top_k: see dynamic.
      inactive: what stands for a factor not used: "similarity" (the released code), or "one", with
        the raw similarity where no bank is active, whatever its sign.

    Returns:
      In the shape and dtype of similarity; rows rank the gallery.

    Raises:
      ValueError: a shape or dtype that does not fit, an empty bank, top_k beyond the gallery, an
        unknown option.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> bank = jnp.array([[0.0, 1.0], [0.0, 1.0]])
      >>> ops.dual_inverted_softmax(jnp.array([[0.8, 0.9]]), bank, bank).argmax(-1)
      Array([0], dtype=int32)

    Reference: dbnorm-dual-inverted-softmax
    """
    check_choice("inactive", inactive, INACTIVE)
    dtype = similarity.dtype
    banks = {"query_bank": query_bank, "gallery_bank": gallery_bank}
    similarity, *banks = _checked(similarity, banks, top_k)
    betas = [jnp.asarray(beta, similarity.dtype) for beta in (query_beta, gallery_beta)]
    logs = [_log_factor(similarity, bank, beta) for bank, beta in zip(banks, betas)]
    if not dynamic:
        return jnp.exp(sum(logs)).astype(dtype)
    active = [_activated(similarity, bank, top_k) for bank in banks]
    instead = similarity if inactive == "similarity" else jnp.ones_like(similarity)
    first, second = (jnp.where(on, jnp.exp(x), instead) for on, x in zip(active, logs))
    y = first * second
    if inactive == "one":
        y = jnp.where(active[0] | active[1], y, similarity)
    return y.astype(dtype)


@op("k")
def k_occurrence(similarity: Float[Array, "*B T S"], *, k: int = 10) -> Int[Array, "*B S"]:
    """How many queries have each gallery item among their k nearest.

        N_g = |{q : g among the k largest s_qg}|

    Args:
      similarity: of each query to each gallery item.
      k: the number of neighbours.

    Returns:
      Counts that sum to T k.

    Raises:
      ValueError: when similarity has fewer than two axes, or k is beyond the gallery.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> ops.k_occurrence(jnp.array([[0.1, 0.9, 0.2], [0.3, 0.8, 0.1]]), k=1)
      Array([0, 2, 0], dtype=int32)

    Reference: dbnorm-dual-inverted-softmax
    """
    check_rank(2, similarity=similarity)
    items = similarity.shape[-1]
    require(1 <= k <= items, f"k={k}; expected between 1 and the {items} gallery items.")
    nearest = jax.lax.collapse(jax.lax.top_k(similarity, k)[1], -2)
    count = jnp.vectorize(lambda x: jnp.bincount(x, length=items), signature="(n)->(s)")
    return count(nearest).astype(jnp.int32)


@op("k")
def hubness(similarity: Float[Array, "*B T S"], *, k: int = 10) -> Float[Array, "*B"]:
    """Skewness of the k-occurrence: 0 for items found equally often, large where there are hubs.

        mean((N - mean N)^3) / std(N)^3,   N = k_occurrence(s)

    Over all gallery items; the released code counts only those that are found at all.

    Args:
      similarity: of each query to each gallery item.
      k: the number of neighbours.

    Returns:
      In accumulator precision; 0 where all items are found equally often.

    Raises:
      ValueError: when similarity has fewer than two axes, or k is beyond the gallery.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> one_for_all = jnp.eye(4).at[:, 0].set(2.0)
      >>> [round(float(ops.hubness(x, k=1)), 3) for x in (jnp.eye(4), one_for_all)]
      [0.0, 1.155]

    Reference: dbnorm-dual-inverted-softmax
    """
    counts = k_occurrence(similarity, k=k).astype(accumulator_dtype(similarity))
    centred = counts - jnp.mean(counts, -1, keepdims=True)
    variance = jnp.mean(jnp.square(centred), -1)
    safe = jnp.where(variance == 0, jnp.ones_like(variance), variance)
    return jnp.where(variance == 0, 0.0, jnp.mean(centred**3, -1) / safe**1.5)
