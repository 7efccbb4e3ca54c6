"""RWKV and modal state spaces against torch and naive forms."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.harness import Row, benchmark, jax_contender, to_torch, torch_contender
from benchmarks.peers import import_peer
from scanmax import ops

RNG = np.random.default_rng(0)


def _training(function):
    """The output and the gradient of every argument for a given cotangent."""

    def value_and_gradients(cotangent, *arguments):
        y, pullback = jax.vjp(function, *arguments)
        return y, *pullback(cotangent)

    return value_and_gradients


def _both(title, ours, peers, arguments, tolerance):
    """Rows of the forward pass and of training; peers: name -> (function, on torch tensors)."""
    cotangent = RNG.normal(size=jax.eval_shape(ours, *arguments).shape).astype(np.float32)

    def contender(name, training):
        function, on_torch = peers[name]
        if not on_torch:
            if training:
                return jax_contender(name, _training(function), cotangent, *arguments)
            return jax_contender(name, function, *arguments)
        import torch

        tensors = [to_torch(x).requires_grad_() for x in arguments]

        def forward():
            with torch.no_grad():
                return function(*tensors)

        def train():
            y = function(*tensors)
            return y, *torch.autograd.grad(y, tensors, to_torch(cotangent))

        return torch_contender(name, train if training else forward)

    yield Row(
        f"{title}, forward",
        jax_contender("scanmax", ours, *arguments),
        [contender(name, False) for name in peers],
        tolerance=tolerance,
    )
    yield Row(
        f"{title}, training",
        jax_contender("scanmax", _training(ours), cotangent, *arguments),
        [contender(name, True) for name in peers],
        tolerance=10 * tolerance,
    )


@benchmark("wkv")
def wkv(quick: bool):
    """ops.wkv against transformers' RWKV, token by token, causal, and the dense matrix, float32."""
    rwkv = import_peer("transformers.models.rwkv.modeling_rwkv")

    def peer(key, value, rate, bonus):
        return rwkv.rwkv_linear_attention_cpu(rate, bonus, key, value)[0]

    def ours(key, value, rate, bonus):
        return ops.wkv(key, value, -jnp.exp(rate), bonus)

    for length in (64,) if quick else (1024, 4096):
        arguments = [RNG.normal(size=(1, length, 384)) for _ in range(2)]
        arguments += [RNG.normal(size=384) for _ in range(2)]
        arguments = [x.astype(np.float32) for x in arguments]
        peers = {"transformers rwkv": (peer, True)}
        yield from _both(f"T={length}, 384 channels, causal", ours, peers, arguments, 1e-4)

    def dense(key, value, rate, bonus):
        matrix = ops.wkv_matrix(key, -jnp.exp(rate), bonus, is_causal=False)
        return jnp.einsum("bdts,bsd->btd", matrix, value)

    def both_ways(key, value, rate, bonus):
        return ops.wkv(key, value, -jnp.exp(rate), bonus, is_causal=False)

    length = 64 if quick else 1024
    arguments = [RNG.normal(size=(1, length, 32)) for _ in range(2)]
    arguments += [RNG.normal(size=32) for _ in range(2)]
    arguments = [x.astype(np.float32) for x in arguments]
    peers = {"dense matrix": (dense, False)}
    yield from _both(f"T={length}, 32 channels, both ways", both_ways, peers, arguments, 1e-4)


@benchmark("wkv6")
def wkv6(quick: bool):
    """ops.wkv6 in chunks against its own recurrence, token by token, 12 heads of 64, float32."""
    heads = 2 if quick else 12

    def ours(query, key, value, raw, bonus, form=None):
        return ops.wkv6(query, key, value, -jnp.exp(raw), bonus, form=form)

    for length in (64,) if quick else (1024, 4096):
        arguments = [RNG.normal(size=(1, length, heads, 64)) for _ in range(4)]
        arguments[3] = arguments[3] - 2
        arguments.append(RNG.normal(size=(heads, 64)))
        arguments = [x.astype(np.float32) for x in arguments]
        peers = {"recurrent": (functools.partial(ours, form="recurrent"), False)}
        yield from _both(f"T={length}, {heads} heads of 64", ours, peers, arguments, 1e-4)


@benchmark("modal_ssm")
def modal_ssm(quick: bool):
    """ops.modal_ssm in its forms against torch's FFT convolution with the filter."""
    dim, modes = 256, 8
    poles = [-RNG.uniform(0.01, 0.5, size=(dim, modes)), RNG.uniform(0, 3, size=(dim, modes))]
    poles = [jnp.asarray(x, jnp.float32) for x in poles]
    residue = jnp.asarray(RNG.normal(size=(dim, modes, 2)), jnp.float32)

    for length in (128,) if quick else (1024, 16384):
        taps = np.asarray(ops.modal_ssm_filter(*poles, residue, length=length))

        def convolve(x, taps=taps, length=length):
            import torch

            taps = to_torch(taps)

            spectrum = torch.fft.rfft(taps, 2 * length, dim=0)
            return torch.fft.irfft(torch.fft.rfft(x, 2 * length, dim=1) * spectrum, dim=1)[
                :, :length
            ]

        forms = {
            form: functools.partial(
                lambda x, form: ops.modal_ssm(x, *poles, residue, form=form), form=form
            )
            for form in (None, "chunked", "parallel")
        }
        peers = {
            "torch FFT, given the filter": (convolve, True),
            "FFT": (forms["parallel"], False),
            "chunked": (forms["chunked"], False),
        }
        arguments = [RNG.normal(size=(1, length, dim)).astype(np.float32)]
        title = f"T={length}, {dim} channels of {modes} modes"
        yield from _both(title, forms[None], peers, arguments, 1e-4)
