"""Cross-attentions and rollout against torch's fused kernel and the whole matrices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.harness import benchmark
from benchmarks.passes import heads_first, normal, op_rows
from scanmax import ops


def _plain(query, key, value):
    logits = jnp.einsum("bthk,bshk->bhts", query, key) * query.shape[-1] ** -0.5
    return jnp.einsum("bhts,bshv->bthv", jax.nn.softmax(logits, -1), value)


def _pairwise(query, key, value, other_key, other_value):
    keys = jnp.concatenate([key, other_key], 1)
    return _plain(query, keys, jnp.concatenate([value, other_value], 1))


def _pairwise_torch(query, key, value, other_key, other_value):
    import torch

    keys, values = torch.cat([key, other_key], 2), torch.cat([value, other_value], 2)
    return torch.nn.functional.scaled_dot_product_attention(query, keys, values)


@benchmark("cross_attention")
def cross_attention(quick: bool):
    """Pair-wise, global-local and conditional cross-attention: plain JAX, torch's fused kernel."""
    import torch

    sdpa = torch.nn.functional.scaled_dot_product_attention
    for T, batch, heads in ((64, 2, 2),) if quick else ((197, 16, 6), (1024, 2, 8)):
        shape, title = (batch, T, heads, 64), f"{batch} x {T}, {heads} x 64"
        arrays = normal(*[shape] * 5)
        yield from op_rows(
            f"pair-wise, {title}",
            ops.pairwise_cross_attention,
            arrays,
            jax_peers={"plain JAX": _pairwise},
            torch_peers={"torch SDPA": _pairwise_torch},
            tensors=heads_first,
        )
        queries = max(T // 10, 1)
        # scores whose order rounding cannot change, the highest first
        scores = np.tile(np.arange(T, 0, -1, dtype=np.float32), (batch, 1))

        def ours(query, key, value, queries=queries, scores=scores):
            return ops.global_local_cross_attention(query, key, value, scores, num_queries=queries)[
                0
            ]

        yield from op_rows(
            f"global-local, a tenth of {title}",
            ours,
            arrays[:3],
            jax_peers={"plain JAX": lambda q, k, v, n=queries: _plain(q[:, :n], k, v)},
            torch_peers={"torch SDPA": lambda q, k, v, n=queries: sdpa(q[:, :, :n], k, v)},
            tensors=heads_first,
        )
        conditions = np.arange(batch) % 4
        table = normal((4, 8, heads, 64), seed=3)

        def conditional(queries, key, value, conditions=conditions):
            return ops.conditional_cross_attention(queries, conditions, key, value)

        yield from op_rows(
            f"conditional, 8 queries to {title}",
            conditional,
            [*table, *arrays[1:3]],
            jax_peers={"plain JAX": lambda q, k, v, c=conditions: _plain(q[c], k, v)},
            torch_peers={"torch SDPA": lambda q, k, v, c=conditions: sdpa(q[c], k, v)},
            tensors=heads_first,
        )


def _whole_product(*matrices, rows=None):
    rollout = None
    for matrix in matrices:
        mean = (matrix.mean(-3) + jnp.eye(matrix.shape[-1])) / 2
        rollout = mean if rollout is None else mean @ rollout
    return rollout[..., :rows, :]


@benchmark("attention_rollout")
def attention_rollout(quick: bool):
    """ops.attention_rollout of the class token through 12 layers against the whole product."""
    for T, batch in ((17, 2),) if quick else ((197, 8), (1025, 1)):
        logits = normal(*[(batch, 6, T, T)] * (3 if quick else 12))
        matrices = [np.asarray(jax.nn.softmax(x, -1)) for x in logits]

        def ours(*matrices):
            return ops.attention_rollout(matrices, num_queries=1)

        peers = {"whole product": functools.partial(_whole_product, rows=1)}
        title = f"{batch} x {T} tokens, {len(matrices)} layers, 6 heads"
        yield from op_rows(title, ours, matrices, jax_peers=peers)
