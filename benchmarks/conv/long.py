"""Convolutions as long as their input by FFT, and of a few taps, against torch and plain sums."""

import jax.numpy as jnp

from benchmarks.harness import benchmark
from benchmarks.passes import normal, op_rows
from scanmax import ops

CHANNELS = 64


def _torch_fft(x, kernel):
    """The usual convolution in torch: transforms of twice the length, rows of time last."""
    import torch

    length = x.shape[1]
    spectrum = torch.fft.rfft(x.transpose(1, 2), n=2 * length)
    spectrum = spectrum * torch.fft.rfft(kernel.T, n=2 * length)
    return torch.fft.irfft(spectrum, n=2 * length)[..., :length].transpose(1, 2)


def _direct(x, kernel):
    """The sums, as a product with the Toeplitz matrix of every channel."""
    matrix = ops.long_conv_matrix(kernel, size=x.shape[1])
    return jnp.einsum("dts,bsd->btd", matrix, x)


def _jax_fft(x, kernel):
    """The usual convolution in JAX, with its automatic gradient."""
    n = 2 * x.shape[1]
    spectrum = jnp.fft.rfft(x, n=n, axis=1) * jnp.fft.rfft(kernel, n=n, axis=0)[None]
    return jnp.fft.irfft(spectrum, n=n, axis=1)[:, : x.shape[1]]


@benchmark("fft_conv")
def fft_conv(quick: bool):
    """ops.fft_conv over all tokens, causal, 64 channels, against torch and JAX, float32."""
    for length in (256,) if quick else (256, 1024, 4096, 16384):
        arrays = normal((2, length, CHANNELS), (length, CHANNELS))
        jax_peers = {"jax.numpy.fft": _jax_fft}
        if length <= 1024:
            jax_peers["Toeplitz matrix"] = _direct
        yield from op_rows(
            f"T={length}",
            ops.fft_conv,
            arrays,
            jax_peers=jax_peers,
            torch_peers={"torch.fft": _torch_fft},
        )


@benchmark("fft_conv_maps")
def fft_conv_maps(quick: bool):
    """ops.fft_conv with kernels over the whole map against torch's depthwise convolution."""
    import torch

    def depthwise(x, kernel):
        channels, side = kernel.shape[-1], kernel.shape[0] // 2
        # a correlation: the kernel turned round
        weights = kernel.flip((0, 1)).permute(2, 0, 1)[:, None]
        y = torch.nn.functional.conv2d(
            x.permute(0, 3, 1, 2), weights, padding=side, groups=channels
        )
        return y.permute(0, 2, 3, 1)

    for side in (8,) if quick else (14, 32):
        arrays = normal((2, side, side, CHANNELS), (2 * side - 1, 2 * side - 1, CHANNELS))
        yield from op_rows(
            f"{side} x {side}, kernel {2 * side - 1} x {2 * side - 1}",
            lambda x, kernel: ops.fft_conv(x, kernel, mode="bidirectional"),
            arrays,
            torch_peers={"torch conv2d": depthwise},
        )


@benchmark("tap_conv")
def tap_conv(quick: bool):
    """Lightweight and dynamic convolution against the unfolded products of fairseq's code."""
    import torch

    def unfolded(x, width):
        padded = torch.nn.functional.pad(x, (0, 0, width - 1, 0))
        return padded.unfold(1, width, 1)  # [B, T, D, W]

    def mixed(x, taps):
        heads, width = taps.shape[-2:]
        windows = unfolded(x, width).unflatten(2, (heads, -1))
        return torch.einsum("bthkw,bthw->bthk", windows, taps.softmax(-1)).flatten(2)

    def light(x, logits):
        return mixed(x, logits.expand(*x.shape[:2], *logits.shape))

    for length, width in ((32, 3),) if quick else ((512, 7), (512, 31), (4096, 7)):
        x, light_logits, logits = normal((2, length, 256), (16, width), (2, length, 16, width))
        title = f"T={length}, {width} taps"
        yield from op_rows(
            f"lightweight_conv, {title}",
            ops.lightweight_conv,
            [x, light_logits],
            torch_peers={"torch, unfolded": light},
        )
        yield from op_rows(
            f"dynamic_conv, {title}",
            ops.dynamic_conv,
            [x, logits],
            torch_peers={"torch, unfolded": mixed},
        )
