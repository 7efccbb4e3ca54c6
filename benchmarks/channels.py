"""Gates of maps against plain JAX and timm's layers."""

import functools

import jax
import jax.numpy as jnp

from benchmarks.harness import benchmark
from benchmarks.passes import normal, op_rows
from benchmarks.peers import import_peer
from scanmax import ops


def _naive_pooled(x):
    return jnp.mean(x, (1, 2)), jnp.max(x, (1, 2))


def _naive_se(x, squeeze, excite):
    gate = jax.nn.sigmoid(jax.nn.relu(_naive_pooled(x)[0] @ squeeze) @ excite)
    return x * gate[:, None, None]


def _naive_eca(x, kernel):
    pooled = _naive_pooled(x)[0][:, :, None]
    half = kernel.shape[0] // 2
    logits = jax.lax.conv_general_dilated(
        pooled, kernel[:, None, None], (1,), [(half, half)], dimension_numbers=("NWC", "WIO", "NWC")
    )
    return x * jax.nn.sigmoid(logits)[:, None, None, :, 0]


def _naive_cbam(x, squeeze, excite, kernel):
    gate = sum(jax.nn.relu(pooled @ squeeze) @ excite for pooled in _naive_pooled(x))
    x = x * jax.nn.sigmoid(gate)[:, None, None]
    pooled = jnp.stack([jnp.mean(x, -1), jnp.max(x, -1)], -1)
    logits = jax.lax.conv_general_dilated(
        pooled, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return x * jax.nn.sigmoid(logits)


def _cbam(x, squeeze, excite, kernel):
    return ops.cbam_spatial_gate(ops.cbam_channel_gate(x, squeeze, excite), kernel)


def _naive_pkcam(x, first, second, kernel, fusion, output_fusion):
    """As the released code has it: sources side by side, fused by a convolution over them."""
    z = jnp.mean(x, (1, 2))
    sources = jnp.stack([*(jnp.tile(y, (1, z.shape[1] // y.shape[1])) for y in (first, second)), z])

    def along(z):
        rhs = kernel[:, None, None]
        dimensions = ("NWC", "WIO", "NWC")
        padding = [(kernel.shape[0] // 2,) * 2]
        logits = jax.lax.conv_general_dilated(
            z[:, :, None], rhs, (1,), padding, dimension_numbers=dimensions
        )
        return jax.nn.sigmoid(logits[:, :, 0])

    far = along(jax.nn.relu(jnp.tensordot(fusion, sources, 1)))
    gate = jax.nn.sigmoid(output_fusion[0] * along(z) + output_fusion[1] * far)
    return x * (1 + gate)[:, None, None]


def _pkcam(x, first, second, kernel, fusion, output_fusion):
    return ops.pkcam(x, [first, second], kernel, kernel, fusion, output_fusion)


def _torch_gate(kind, weights):
    """timm's layer as a function of tensors in our layout; CBAM without its batch norm."""
    import torch

    import_peer("timm")
    from timm.layers import EcaModule, SEModule
    from timm.layers.cbam import CbamModule

    squeeze = weights[0].shape
    if kind == "se":
        layer = SEModule(squeeze[0], bias=False, rd_channels=squeeze[1])
        names = ["fc1.weight", "fc2.weight"]
    elif kind == "eca":
        layer = EcaModule(kernel_size=squeeze[0])
        names = ["conv.weight"]
    else:
        layer = CbamModule(squeeze[0])
        layer.spatial.conv.bn = torch.nn.Identity()
        names = ["channel.fc1.weight", "channel.fc2.weight", "spatial.conv.conv.weight"]
    shapes = {name: parameter.shape for name, parameter in layer.named_parameters()}

    def gate(x, *weights):
        given = {
            name: (w.permute(3, 2, 0, 1) if w.ndim == 4 else w.mT if w.ndim == 2 else w).reshape(
                shapes[name]
            )
            for name, w in zip(names, weights)
        }
        y = torch.func.functional_call(layer, given, (x.permute(0, 3, 1, 2),))
        return y.permute(0, 2, 3, 1)

    return gate


@benchmark("channel_attention")
def channel_attention(quick: bool):
    """Squeeze-excite, ECA, CBAM and PKCAM against plain JAX, and timm's layers (channels first)."""
    for batch, side, channels in [(1, 7, 64)] if quick else [(8, 56, 256), (8, 14, 1024)]:
        reduced = channels // 16
        taps = {64: 3, 256: 5, 1024: 5}[channels]
        x, squeeze, excite = normal(
            (batch, side, side, channels), (channels, reduced), (reduced, channels)
        )
        kernel, spatial = normal((taps,), (7, 7, 2, 1))
        shape = f"{batch} x {side}x{side}x{channels}"
        for kind, ours, naive, weights in (
            ("se", ops.squeeze_excite, _naive_se, [squeeze, excite]),
            ("eca", ops.efficient_channel_attention, _naive_eca, [kernel]),
            ("cbam", _cbam, _naive_cbam, [squeeze, excite, spatial]),
        ):
            yield from op_rows(
                f"{kind} {shape}",
                ours,
                [x, *weights],
                jax_peers={"plain JAX": naive},
                torch_peers={"timm, channels last": _torch_gate(kind, weights)},
                # where two of 1024 are within rounding, the maximum's gradient takes either
                tolerance=1e-3 if kind == "cbam" else 1e-4,
            )
        vectors = normal((batch, channels // 4), (batch, channels // 2), (taps,), (3,), (2,))
        peers = {"plain JAX": _naive_pkcam}
        yield from op_rows(f"pkcam {shape}", _pkcam, [x, *vectors], jax_peers=peers)


def _padded_experts(x, gates, kernel, out_kernel):
    """Room for every token in every expert: E products of each token, whatever it chose."""
    places = ops.dispatch_to_experts(x, gates, capacity=x.shape[-2])
    hidden = jax.nn.relu(jnp.einsum("becd,edf->becf", places, kernel))
    y = jnp.einsum("becf,efv->becv", hidden, out_kernel)
    return ops.combine_experts(y, gates, top_k=2)


@benchmark("dropless_experts")
def dropless_experts(quick: bool):
    """ops.dropless_experts against room for all, all experts for all, and Mixtral's loop."""
    for tokens, width, experts in ((8, 8, 4),) if quick else ((512, 256, 8), (512, 256, 32)):
        x, logits, kernel, out = normal(
            (4, tokens, width),
            (4, tokens, experts),
            (experts, width, 2 * width),
            (experts, 2 * width, width),
            scale=0.1,
        )
        gates = ops.expert_gates(logits, top_k=2)
        yield from op_rows(
            f"4 x {tokens} x {width}, 2 of {experts} experts",
            functools.partial(ops.dropless_experts, top_k=2),
            [x, gates, kernel, out],
            jax_peers={"room for all": _padded_experts, "all experts": _masked_experts},
            torch_peers={"a loop in torch": _torch_experts},
        )


def _masked_experts(x, gates, kernel, out_kernel):
    """Every expert for every token, of which the gates keep few, as gradients do."""
    gates = jnp.where(gates != 0, gates, 0)
    hidden = jax.nn.relu(jnp.einsum("btd,edf->betf", x, kernel))
    return jnp.einsum("betf,efv,bte->btv", hidden, out_kernel, gates)


def _torch_experts(x, gates, kernel, out_kernel):
    """Mixtral's loop in transformers: the tokens of one expert after another."""
    import torch

    tokens, flat = x.flatten(0, 1), gates.flatten(0, 1)
    y = torch.zeros_like(tokens)
    for index in range(flat.shape[1]):
        chose = (flat[:, index] != 0).nonzero()[:, 0]
        hidden = (tokens[chose] @ kernel[index]).relu() @ out_kernel[index]
        y = y.index_add(0, chose, hidden * flat[chose, index, None])
    return y.unflatten(0, x.shape[:2])


def _one_hot_room(gates, capacity):
    """GShard's tensor of places: [B, T, E, C], one where a token takes the c-th place."""
    chosen = gates != 0
    rank = jnp.cumsum(chosen, 1) - 1
    return jax.nn.one_hot(jnp.where(chosen, rank, capacity), capacity, dtype=gates.dtype)


@benchmark("expert_room")
def expert_room(quick: bool):
    """Tokens to experts of limited room and back, against GShard's tensor of places."""
    for tokens, width, experts in ((16, 8, 4),) if quick else ((512, 256, 8), (512, 256, 32)):
        capacity = 2 * tokens // experts
        x, logits = normal((4, tokens, width), (4, tokens, experts))
        gates = ops.expert_gates(logits, top_k=2, capacity=capacity)

        def ours(x, gates, capacity=capacity):
            places = ops.dispatch_to_experts(x, gates, capacity=capacity)
            return ops.combine_experts(places, gates, top_k=2)

        def places(x, gates, capacity=capacity):
            room = _one_hot_room(gates, capacity)
            y = jnp.einsum("btec,btd->becd", room, x)
            return jnp.einsum("btec,bte,becd->btd", room, gates, y)

        title = f"4 x {tokens} x {width}, 2 of {experts} experts, {capacity} places"
        yield from op_rows(title, ours, [x, gates], jax_peers={"places as ones": places})


def _torch_gates(logits, *, top_k, scores):
    """The routers of transformers' Mixtral (softmax) and of sigma-MoE's code (sigmoid)."""
    import torch

    p = logits.softmax(-1) if scores == "softmax" else logits.sigmoid()
    values, places = p.topk(top_k, -1)
    if scores == "softmax":
        values = values / values.sum(-1, keepdim=True)
    return torch.zeros_like(p).scatter(-1, places, values)


def _load(logits, noise_logits, noise, *, top_k):
    return ops.expert_load(logits, noise_logits, noise, top_k=top_k)


def _torch_load(logits, noise_logits, noise, *, top_k):
    """The public re-implementations' sums: a threshold inside, another outside."""
    import torch

    size = torch.nn.functional.softplus(noise_logits) + 0.01
    noisy = logits + noise * size
    best = noisy.topk(top_k + 1, -1).values
    outside, inside = best[..., top_k - 1 : top_k], best[..., top_k:]
    bound = torch.where(noisy > inside, inside, outside)
    return torch.special.ndtr((logits - bound) / size)


def _torch_sinkhorn(cost):
    """The iterations in logarithms, as POT's `sinkhorn_log` has them."""
    import math

    rows, columns = cost.shape[-2:]
    logs, g = -cost / 0.05, cost.new_zeros(*cost.shape[:-2], 1, columns)
    for _ in range(20):
        f = -math.log(rows) - (logs + g).logsumexp(-1, keepdim=True)
        g = -math.log(columns) - (logs + f).logsumexp(-2, keepdim=True)
    return (logs + f + g).exp()


@benchmark("expert_routing")
def expert_routing(quick: bool):
    """Gates, loads and Sinkhorn's plan of routers to experts, against the same sums in torch."""
    for tokens, experts, top_k in ((16, 4, 2),) if quick else ((4096, 16, 4), (4096, 64, 2)):
        logits, noise_logits, noise = normal(*[(tokens, experts)] * 3)
        title = f"{tokens} tokens, {top_k} of {experts}"
        for scores in ("softmax", "sigmoid"):
            # sigma-MoE leaves its gates as they are
            options = {"top_k": top_k, "scores": scores}
            yield from op_rows(
                f"expert_gates, {scores}, {title}",
                functools.partial(ops.expert_gates, normalize=scores == "softmax", **options),
                [logits],
                torch_peers={"torch": functools.partial(_torch_gates, **options)},
            )
        yield from op_rows(
            f"expert_load, {title}",
            functools.partial(_load, top_k=top_k),
            [logits, noise_logits, noise],
            torch_peers={"torch": functools.partial(_torch_load, top_k=top_k)},
        )
        yield from op_rows(
            f"sinkhorn, 20 iterations, {tokens} x {experts}",
            functools.partial(ops.sinkhorn, epsilon=0.05, iterations=20),
            [0.1 * logits],
            torch_peers={"torch": _torch_sinkhorn},
            tolerance=1e-3,
        )


def _all_keys(first, second, values, *, top_k):
    """The MLP of which the memory is part: every key scored, all but the best set to 0."""
    sums = (first[:, :, None] + second[:, None]).reshape(len(first), -1)
    least = jax.lax.top_k(sums, top_k)[0][:, -1:]
    return jax.nn.relu(jnp.where(sums >= least, sums, 0)) @ values


def _torch_memory(first, second, values, *, top_k):
    """The released code's search in two stages and its bag of rows."""
    import torch

    (a, i), (b, j) = first.topk(top_k, -1), second.topk(top_k, -1)
    sums = (a[:, :, None] + b[:, None]).flatten(1)
    rows = (i[:, :, None] * second.shape[1] + j[:, None]).flatten(1)
    best, places = sums.topk(top_k, -1)
    return torch.nn.functional.embedding_bag(
        rows.gather(1, places), values, per_sample_weights=best.relu(), mode="sum"
    )


@benchmark("product_key_memory")
def product_key_memory(quick: bool):
    """ops.product_key_memory and top-k activation against all keys, and against torch."""
    for tokens, side, width in ((8, 8, 8),) if quick else ((1024, 62, 412), (256, 256, 512)):
        top_k = min(32, side // 2)
        yield from op_rows(
            f"product_key_memory, {tokens} tokens, {top_k} of {side} x {side} rows of {width}",
            functools.partial(ops.product_key_memory, top_k=top_k),
            normal((tokens, side), (tokens, side), (side**2, width)),
            jax_peers={"all keys": functools.partial(_all_keys, top_k=top_k)},
            torch_peers={"torch": functools.partial(_torch_memory, top_k=top_k)},
        )
    for tokens, width, top_k in ((8, 16, 4),) if quick else ((2048, 2048, 128),):

        def in_torch(x, top_k=top_k):
            values, places = x.topk(top_k, -1)
            return x.new_zeros(x.shape).scatter(-1, places, values)

        yield from op_rows(
            f"top_k_activation, {tokens} tokens, {top_k} of {width}",
            functools.partial(ops.top_k_activation, top_k=top_k),
            normal((tokens, width)),
            torch_peers={"torch": in_torch},
        )


def _torch_selective(branches, squeeze, excite):
    """timm's SelectiveKernel, without its norm."""
    import torch

    pooled = branches.sum(1).mean((1, 2))
    logits = torch.einsum("br,nrc->bnc", (pooled @ squeeze).relu(), excite)
    return (branches * logits.softmax(1)[:, :, None, None]).sum(1)


def _torch_waves(x, phase, amplitude, rotation):
    """SpaRTAN's sums, over complex numbers."""
    import torch

    waves = phase * amplitude
    waves = waves + waves.gather(-1, x.argmax(-1, keepdim=True))
    turned = torch.view_as_complex(waves.unflatten(-1, (-1, 2))) * torch.view_as_complex(rotation)
    return torch.view_as_real(turned).flatten(-2)


@benchmark("selected_channels")
def selected_channels(quick: bool):
    """Selective kernels and waves of channels, against timm's and SpaRTAN's sums in torch."""
    for batch, side, width in ((1, 8, 16),) if quick else ((8, 56, 64), (8, 14, 320)):
        title, reduced = f"{batch} x {side} x {side} x {width}", max(width // 16, 4)
        yield from op_rows(
            f"selective_kernel, 2 branches, {title}",
            ops.selective_kernel,
            normal((batch, 2, side, side, width), (width, reduced), (2, reduced, width)),
            torch_peers={"timm's sums": _torch_selective},
        )
        shape, wide = (batch, side, side, width), (batch, side, side, 4 * width)
        yield from op_rows(
            f"wave_aggregation, {title} to {4 * width}",
            ops.wave_aggregation,
            normal(shape, wide, wide, (2 * width, 2)),
            torch_peers={"SpaRTAN's sums": _torch_waves},
        )
