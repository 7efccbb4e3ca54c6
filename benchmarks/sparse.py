"""Sparse, pooled and convolutional mixers against dense masks, torch, timm and transformers."""

import functools

import jax
import numpy as np

from benchmarks.harness import Row, benchmark, jax_contender, to_torch, torch_contender
from benchmarks.peers import import_peer
from scanmax import ops
from scanmax.models.mixers import create_mixer


def _with_gradients(function):
    """The value and the gradients of all arrays but the last, which is the cotangent."""

    def value_and_gradients(*arrays):
        y, pull_back = jax.vjp(function, *arrays[:-1])
        return y, *pull_back(arrays[-1])

    return value_and_gradients


def _torch_passes(function, arrays, cotangent):
    """Forward, and forward with all gradients, of a torch function of arrays."""
    import torch

    inputs = [to_torch(x).requires_grad_() for x in arrays]
    given = to_torch(cotangent)

    def forward():
        with torch.no_grad():
            return function(*inputs)

    def backward():
        y = function(*inputs)
        return y, *torch.autograd.grad(y, inputs, given)

    return forward, backward


def _rows(title, ours, peers, torch_peer, arrays, cotangent, tolerance=1e-4):
    """Two rows, forward and training; `peers` are (name, function) in JAX."""
    forward, backward = _torch_passes(torch_peer[1], arrays, cotangent)
    detached = functools.partial(jax.tree.map, lambda x: x.detach())
    for label, wrap, theirs, inputs in (
        ("forward", lambda f: f, forward, arrays),
        ("training", _with_gradients, backward, [*arrays, cotangent]),
    ):
        others = [jax_contender(name, wrap(function), *inputs) for name, function in peers]
        others.append(torch_contender(torch_peer[0], theirs, result=detached))
        yield Row(
            f"{title}, {label}",
            ours=jax_contender("scanmax", wrap(ours), *inputs),
            peers=others,
            tolerance=tolerance,
        )


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

    return [("dense, masked", dense)], ("torch SDPA, masked", sdpa)


@benchmark("sparse")
def sparse(quick: bool):
    """ops.sparse_attention and per_head_window_attention against dense attention under the mask."""
    rng = np.random.default_rng(0)
    for T, heads in [(64, 2)] if quick else [(1024, 8), (4096, 4)]:
        *arrays, cotangent = (
            rng.normal(size=(1, T, heads, 64)).astype(np.float32) for _ in range(4)
        )
        stride = round(T**0.5)
        for pattern, summary in (("strided", 1), ("fixed", 4)):
            options = {"pattern": pattern, "stride": stride, "summary": summary}
            mask = ops.sparse_pattern(T, heads, **options)
            ours = functools.partial(ops.sparse_attention, **options)
            title = f"{pattern}, T={T}, {heads} x 64"
            yield from _rows(title, ours, *_masked(mask), arrays, cotangent)
        windows = tuple(T // 32 << head % 4 for head in range(heads))
        places = np.arange(T)
        ago = places[:, None] - places[None]
        reach = np.array(windows)[:, None, None]
        mask = (ago >= 0) & ((ago < reach) | (places < T // 64))
        ours = functools.partial(ops.per_head_window_attention, windows=windows, sinks=T // 64)
        title = f"windows {windows[:4]}, T={T}, {heads} x 64"
        yield from _rows(title, ours, *_masked(mask), arrays, cotangent)


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
    rng = np.random.default_rng(0)
    for batch, side, dim, heads, ratio in (
        [(1, 8, 32, 2, 2)] if quick else [(4, 56, 64, 2, 8), (8, 28, 128, 4, 4)]
    ):
        x, cotangent = (
            rng.normal(size=(batch, side * side, dim)).astype(np.float32) for _ in range(2)
        )
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
            for row in _rows(title, ours, [], (type(peer).__module__, theirs), [x], cotangent):
                row.reference = None
                yield row


@benchmark("conv_mixers")
def conv_mixers(quick: bool):
    """ops.lkca and conv_additive_attention against torch's convolutions."""
    import torch

    conv2d = torch.nn.functional.conv2d
    rng = np.random.default_rng(0)

    def channels_first(x):
        return x.permute(0, 3, 1, 2)

    for batch, side, dim, size in [(1, 8, 16, 5)] if quick else [(8, 14, 192, 27), (4, 56, 64, 13)]:
        value, cotangent = (
            rng.normal(size=(batch, side, side, 1, dim)).astype(np.float32) for _ in range(2)
        )
        kernel = rng.normal(size=(size, size)).astype(np.float32)

        def shared(value, kernel, dim=dim, size=size):
            weight = kernel[None, None].expand(dim, 1, size, size)
            y = conv2d(channels_first(value[:, :, :, 0]), weight, padding=size // 2, groups=dim)
            return y.permute(0, 2, 3, 1)[:, :, :, None]

        title = f"lkca {size} x {size}, {batch} x {side} x {side} x {dim}"
        forms = ("conv", "parallel")
        peers = [(form, functools.partial(ops.lkca, form=form)) for form in forms]
        yield from _rows(
            title, ops.lkca, peers, ("torch conv2d", shared), [value, kernel], cotangent
        )

        maps = [rng.normal(size=(batch, side, side, dim)).astype(np.float32) for _ in range(4)]
        depthwise = rng.normal(size=(3, 3, 1, dim)).astype(np.float32)

        def additive(query, key, value, kernel, dim=dim):
            weight = kernel.permute(3, 2, 0, 1)
            y = conv2d(channels_first(query + key), weight, padding=1, groups=dim)
            return y.permute(0, 2, 3, 1) * value

        title = f"conv_additive_attention, {batch} x {side} x {side} x {dim}"
        yield from _rows(
            title,
            ops.conv_additive_attention,
            [],
            ("torch conv2d", additive),
            [*maps[:3], depthwise],
            maps[3],
        )
