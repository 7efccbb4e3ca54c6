"""Token assignment, clustering and merging against torch and against their plain dense forms."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.harness import benchmark
from benchmarks.passes import normal, op_rows
from scanmax import ops

WIDTH, SLOTS = 256, 64


def _slots(x, slots):
    logits = ops.slot_logits(x, slots, scale=8.0)
    return ops.dispatch_tokens(ops.aggregate_tokens(x, logits), logits)


def _slots_torch(x, slots):
    import torch.nn.functional as F

    logits = 8.0 * F.normalize(x, dim=-1) @ F.normalize(slots, dim=-1).transpose(-1, -2)
    return logits.softmax(-1) @ (logits.softmax(-2).transpose(-1, -2) @ x)


def _slots_as_matrix(x, slots):
    """The T x T matrix that aggregation and dispatch amount to."""
    return ops.slot_matrix(ops.slot_logits(x, slots, scale=8.0))[:, 0] @ x


@benchmark("slots")
def slots(quick: bool):
    """Aggregation into 64 slots and dispatch against torch and the T x T matrix, float32."""
    for T in (256,) if quick else (1024, 3136):
        arrays = normal((1, T, WIDTH), (1, SLOTS, WIDTH))
        yield from op_rows(
            f"T={T}, width {WIDTH}",
            _slots,
            arrays,
            jax_peers={"matrix": _slots_as_matrix},
            torch_peers={"torch": _slots_torch},
        )


def _cluster_dense(features, values, grid):
    """As the released code has it: every value times every similarity, [B, H, M, T, V]."""
    side = (grid[0] // 2, grid[1] // 2)

    def centers(x):
        maps = x.reshape(x.shape[0], 2, side[0], 2, side[1], *x.shape[-2:])
        return jnp.moveaxis(maps.mean((2, 4)).reshape(x.shape[0], 4, *x.shape[-2:]), 1, 2)

    def unit(x):
        return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)

    points, worth = (jnp.moveaxis(x, 1, 2) for x in (features, values))
    near = jax.nn.sigmoid(unit(centers(features)) @ jnp.swapaxes(unit(points), -1, -2))
    mask = jax.nn.one_hot(jnp.argmax(near, -2), 4, axis=-2)
    near = near * mask
    total = (near[..., None] * worth[..., None, :, :]).sum(-2) + centers(values)
    clusters = total / (near.sum(-1, keepdims=True) + 1)
    y = (near[..., None] * clusters[..., None, :]).sum(-3)
    return jnp.moveaxis(y, 1, 2)


@benchmark("context_cluster")
def context_cluster(quick: bool):
    """ops.context_cluster, four centres, against the released code's broadcast products."""
    for side, heads in ((16, 2),) if quick else ((32, 4), (56, 4)):
        arrays = normal(*[(1, side**2, heads, 32)] * 2)
        grid = {"grid": (side, side)}
        ours = functools.partial(ops.context_cluster, **grid)
        naive = {"broadcast": functools.partial(_cluster_dense, **grid)}
        title = f"{side} x {side}, {heads} heads of 32"
        yield from op_rows(title, ours, arrays, jax_peers=naive)


def _kmeans_torch(query, key, value):
    import torch

    affinity = (query[:, :, 0] @ key[:, :, 0].transpose(-1, -2)).detach()
    chosen = torch.zeros_like(affinity).scatter_(1, affinity.argmax(1, keepdim=True), 1.0)
    return (chosen @ value[:, :, 0])[:, :, None]


def _kmeans_scattered(query, key, value):
    """Each pixel's value added to the row of its query."""
    best = jnp.argmax(jnp.einsum("bmk,bsk->bsm", query[:, :, 0], key[:, :, 0]), -1)
    empty = jnp.zeros((value.shape[0], query.shape[1], value.shape[-1]))
    return jax.vmap(lambda y, m, v: y.at[m].add(v))(empty, best, value[:, :, 0])[:, :, None]


@benchmark("kmeans_cross_attention")
def kmeans_cross_attention(quick: bool):
    """ops.kmeans_cross_attention with 128 queries against torch and a scatter in JAX, float32."""
    for T in (256,) if quick else (1024, 4096):
        arrays = normal((1, 128, 1, 128), (1, T, 1, 128), (1, T, 1, WIDTH))
        yield from op_rows(
            f"{T} pixels",
            ops.kmeans_cross_attention,
            arrays,
            jax_peers={"scatter": _kmeans_scattered},
            torch_peers={"torch": _kmeans_torch},
        )


def _clustering_dense(x, size, window, iterations, scale):
    """Every token against every centre, those out of the window masked, as in the released code."""
    Y, X, D = x.shape
    centers = ops.adaptive_avg_pool2d(x, size).reshape(-1, D)
    place = np.stack(np.mgrid[:Y, :X], -1).reshape(-1, 2) * np.array(size) // np.array((Y, X))
    other = np.stack(np.mgrid[: size[0], : size[1]], -1).reshape(-1, 2)
    far = np.abs(place[:, None] - other).max(-1) > window // 2
    tokens = x.reshape(-1, D)
    for _ in range(iterations):
        square = jnp.square(tokens).sum(-1)[:, None] + jnp.square(centers).sum(-1)
        distance = square - 2 * tokens @ centers.T
        weights = jax.nn.softmax(jnp.where(far, -jnp.inf, -scale * distance), -1)
        weights = jax.lax.stop_gradient(weights)
        centers = weights.T @ tokens / weights.sum(0)[:, None]
    return centers.reshape(*size, D)


@benchmark("token_clustering")
def token_clustering(quick: bool):
    """ops.token_clustering, five rounds, window 7, against all centres masked, float32."""
    for side, size in ((16, 8),) if quick else ((32, 16), (64, 28)):
        options = {"size": (size, size), "window": 7, "iterations": 5, "scale": 0.05}
        ours = functools.partial(ops.token_clustering, **options)
        naive = {"dense": functools.partial(_clustering_dense, **options)}
        arrays = normal((side, side, WIDTH))
        title = f"{side} x {side} to {size} x {size}, width {WIDTH}"
        yield from op_rows(title, ours, arrays, jax_peers=naive, tolerance=1e-3)


def _merge(x, size, remove):
    similarity = {"temperatures": (1.0, None, None), "bidirectional": False}
    groups = ops.bipartite_soft_matching(x, remove=remove, **similarity)
    return ops.merge_tokens(x, groups, size, num_groups=x.shape[-2] - remove)


def _merge_torch(x, size, remove):
    """ToMe's gathers and scatters, with a protected class token."""
    import torch
    import torch.nn.functional as F

    batch = x.shape[0]
    with torch.no_grad():
        unit = F.normalize(x, dim=-1)
        scores = unit[:, ::2] @ unit[:, 1::2].transpose(-1, -2)
        scores[:, 0] = -math.inf
        best, partner = scores.max(-1)
        order = best.argsort(-1, descending=True)
        source = order[:, :remove]
        kept = order[:, remove:].sort(-1)[0]
        target = partner.gather(-1, source)

    def merge(z):
        def rows(index):
            return index[..., None].expand(batch, -1, z.shape[-1])

        even, odd = z[:, ::2], z[:, 1::2]
        odd = odd.scatter_reduce(1, rows(target), even.gather(1, rows(source)), "sum")
        return torch.cat([even.gather(1, rows(kept)), odd], 1)

    weights = size.detach()[..., None]
    return merge(x * weights) / merge(weights)


def _merge_by_matrix(x, size, remove):
    """The merge as a product with the matrix of groups."""
    similarity = {"temperatures": (1.0, None, None), "bidirectional": False}
    groups = ops.bipartite_soft_matching(x, remove=remove, **similarity)
    member = jax.nn.one_hot(groups, x.shape[-2] - remove, axis=-2)
    weights = member * jax.lax.stop_gradient(size)[:, None]
    return weights @ x / weights.sum(-1, keepdims=True)


@benchmark("merge_tokens")
def merge_tokens(quick: bool):
    """Matching and merging of 16 tokens against torch and a product with the groups, float32."""
    for T, batch in ((65, 2),) if quick else ((197, 8), (1025, 1)):
        x, size = normal((batch, T, 384), (batch, T))
        arrays = [x, np.abs(size) + 1]
        remove = {"remove": 16}
        yield from op_rows(
            f"{batch} x {T} tokens, width 384",
            functools.partial(_merge, **remove),
            arrays,
            jax_peers={"matrix": functools.partial(_merge_by_matrix, **remove)},
            torch_peers={"torch": functools.partial(_merge_torch, **remove)},
        )


def _reorganize_torch(x, attention):
    import torch

    scores = attention[..., 1:].mean(1)
    keep = math.ceil(0.7 * scores.shape[1])
    order = scores.argsort(-1, descending=True)
    kept, rest = order[:, :keep], order[:, keep:]
    patches = x[:, 1:]

    def rows(index):
        return patches.gather(1, index[..., None].expand(-1, -1, x.shape[-1]))

    fused = (rows(rest) * scores.gather(1, rest)[..., None]).sum(1, keepdim=True)
    return torch.cat([x[:, :1], rows(kept), fused], 1)


@benchmark("token_reorganize")
def token_reorganize(quick: bool):
    """ops.token_reorganize at keep rate 0.7 against torch, float32."""
    for T, batch in ((65, 2),) if quick else ((197, 8), (1025, 1)):
        (x,) = normal((batch, T, 384))
        # far enough apart that rounding cannot change their order
        ranks = np.random.default_rng(0).permuted(np.tile(np.arange(T), (batch, 1)), axis=1)
        attention = np.repeat(ranks[:, None] / T, 6, axis=1).astype(np.float32)
        ours = functools.partial(ops.token_reorganize, keep_rate=0.7)
        title = f"{batch} x {T} tokens, width 384"
        peers = {"torch": _reorganize_torch}
        yield from op_rows(title, ours, [x, attention], torch_peers=peers)


def _reconstruct_dense(x, centers, values):
    """All distances, those of the farther centres masked."""
    distance = jnp.linalg.norm(x[..., None, :] - centers[..., None, :, :], axis=-1)
    third = jax.lax.top_k(-distance, 3)[0][..., -1:]
    weights = jax.nn.softmax(jnp.where(-distance >= third, -0.05 * distance**2, -jnp.inf), -1)
    return weights @ values


@benchmark("token_reconstruction")
def token_reconstruction(quick: bool):
    """ops.token_reconstruction from the three nearest centres against all differences, float32."""
    for T, M in ((64, 16),) if quick else ((1024, 256), (4096, 784)):
        arrays = normal((T, 64), (M, 64), (M, 64))
        ours = functools.partial(ops.token_reconstruction, normalize="sum")
        peers = {"all differences": _reconstruct_dense}
        yield from op_rows(f"{T} tokens from {M}, width 64", ours, arrays, jax_peers=peers)


@benchmark("set_pool")
def set_pool(quick: bool):
    """ops.set_pool against torch and plain JAX, float32."""
    import torch

    def in_torch(x, logits):
        return (x * torch.softmax(logits, -2)).sum(-2)

    def plain(x, logits):
        return jnp.sum(x * jax.nn.softmax(logits, -2), -2)

    for batch, N in ((2, 16),) if quick else ((64, 24), (8, 2048)):
        arrays = normal(*[(batch, N, 512)] * 2)
        peers = {"jax_peers": {"plain JAX": plain}, "torch_peers": {"torch": in_torch}}
        yield from op_rows(f"{batch} sets of {N}, width 512", ops.set_pool, arrays, **peers)


def _fused_by_matrix(x, attention, remove):
    """The same groups, tokens and attention merged by products with their matrix."""
    importance = jax.lax.stop_gradient(attention.mean((-3, -2)))
    groups = ops.bipartite_soft_matching(x, importance, remove=remove)
    member = jax.nn.one_hot(groups, x.shape[-2] - remove, axis=-2)
    weights = member * importance[:, None]
    weights = weights / weights.sum(-1, keepdims=True)
    merged = jnp.einsum("bgi,bhij,bkj->bhgk", weights, attention, member)
    return jnp.concatenate([(weights @ x).ravel(), merged.ravel()])


@benchmark("fuse_tokens")
def fuse_tokens(quick: bool):
    """ops.fuse_tokens by three criteria, attention merged too, against products with the groups."""
    for T, batch in ((65, 2),) if quick else ((197, 8), (1025, 1)):
        x, logits = normal((batch, T, 384), (batch, 6, T, T))
        attention = np.asarray(jax.nn.softmax(logits, -1))

        def ours(x, attention):
            x, attention, _ = ops.fuse_tokens(x, attention, remove=16)
            return jnp.concatenate([x.ravel(), attention.ravel()])

        peers = {"matrix": functools.partial(_fused_by_matrix, remove=16)}
        title = f"{batch} x {T} tokens, width 384, 6 heads"
        yield from op_rows(title, ours, [x, attention], jax_peers=peers)
