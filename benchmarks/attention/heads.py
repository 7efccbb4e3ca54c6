"""Gated heads and positional attention against timm and their naive forms."""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.harness import benchmark
from benchmarks.passes import normal, op_rows
from benchmarks.peers import import_peer
from scanmax import ops


def _naive_gpsa(query, key, value, position_weight, gate, *, side):
    """Both matrices over the pixels, as the released layer has them."""
    place = np.arange(side * side)
    dy, dx = (
        (place // side)[None] - (place // side)[:, None],
        (place % side)[None] - (place % side)[:, None],
    )
    r = jnp.asarray(np.stack([dx, dy, dx**2 + dy**2], -1), jnp.float32)
    far = jax.nn.softmax(jnp.einsum("hr,ijr->hij", position_weight, r), -1)
    scale = query.shape[-1] ** -0.5
    near = jax.nn.softmax(scale * jnp.einsum("bthk,bshk->bhts", query, key), -1)
    share = jax.nn.sigmoid(gate)[None, :, None, None]
    weights = (1 - share) * near + share * far[None]
    return jnp.einsum("bhts,bshv->bthv", weights, value)


def _torch_gpsa(side):
    """timm's layer without its projections: the sum of its two softmaxes and their product."""

    import torch

    import_peer("timm")
    from timm.models.convit import GPSA

    indices = GPSA(4, num_heads=1).get_rel_indices(side * side)

    def attend(query, key, value, position_weight, gate):
        query, key, value = (x.transpose(1, 2) for x in (query, key, value))
        near = (query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5).softmax(-1)
        far = (indices @ position_weight.T).permute(0, 3, 1, 2).softmax(-1)
        gate = torch.sigmoid(gate).view(1, -1, 1, 1)
        weights = (1 - gate) * near + gate * far
        weights = weights / weights.sum(-1, keepdim=True)
        return (weights @ value).transpose(1, 2)

    return attend


@benchmark("gpsa")
def gpsa(quick: bool):
    """ops.gpsa against both matrices over the pixels, in JAX and in torch as timm has them."""
    for side, batch, heads in [(8, 1, 2)] if quick else [(14, 16, 4), (32, 2, 4), (64, 1, 2)]:
        T = side * side
        qkv = normal(*[(batch, T, heads, 48)] * 3)
        arrays = [*qkv, np.asarray(ops.gpsa_position_weight(heads)), np.ones(heads, np.float32)]

        def ours(*arrays, side=side):
            return ops.gpsa(*arrays, grid=(side, side))

        def naive(*arrays, side=side):
            return _naive_gpsa(*arrays, side=side)

        title = f"gpsa {batch} x {side}x{side}, {heads} x 48"
        yield from op_rows(
            title,
            ours,
            arrays,
            jax_peers={"both matrices": naive},
            torch_peers={"timm's equations": _torch_gpsa(side)},
            # the gradient of a gate sums over all pairs of pixels, in float32
            tolerance=1e-3,
        )


@benchmark("moh")
def moh(quick: bool):
    """ops.moh_attention gathered against masked: 2 shared heads and 2, 3 or 4 of 6 routed ones."""
    shapes = [(1024, 4, 2), (1024, 4, 3), (1024, 4, 4), (4096, 1, 3)]
    for T, batch, top_k in [(256, 1, 2)] if quick else shapes:
        query, key, value, logits = normal(*[(batch, T, 8, 64)] * 3, (batch, T, 6))
        even = np.zeros((batch, T, 2), np.float32)
        gates = np.asarray(ops.moh_gates(logits, even, even, top_k=top_k))

        def attend(form, top_k=top_k):
            keywords = {"shared_heads": 2, "top_k": top_k, "form": form}
            return lambda *given: ops.moh_attention(*given, **keywords)

        title = f"moh {batch} x {T}, {2 + top_k} of 8 heads x 64"
        peers = {"masked": attend("masked")}
        arrays = [query, key, value, gates]
        yield from op_rows(title, attend("gathered"), arrays, jax_peers=peers)
