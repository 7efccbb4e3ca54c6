"""Cached steps of attention."""

import jax
import jax.numpy as jnp

from benchmarks.harness import benchmark
from benchmarks.passes import normal, op_rows
from scanmax import ops


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
