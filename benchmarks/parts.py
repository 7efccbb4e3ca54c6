"""What attention is used with: positions, cached steps, the fusion of tokens, pseudo-inverses."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.harness import benchmark
from benchmarks.passes import normal, op_rows
from scanmax import ops


def _angles(positions, width):
    return positions[:, None] * 10000.0 ** (-np.arange(0, width, 2) / width)


def _turned(x, cos, sin):
    """The halves of x [B, T, H, K] turned as transformers does it."""
    first, second = jnp.split(x, 2, -1)
    return x * cos + jnp.concatenate([-second, first], -1) * sin


def _rotary(x, angles):
    table = np.concatenate([angles, angles], -1)[None, :, None]
    cos, sin = np.cos(table).astype(np.float32), np.sin(table).astype(np.float32)
    return _turned(x, cos, sin)


def _rotary_torch(x, angles):
    import torch

    table = torch.from_numpy(np.concatenate([angles, angles], -1)[None, :, None])
    cos, sin = table.cos().float(), table.sin().float()
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat([-second, first], -1) * sin


def _rotary_2d(x, side):
    rows, columns = (place.reshape(-1) for place in np.indices((side, side)))
    width = x.shape[-1] // 2
    halves = zip(jnp.split(x, 2, -1), (rows, columns))
    return jnp.concatenate([_rotary(half, _angles(place, width)) for half, place in halves], -1)


@benchmark("rotary")
def rotary(quick: bool):
    """ops.rotary and rotary_2d against their equations in plain JAX and torch, float32."""
    for side, batch, heads in [(8, 1, 2)] if quick else [(32, 4, 8), (64, 1, 8)]:
        T = side * side
        x = normal((batch, T, heads, 64))
        angles = _angles(np.arange(T), 64)
        title = f"{batch} x {T}, {heads} x 64"
        yield from op_rows(
            f"rotary, {title}",
            ops.rotary,
            x,
            jax_peers={"plain JAX": functools.partial(_rotary, angles=angles)},
            torch_peers={"torch": functools.partial(_rotary_torch, angles=angles)},
        )
        yield from op_rows(
            f"rotary_2d, {title}",
            functools.partial(ops.rotary_2d, grid=(side, side)),
            x,
            jax_peers={"plain JAX": functools.partial(_rotary_2d, side=side)},
        )


@benchmark("attention_step")
def attention_step(quick: bool):
    """ops.attention_step into a full cache against plain JAX and torch's fused kernel, float32."""
    for S, heads in [(64, 2)] if quick else [(1024, 8), (8192, 8)]:
        query, key, value = normal(*[(4, heads, 64)] * 3)
        keys, values = normal(*[(4, S, heads, 64)] * 2, seed=1)

        def ours(query, key, value, keys, values, last=S - 1):
            state = ops.init_kv_cache((keys.shape[0],), last + 1, keys.shape[2], 64)
            state = state._replace(key=keys, value=values, position=jnp.asarray(last, jnp.int32))
            return ops.attention_step(state, query, key, value)[0]

        def plain(query, key, value, keys, values):
            keys, values = keys.at[:, -1].set(key), values.at[:, -1].set(value)
            logits = jnp.einsum("bhk,bshk->bhs", query, keys) / 8
            return jnp.einsum("bhs,bshv->bhv", jax.nn.softmax(logits), values)

        def in_torch(query, key, value, keys, values):
            import torch

            keys = torch.cat([keys[:, :-1], key[:, None]], 1).transpose(1, 2)
            values = torch.cat([values[:, :-1], value[:, None]], 1).transpose(1, 2)
            attend = torch.nn.functional.scaled_dot_product_attention
            return attend(query[:, :, None], keys, values)[:, :, 0]

        yield from op_rows(
            f"4 x {S}, {heads} x 64",
            ours,
            [query, key, value, keys, values],
            jax_peers={"plain JAX": plain},
            torch_peers={"torch SDPA": in_torch},
            training=False,
        )


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


@benchmark("newton_pinv")
def newton_pinv(quick: bool):
    """ops.newton_pinv of kernels between landmarks against singular values in JAX and torch."""
    import torch

    for batch, M in [(2, 16)] if quick else [(64, 49), (8, 196)]:
        (points,) = normal((batch, M, 32), scale=2.0)
        square = np.square(points[:, :, None] - points[:, None]).sum(-1)
        kernel = np.exp(-square / (2 * 32**0.5)) + 0.01 * np.eye(M, dtype=np.float32)
        yield from op_rows(
            f"{batch} x {M} x {M}",
            ops.newton_pinv,
            [kernel.astype(np.float32)],
            jax_peers={"jnp.linalg.pinv": jnp.linalg.pinv},
            torch_peers={"torch.linalg.pinv": torch.linalg.pinv},
            tolerance=1e-2,
        )
