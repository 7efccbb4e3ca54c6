"""Local attention against torch's fused kernel over windows, unfolded keys, and dense masks."""

import functools

import jax.numpy as jnp
import numpy as np

from benchmarks.harness import benchmark
from benchmarks.passes import normal, op_rows
from scanmax import ops

# (batch, side, heads, width): the first stage of a small pyramid, and the second of a larger one
SHAPES = [(2, 56, 4, 32), (4, 28, 6, 32)]
QUICK = [(1, 14, 2, 16)]
POOLED = 49


def _dense(mask):
    """Attention with a T x T mask: the naive form."""

    def attend(*maps):
        flat = (x.reshape(x.shape[0], -1, *x.shape[-2:]) for x in maps)
        y = ops.dot_product_attention(*flat, mask=mask, form="parallel")
        return y.reshape(maps[0].shape)

    return attend


def _mask(matrix, side, **options):
    """[T, T]: which pairs a pattern allows."""
    x = jnp.zeros((side, side, 1, 1))
    return np.asarray(matrix(x, x, **options)[0] > 0)


def _torch_windows(query, key, value, window, shift):
    """Roll, partition, torch's fused kernel with the mask of the regions, and back."""
    import torch

    B, Y, X, H, K = query.shape
    mask = None
    if shift:
        region = torch.zeros(Y, X)
        edges = (slice(0, -window), slice(-window, -shift), slice(-shift, None))
        for i, rows in enumerate(edges):
            for j, columns in enumerate(edges):
                region[rows, columns] = 3 * i + j
        region = region.view(Y // window, window, X // window, window).permute(0, 2, 1, 3)
        region = region.reshape(-1, window * window)
        mask = (region[:, None] == region[:, :, None])[:, None].repeat(B, 1, 1, 1)

    def split(x):
        x = torch.roll(x, (-shift, -shift), (1, 2)) if shift else x
        x = x.reshape(B, Y // window, window, X // window, window, H, K)
        return x.permute(0, 1, 3, 5, 2, 4, 6).reshape(-1, H, window * window, K)

    attend = torch.nn.functional.scaled_dot_product_attention
    y = attend(split(query), split(key), split(value), attn_mask=mask)
    y = y.view(B, Y // window, X // window, H, window, window, K)
    y = y.permute(0, 1, 4, 2, 5, 3, 6).reshape(B, Y, X, H, K)
    return torch.roll(y, (shift, shift), (1, 2)) if shift else y


def _torch_unfold(x, kernel, stride=1, padding=None):
    """[B, Y, X, H, K] -> [B, windows, H, keys, K]."""
    import torch

    B, Y, X, H, K = x.shape
    x = x.permute(0, 3, 4, 1, 2).reshape(B, H * K, Y, X)
    padding = kernel // 2 if padding is None else padding
    x = torch.nn.functional.unfold(x, kernel, padding=padding, stride=stride)
    return x.reshape(B, H, K, kernel * kernel, -1).permute(0, 4, 1, 3, 2)


def _torch_neighborhood(query, key, value, kernel, masked, pooled=None):
    """Unfolded keys and values, and a softmax over them (and pooled ones)."""
    import torch

    B, Y, X, H, K = query.shape
    q = query.reshape(B, Y * X, H, 1, K)
    logits = (q @ _torch_unfold(key, kernel).transpose(-1, -2)) * K**-0.5
    if masked:
        inside = _torch_unfold(torch.ones(1, Y, X, 1, 1), kernel)[..., None, :, 0]
        logits = logits.masked_fill(inside == 0, -torch.inf)
    if pooled is not None:
        more = torch.einsum("bthk,bphk->bthp", q[:, :, :, 0], pooled[0]) * K**-0.5
        logits = torch.cat([logits, more[..., None, :]], -1)
    weights = torch.softmax(logits, -1)
    count = kernel * kernel
    y = (weights[..., :count] @ _torch_unfold(value, kernel))[..., 0, :]
    if pooled is not None:
        y = y + torch.einsum("bthp,bphk->bthk", weights[..., 0, count:], pooled[1])
    return y.reshape(query.shape)


def _torch_halo(query, key, value, block, halo):
    """Blocks of queries over unfolded keys with their halo."""
    B, Y, X, H, K = query.shape
    split = (B, Y // block, block, X // block, block, H, K)
    q = query.reshape(split).permute(0, 1, 3, 5, 2, 4, 6)
    q = q.reshape(B, -1, H, block * block, K)
    k, v = (_torch_unfold(x, block + 2 * halo, block, halo) for x in (key, value))
    weights = ((q @ k.transpose(-1, -2)) * K**-0.5).softmax(-1)
    y = (weights @ v).view(B, Y // block, X // block, H, block, block, K)
    return y.permute(0, 1, 4, 2, 5, 3, 6).reshape(query.shape)


def _cases(side):
    """(name, ours, torch's, mask of the dense form or None)."""
    window, block = 7, 7 if side % 8 else 8
    partial = functools.partial
    for shift in (0, 3):
        options = {"window_size": window, "shift": shift}
        yield (
            f"window {window}" + (", shifted" if shift else ""),
            partial(ops.window_attention, **options),
            partial(_torch_windows, window=window, shift=shift),
            partial(_mask, ops.window_attention_matrix, side, **options),
        )
    options = {"kernel_size": 7, "edges": "masked"}
    yield (
        "neighbourhood 7",
        partial(ops.neighborhood_attention, **options),
        partial(_torch_neighborhood, kernel=7, masked=True),
        partial(_mask, ops.neighborhood_attention_matrix, side, **options),
    )
    yield (
        f"halo {block} + 3",
        partial(ops.halo_attention, block_size=block, halo=3),
        partial(_torch_halo, block=block, halo=3),
        None,
    )
    yield "MSA-Conv 3", ops.msa_conv, partial(_torch_neighborhood, kernel=3, masked=False), None


@benchmark("local_attention")
def local_attention(quick: bool):
    """Windows, neighbourhoods, halos, MSA-Conv: torch on windows or unfolded keys, dense masks."""
    for B, side, H, K in QUICK if quick else SHAPES:
        query, key, value = normal(*[(B, side, side, H, K)] * 3)
        pooled = normal(*[(B, POOLED, H, K)] * 2, seed=2)
        title = f"{B} x {side} x {side}, {H} x {K}"
        for name, ours, torchs, mask in _cases(side):
            dense = {} if mask is None else {"dense mask": _dense(jnp.asarray(mask()))}
            yield from op_rows(
                f"{title}, {name}",
                ours,
                [query, key, value],
                jax_peers=dense,
                torch_peers={"torch": torchs},
                tolerance=1e-5,
            )

        def torchs(query, key, value, *pooled):
            return _torch_neighborhood(query, key, value, 3, True, pooled)

        yield from op_rows(
            f"{title}, aggregated 3 + {POOLED}",
            ops.aggregated_attention,
            [query, key, value, *pooled],
            torch_peers={"torch": torchs},
            tolerance=1e-5,
        )
