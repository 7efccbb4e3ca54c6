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
    """ops.dropless_experts against room for every token in every expert."""
    for tokens, width, experts in ((8, 8, 4),) if quick else ((512, 256, 8),):
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
            jax_peers={"room for all": _padded_experts},
        )
