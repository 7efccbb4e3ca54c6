"""Merging of tokens, pair by pair and group by group."""

import jax
import jax.numpy as jnp
import numpy as np


def bipartite_soft_matching(
    metric,
    importance=None,
    size=None,
    *,
    remove,
    temperatures=(1.0, 20.0, 40.0),
    bidirectional=True,
    protected=1,
    precision=None,
):
    """Lists every pair of an even and an odd token, merges the strongest, numbers what is left."""
    options = {"remove": remove, "temperatures": temperatures, "bidirectional": bidirectional}
    if metric.ndim > 2:
        rows = [
            bipartite_soft_matching(
                metric[b],
                None if importance is None else importance[b],
                None if size is None else size[b],
                **options,
                protected=protected,
            )
            for b in range(len(metric))
        ]
        return jnp.stack(rows)
    T = len(metric)
    if not remove:
        return jnp.arange(T, dtype=jnp.int32)
    norms = np.linalg.norm(metric, axis=-1, keepdims=True)
    x = np.asarray(metric) / np.where(norms == 0, 1, norms)
    factors = [1 / np.asarray(q) if q is not None else None for q in (importance, size)]

    def weight(i, j):
        if min(i, j) < protected:
            return -np.inf
        w = 1.0
        if temperatures[0] is not None:
            w *= ((x[i] @ x[j] + 1) / 2) ** (1 / temperatures[0])
        for factor, temperature in zip(factors, temperatures[1:]):
            if factor is not None and temperature is not None:
                w *= (factor[i] * factor[j] / factor.max() ** 2) ** (1 / temperature)
        return w

    def strongest(sources, targets, count):
        """[(source, target)] of the `count` best pairs, and all sources by falling strength."""
        best = {i: max(targets, key=lambda j: weight(i, j)) for i in sources}
        order = sorted(sources, key=lambda i: -weight(i, best[i]))
        return [(i, best[i]) for i in order[:count]], order

    evens, odds = list(range(0, T, 2)), list(range(1, T, 2))
    first = remove // 2 if bidirectional else remove
    pairs, _ = strongest(evens, odds, first)
    evens = [i for i in evens if i not in dict(pairs)]
    into = dict(pairs)
    if bidirectional:
        more, odds = strongest(odds, evens, remove - first)
        into |= dict(more)
    left = [*range(protected), *(i for i in (*evens, *odds) if i not in into and i >= protected)]

    def root(i):
        return root(into[i]) if i in into else i

    return jnp.asarray([left.index(root(i)) for i in range(T)], jnp.int32)


def merge_tokens(x, groups, weights=None, *, num_groups, reduce="mean"):
    """Group by group: the weighted mean or sum, or the maximum, of its tokens."""
    weights = jnp.ones(x.shape[:-1], x.dtype) if weights is None else weights
    weights = jax.lax.stop_gradient(weights)[..., None]
    y = []
    for g in range(num_groups):
        member = (groups == g)[..., None]
        if reduce == "max":
            y.append(jnp.max(jnp.where(member, x, -jnp.inf), axis=-2))
            continue
        total = jnp.sum(jnp.where(member, weights * x, 0.0), axis=-2)
        mass = jnp.sum(jnp.where(member, weights, 0.0), axis=-2)
        y.append(total / mass if reduce == "mean" else total)
    return jnp.stack(y, axis=-2)


def merge_attention(attention, groups, weights=None, *, num_groups):
    """P = R A C with R the weighted mean of the rows of each group and C the sum of its columns."""
    identity = jnp.broadcast_to(
        jnp.eye(groups.shape[-1], dtype=attention.dtype), (*groups.shape, groups.shape[-1])
    )
    rows = merge_tokens(identity, groups, weights, num_groups=num_groups)[..., None, :, :]
    columns = merge_tokens(identity, groups, num_groups=num_groups, reduce="sum")
    return rows @ attention @ jnp.swapaxes(columns, -1, -2)[..., None, :, :]


def fuse_tokens(
    x,
    attention,
    size=None,
    *,
    remove,
    temperatures=(1.0, 20.0, 40.0),
    bidirectional=True,
    pooling="attention",
    protected=1,
    precision=None,
):
    """Matching by similarity, attention received and size; merging by attention times size."""
    importance = jnp.mean(attention, axis=(-3, -2))
    groups = bipartite_soft_matching(
        jax.lax.stop_gradient(x),
        jax.lax.stop_gradient(importance),
        size,
        remove=remove,
        temperatures=temperatures,
        bidirectional=bidirectional,
        protected=protected,
    )
    size = jnp.ones(x.shape[:-1], x.dtype) if size is None else size
    weights = {"attention": importance * size, "size": size, "mean": None}[pooling]
    groups_left = x.shape[-2] - remove
    return (
        merge_tokens(x, groups, weights, num_groups=groups_left),
        merge_attention(attention, groups, weights, num_groups=groups_left),
        merge_tokens(size[..., None], groups, num_groups=groups_left, reduce="sum")[..., 0],
    )
