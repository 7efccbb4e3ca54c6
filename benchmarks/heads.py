"""Gated heads, positional attention and gates of maps against timm and their naive forms."""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.harness import Row, benchmark, jax_contender, to_torch, torch_contender
from benchmarks.peers import import_peer
from scanmax import ops


def _draw(*shapes):
    rng = np.random.default_rng(0)
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


def _training(function):
    """The output and the gradients of all arguments for a given cotangent."""

    def value_and_gradients(cotangent, *arguments):
        y, pull_back = jax.vjp(function, *arguments)
        return y, *pull_back(cotangent)

    return value_and_gradients


def _rows(title, ours, naive, arrays, torch_form=None, tolerance=1e-4):
    """Forward and training of one op; `torch_form` gives both as (function, result) pairs."""
    shape = jax.eval_shape(ours, *arrays).shape
    (cotangent,) = _draw(shape)
    peers = torch_form(arrays, cotangent) if torch_form else (None, None)
    for label, wrap, given, peer in (
        ("forward", lambda op: op, arrays, peers[0]),
        ("training", _training, [cotangent, *arrays], peers[1]),
    ):
        contenders = [jax_contender(name, wrap(f), *given) for name, f in naive.items()]
        if peer:
            contenders.append(torch_contender("timm", peer[0], result=peer[1]))
        own = jax_contender("scanmax", wrap(ours), *given)
        yield Row(f"{title}, {label}", own, contenders, tolerance)


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

    def build(arrays, cotangent):
        import torch

        import_peer("timm")
        from timm.models.convit import GPSA

        indices = GPSA(4, num_heads=1).get_rel_indices(side * side)
        inputs = [to_torch(x).requires_grad_() for x in arrays]
        cotangent = to_torch(cotangent)

        def attend(query, key, value, position_weight, gate):
            query, key, value = (x.transpose(1, 2) for x in (query, key, value))
            near = (query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5).softmax(-1)
            far = (indices @ position_weight.T).permute(0, 3, 1, 2).softmax(-1)
            gate = torch.sigmoid(gate).view(1, -1, 1, 1)
            weights = (1 - gate) * near + gate * far
            weights = weights / weights.sum(-1, keepdim=True)
            return (weights @ value).transpose(1, 2)

        return _torch_calls(attend, inputs, cotangent)

    return build


def _torch_calls(function, inputs, cotangent, result=lambda x: x):
    """(forward, its result in our layout), (forward with gradients, likewise)."""
    import torch

    def forward():
        with torch.no_grad():
            return function(*inputs)

    def training():
        y = function(*inputs)
        return y, *torch.autograd.grad(y, inputs, cotangent)

    return (forward, result), (training, lambda output: tuple(map(result, output)))


@benchmark("gpsa")
def gpsa(quick: bool):
    """ops.gpsa against both matrices over the pixels, in JAX and in torch as timm has them."""
    for side, batch, heads in [(8, 1, 2)] if quick else [(14, 16, 4), (32, 2, 4), (64, 1, 2)]:
        T = side * side
        qkv = _draw(*[(batch, T, heads, 48)] * 3)
        arrays = [*qkv, np.asarray(ops.gpsa_position_weight(heads)), np.ones(heads, np.float32)]

        def ours(*arrays, side=side):
            return ops.gpsa(*arrays, grid=(side, side))

        def naive(*arrays, side=side):
            return _naive_gpsa(*arrays, side=side)

        title = f"gpsa {batch} x {side}x{side}, {heads} x 48"
        peers = {"both matrices": naive}
        # the gradient of a gate sums over all pairs of pixels, in float32
        yield from _rows(title, ours, peers, arrays, _torch_gpsa(side), tolerance=1e-3)


@benchmark("moh")
def moh(quick: bool):
    """ops.moh_attention gathered against masked: 2 shared heads and 2, 3 or 4 of 6 routed ones."""
    shapes = [(1024, 4, 2), (1024, 4, 3), (1024, 4, 4), (4096, 1, 3)]
    for T, batch, top_k in [(256, 1, 2)] if quick else shapes:
        query, key, value, logits = _draw(*[(batch, T, 8, 64)] * 3, (batch, T, 6))
        even = np.zeros((batch, T, 2), np.float32)
        gates = np.asarray(ops.moh_gates(logits, even, even, top_k=top_k))

        def attend(form, top_k=top_k):
            keywords = {"shared_heads": 2, "top_k": top_k, "form": form}
            return lambda *arrays: ops.moh_attention(*arrays, **keywords)

        title = f"moh {batch} x {T}, {2 + top_k} of 8 heads x 64"
        forms = {"masked": attend("masked")}
        yield from _rows(title, attend("gathered"), forms, [query, key, value, gates])


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


def _torch_gate(kind):
    """timm's layer with our weights, in torch's own layout; CBAM without its batch norm."""

    def build(arrays, cotangent):
        import torch

        import_peer("timm")
        from timm.layers import EcaModule, SEModule
        from timm.layers.cbam import CbamModule

        x, *weights = arrays
        channels = x.shape[-1]
        if kind == "se":
            layer = SEModule(channels, bias=False, rd_channels=channels // 16)
            parameters = [layer.fc1.weight, layer.fc2.weight]
        elif kind == "eca":
            layer = EcaModule(channels=channels)
            parameters = [layer.conv.weight]
        else:
            layer = CbamModule(channels)
            layer.spatial.conv.bn = torch.nn.Identity()
            conv = layer.spatial.conv.conv
            parameters = [layer.channel.fc1.weight, layer.channel.fc2.weight, conv.weight]
        with torch.no_grad():
            for parameter, weight in zip(parameters, weights):
                weight = weight.transpose(3, 2, 0, 1) if weight.ndim == 4 else weight.T
                parameter.copy_(to_torch(weight).reshape(parameter.shape))
        inputs = to_torch(x.transpose(0, 3, 1, 2)).requires_grad_()
        cotangent = to_torch(cotangent.transpose(0, 3, 1, 2))

        def forward():
            with torch.no_grad():
                return layer(inputs)

        def training():
            y = layer(inputs)
            return y, *torch.autograd.grad(y, [inputs, *parameters], cotangent)

        def result(y):
            return y.detach().permute(0, 2, 3, 1)

        def results(output):
            y, dx, *gradients = output
            ours = [
                g.permute(2, 3, 1, 0) if w.ndim == 4 else g.reshape(w.shape[::-1]).t()
                for g, w in zip(gradients, weights)
            ]
            return result(y), result(dx), *ours

        return (forward, result), (training, results)

    return build


@benchmark("channel_attention")
def channel_attention(quick: bool):
    """Squeeze-excite, ECA and CBAM against plain JAX and timm's layers (channels first)."""
    for batch, side, channels in [(1, 7, 64)] if quick else [(8, 56, 256), (8, 14, 1024)]:
        reduced = channels // 16
        taps = {64: 3, 256: 5, 1024: 5}[channels]
        x, squeeze, excite = _draw(
            (batch, side, side, channels), (channels, reduced), (reduced, channels)
        )
        kernel, spatial = _draw((taps,), (7, 7, 2, 1))
        shape = f"{batch} x {side}x{side}x{channels}"
        for kind, ours, naive, weights in (
            ("se", ops.squeeze_excite, _naive_se, [squeeze, excite]),
            ("eca", ops.efficient_channel_attention, _naive_eca, [kernel]),
            ("cbam", _cbam, _naive_cbam, [squeeze, excite, spatial]),
        ):
            plain = {"plain JAX": naive}
            yield from _rows(f"{kind} {shape}", ours, plain, [x, *weights], _torch_gate(kind))
