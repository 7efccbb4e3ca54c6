"""Cached steps of attention."""

import functools

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


@benchmark("latent_attention_step")
def latent_attention_step(quick: bool):
    """ops.latent_attention_step absorbed against expanded, in JAX and as transformers has it."""
    C, R, K = (16, 4, 8) if quick else (512, 64, 128)
    for S, heads in [(64, 2)] if quick else [(1024, 16), (4096, 16)]:
        query, query_rotary = normal((1, heads, K), (1, heads, R))
        latent, key_rotary = normal((1, C), (1, R), seed=1)
        key_up, value_up = normal(*[(C, heads, K)] * 2, scale=C**-0.5, seed=2)
        (cache,) = normal((1, S, C + R), seed=3)

        def ours(*arrays, form="absorbed", last=S - 1):
            *arrays, cache = arrays
            state = ops.LatentCache(cache, jnp.asarray(last, jnp.int32))
            return ops.latent_attention_step(state, *arrays, form=form)[0]

        def in_torch(query, query_rotary, latent, key_rotary, key_up, value_up, cache):
            import torch

            # transformers' DeepseekV3Attention behind its projections: keys and values of all heads
            new = torch.cat([latent, key_rotary], -1)[:, None]
            held = torch.cat([cache[:, :-1], new], 1)
            latents, shared = held[..., : latent.shape[-1]], held[..., latent.shape[-1] :]
            key = torch.einsum("bsc,chk->bhsk", latents, key_up)
            shared = shared[:, None].expand(-1, key.shape[1], -1, -1)
            value = torch.einsum("bsc,chv->bhsv", latents, value_up)
            query = torch.cat([query, query_rotary], -1)[:, :, None]
            attend = torch.nn.functional.scaled_dot_product_attention
            return attend(query, torch.cat([key, shared], -1), value)[:, :, 0]

        yield from op_rows(
            f"latents of {C} + {R}, 1 x {S}, {heads} x {K}",
            ours,
            [query, query_rotary, latent, key_rotary, key_up, value_up, cache],
            jax_peers={"expanded": functools.partial(ours, form="expanded")},
            torch_peers={"transformers' equations": in_torch},
            training=False,
        )
