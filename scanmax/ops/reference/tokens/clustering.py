"""Clustering of tokens, as loops over centres and points."""

import jax
import jax.numpy as jnp
from jax import lax

from scanmax.ops.reference.tokens.assignment import cosine
from scanmax.ops.reference.tokens.pooling import adaptive_avg_pool2d


def token_clustering(x, size, *, scale=0.05, iterations=5, window=7, precision=None):
    """Rounds of softmax over near centres and weighted means; the weights have no gradient."""
    Y, X, D = x.shape[-3:]
    h, w = size
    centers = adaptive_avg_pool2d(x, size)
    pixels = [(y, z, y * h // Y, z * w // X) for y in range(Y) for z in range(X)]
    tokens = x.reshape(*x.shape[:-3], Y * X, D)
    for _ in range(iterations):
        columns = []
        for i in range(h):
            for j in range(w):
                distance = jnp.sum((tokens - centers[..., i, j, :][..., None, :]) ** 2, axis=-1)
                near = [
                    abs(row - i) <= window // 2 and abs(column - j) <= window // 2
                    for _, _, row, column in pixels
                ]
                columns.append(jnp.where(jnp.array(near), -scale * distance, -jnp.inf))
        weights = jax.nn.softmax(jnp.stack(columns, axis=-1), axis=-1)
        weights = jax.lax.stop_gradient(weights)
        total = jnp.sum(weights, axis=-2)[..., None]
        means = jnp.einsum("...tm,...td->...md", weights, tokens) / total
        centers = means.reshape(centers.shape)
    return centers


def token_reconstruction(
    x, centers, values, *, scale=0.05, neighbours=3, normalize="l2", precision=None
):
    """Each token's weights exp(-scale distance^2) over its nearest centres, normalised."""
    distance = jnp.sum((x[..., :, None, :] - centers[..., None, :, :]) ** 2, axis=-1)
    weights = jnp.exp(-scale * distance)
    if neighbours is not None and neighbours < weights.shape[-1]:
        least = jnp.sort(weights, axis=-1)[..., -neighbours, None]
        weights = jnp.where(weights >= least, weights, 0.0)
    power = {"l2": 2, "sum": 1}[normalize]
    weights = weights / jnp.sum(weights**power, axis=-1, keepdims=True) ** (1 / power)
    return jnp.einsum("...tm,...mv->...tv", weights, values)


def _points(grid, regions, prefix_tokens):
    """For each region the indices of its points, row by row."""
    y, x = grid[0] // regions[0], grid[1] // regions[1]
    return [
        [prefix_tokens + (f * y + i) * grid[1] + g * x + j for i in range(y) for j in range(x)]
        for f in range(regions[0])
        for g in range(regions[1])
    ]


def context_cluster(
    features,
    values,
    *,
    grid,
    alpha=1.0,
    beta=0.0,
    centers=(2, 2),
    regions=(1, 1),
    denominator="similarity",
    prefix_tokens=0,
    precision=None,
):
    """Region by region, centre by centre, point by point."""

    def similarity(f, g):
        return jax.nn.sigmoid(alpha * cosine(f, g) + beta)

    y = [jnp.zeros_like(values[..., 0, :, :]) for _ in range(values.shape[-3])]
    found = _points(grid, regions, prefix_tokens)
    sides = tuple(side // parts for side, parts in zip(grid, regions))
    for points in found:

        def middles(x, points=points):
            maps = jnp.moveaxis(x[..., jnp.array(points), :, :], -2, 0)
            pooled = adaptive_avg_pool2d(
                maps.reshape(*maps.shape[:-2], *sides, maps.shape[-1]), centers
            )
            pooled = lax.collapse(pooled, -3, -1)
            return [jnp.moveaxis(pooled[..., m, :], 0, -2) for m in range(pooled.shape[-2])]

        middle, start = middles(features), middles(values)
        near = [[similarity(c, features[..., i, :, :]) for i in points] for c in middle]
        best = jnp.argmax(jnp.array(near), axis=0)  # [n, *B, H]
        for m in range(len(middle)):
            weights = dict(zip(points, jnp.where(best == m, jnp.array(near[m]), 0.0)))
            mass = jnp.sum(best == m, axis=0).astype(values.dtype)
            if denominator == "similarity":
                mass = sum(weights.values())
            for p in range(prefix_tokens):
                weights[p] = similarity(middle[m], features[..., p, :, :])
                mass = mass + (1 if denominator == "count" else weights[p])
            total = start[m] + sum(w[..., None] * values[..., i, :, :] for i, w in weights.items())
            cluster = total / (1 + mass)[..., None]
            for i, weight in weights.items():
                share = 1 if i >= prefix_tokens else 1 / (len(middle) * len(found))
                y[i] = y[i] + share * weight[..., None] * cluster
    return jnp.stack(y, axis=-3)


def context_cluster_matrix(
    features,
    *,
    grid,
    alpha=1.0,
    beta=0.0,
    centers=(2, 2),
    regions=(1, 1),
    denominator="similarity",
    prefix_tokens=0,
    precision=None,
):
    """Column j of every head is what the value e_j becomes."""
    T = features.shape[-3]
    columns = []
    for j in range(T):
        value = jnp.zeros((*features.shape[:-1], 1), features.dtype).at[..., j, :, :].set(1)
        y = context_cluster(
            features,
            value,
            grid=grid,
            alpha=alpha,
            beta=beta,
            centers=centers,
            regions=regions,
            denominator=denominator,
            prefix_tokens=prefix_tokens,
        )
        columns.append(jnp.moveaxis(y[..., 0], -1, -2))
    return jnp.stack(columns, axis=-1)
