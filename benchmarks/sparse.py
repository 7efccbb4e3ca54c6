"""Sparse, pooled and convolutional mixers against dense masks, torch, timm and transformers."""

import functools

import jax
import numpy as np

from benchmarks.harness import benchmark
from benchmarks.passes import normal, op_rows
from benchmarks.peers import import_peer
from scanmax import ops
from scanmax.models.mixers import create_mixer


def _masked(mask):
    """Dense attention under a boolean mask, in JAX and in torch: [B, T, H, K] arrays."""
    import torch

    given = torch.from_numpy(np.array(mask))

    def dense(query, key, value):
        return ops.dot_product_attention(query, key, value, mask=mask, form="parallel")

    def sdpa(query, key, value):
        heads_first = (x.transpose(1, 2) for x in (query, key, value))
        y = torch.nn.functional.scaled_dot_product_attention(*heads_first, attn_mask=given)
        return y.transpose(1, 2)

    return {
        "jax_peers": {"dense, masked": dense},
        "torch_peers": {"torch SDPA, masked": sdpa},
    }


@benchmark("sparse")
def sparse(quick: bool):
    """ops.sparse_attention and per_head_window_attention against dense attention under the mask."""
    for T, heads in [(64, 2)] if quick else [(1024, 8), (4096, 4)]:
        arrays = normal(*[(1, T, heads, 64)] * 3)
        stride = round(T**0.5)
        for pattern, summary in (("strided", 1), ("fixed", 4)):
            options = {"pattern": pattern, "stride": stride, "summary": summary}
            mask = ops.sparse_pattern(T, heads, **options)
            ours = functools.partial(ops.sparse_attention, **options)
            title = f"{pattern}, T={T}, {heads} x 64"
            yield from op_rows(title, ours, arrays, **_masked(mask))
        windows = tuple(T // 32 << head % 4 for head in range(heads))
        places = np.arange(T)
        ago = places[:, None] - places[None]
        reach = np.array(windows)[:, None, None]
        mask = (ago >= 0) & ((ago < reach) | (places < T // 64))
        ours = functools.partial(ops.per_head_window_attention, windows=windows, sinks=T // 64)
        title = f"windows {windows[:4]}, T={T}, {heads} x 64"
        yield from op_rows(title, ours, arrays, **_masked(mask))


def _mixer(name, heads, grid, x, **options):
    """Our module as a function of x, with random parameters."""
    mixer = create_mixer(name, heads=heads, options=options)
    variables = mixer.init(jax.random.key(0), x, grid=grid)
    return lambda x: mixer.apply(variables, x, grid=grid)


@benchmark("pooled")
def pooled(quick: bool):
    """Mixers of pooled and convolved keys against timm's PVTv2 and Next-ViT, transformers' CvT."""
    pvt, nextvit = import_peer("timm.models.pvt_v2"), import_peer("timm.models.nextvit")
    cvt = import_peer("transformers.models.cvt.modeling_cvt")
    for batch, side, dim, heads, ratio in (
        [(1, 8, 32, 2, 2)] if quick else [(4, 56, 64, 2, 8), (8, 28, 128, 4, 4)]
    ):
        (x,) = normal((batch, side * side, dim))
        grid = (side, side)
        cvt_arguments = (heads, dim, 3, 1, 1, 1, 2, "dw_bn", True, 0.0, 0.0, False)
        for name, options, peer, call in (
            (
                "spatial_reduction",
                {"ratio": ratio},
                pvt.Attention(dim, heads, sr_ratio=ratio),
                lambda m, x, grid=grid: m(x, grid),
            ),
            (
                "pooled",
                {"ratio": ratio},
                nextvit.EfficientAttention(dim, head_dim=dim // heads, sr_ratio=ratio),
                lambda m, x: m(x),
            ),
            (
                "conv_projection",
                {},
                cvt.CvtAttention(*cvt_arguments),
                lambda m, x, grid=grid: m(x, *grid),
            ),
        ):
            # other random weights: the same work, other numbers
            title = f"{name}, {batch} x {side} x {side} x {dim}"
            theirs = functools.partial(call, peer.eval())
            ours = _mixer(name, heads, grid, x, **options)
            peers = {type(peer).__module__: theirs}
            yield from op_rows(title, ours, [x], torch_peers=peers, reference=None)


@benchmark("conv_mixers")
def conv_mixers(quick: bool):
    """ops.lkca and conv_additive_attention against torch's convolutions."""
    import torch

    conv2d = torch.nn.functional.conv2d

    def channels_first(x):
        return x.permute(0, 3, 1, 2)

    for batch, side, dim, size in [(1, 8, 16, 5)] if quick else [(8, 14, 192, 27), (4, 56, 64, 13)]:
        value, kernel = normal((batch, side, side, 1, dim), (size, size))

        def shared(value, kernel, dim=dim, size=size):
            weight = kernel[None, None].expand(dim, 1, size, size)
            y = conv2d(channels_first(value[:, :, :, 0]), weight, padding=size // 2, groups=dim)
            return y.permute(0, 2, 3, 1)[:, :, :, None]

        title = f"lkca {size} x {size}, {batch} x {side} x {side} x {dim}"
        forms = {form: functools.partial(ops.lkca, form=form) for form in ("conv", "parallel")}
        peers = {"torch conv2d": shared}
        yield from op_rows(title, ops.lkca, [value, kernel], jax_peers=forms, torch_peers=peers)

        arrays = normal(*[(batch, side, side, dim)] * 3, (3, 3, 1, dim))

        def additive(query, key, value, kernel, dim=dim):
            weight = kernel.permute(3, 2, 0, 1)
            y = conv2d(channels_first(query + key), weight, padding=1, groups=dim)
            return y.permute(0, 2, 3, 1) * value

        title = f"conv_additive_attention, {batch} x {side} x {side} x {dim}"
        peers = {"torch conv2d": additive}
        yield from op_rows(title, ops.conv_additive_attention, arrays, torch_peers=peers)
