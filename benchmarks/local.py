"""Local attention against torch's fused kernel over windows, unfolded keys, and dense masks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.harness import benchmark
from benchmarks.passes import normal, op_rows
from benchmarks.peers import import_peer
from scanmax import ops
from scanmax.models.mixers import create_mixer

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
        partial(ops.halo_attention, block_size=block, halo=3, edges="zero"),
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
