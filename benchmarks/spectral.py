"""Mixing in the domain of frequencies, against torch, float32."""

import jax
import jax.numpy as jnp

from benchmarks.harness import benchmark
from benchmarks.passes import normal, op_rows
from scanmax import ops


def _torch_filter(x, weight):
    """GFNet's sums."""
    import torch

    spectrum = torch.fft.rfft2(x, dim=(1, 2), norm="ortho") * torch.view_as_complex(weight)
    return torch.fft.irfft2(spectrum, s=x.shape[1:3], dim=(1, 2), norm="ortho")


@benchmark("global_filter")
def global_filter(quick: bool):
    """ops.global_filter at the maps of SpectFormer's stages against GFNet's sums in torch."""
    for batch, side, width in ((1, 8, 16),) if quick else ((8, 56, 64), (8, 28, 128), (8, 14, 384)):
        arrays = normal((batch, side, side, width), (side, side // 2 + 1, width, 2))
        yield from op_rows(
            f"{batch} x {side} x {side} x {width}",
            ops.global_filter,
            arrays,
            torch_peers={"torch.fft": _torch_filter},
        )


def _torch_adaptive(x, kernel, bias, out_kernel, out_bias):
    """AFFNet's sums."""
    import torch

    def dense(real, imaginary, kernel, bias):
        first = torch.einsum("byxgi,gij->byxgj", real, kernel[0])
        first = first - torch.einsum("byxgi,gij->byxgj", imaginary, kernel[1]) + bias[0]
        second = torch.einsum("byxgi,gij->byxgj", imaginary, kernel[0])
        return first, second + torch.einsum("byxgi,gij->byxgj", real, kernel[1]) + bias[1]

    spectrum = torch.fft.rfft2(x, dim=(1, 2), norm="ortho")
    split = spectrum.reshape(*spectrum.shape[:-1], *kernel.shape[1:3])
    hidden = [part.relu() for part in dense(split.real, split.imag, kernel, bias)]
    mask = torch.stack(dense(*hidden, out_kernel, out_bias), -1)
    mask = torch.view_as_complex(torch.nn.functional.softshrink(mask, 0.01))
    spectrum = spectrum * mask.reshape(spectrum.shape)
    return torch.fft.irfft2(spectrum, s=x.shape[1:3], dim=(1, 2), norm="ortho")


def _torch_pooling(x, low_weight):
    """SPANet's sums: transforms of complex numbers, shifted and back."""
    import torch

    rows, columns = x.shape[1:3]
    y, z = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    distance = torch.sqrt((y - rows // 2) ** 2.0 + (z - columns // 2) ** 2.0)[..., None]
    mask = (distance < 2) * low_weight + (distance > 2) * (1 - low_weight) + (distance == 2) / 3
    spectrum = torch.fft.fftshift(torch.fft.fft2(x, dim=(1, 2)), dim=(1, 2))
    return torch.fft.ifft2(torch.fft.ifftshift(spectrum * mask, dim=(1, 2)), dim=(1, 2)).real


def _torch_fourier(x, weight):
    """The sums of the neural operator's layer, dense and complex."""
    import torch

    rows, columns = x.shape[1:3]
    kept, low = weight.shape[:2]
    spectrum = torch.fft.fftshift(torch.fft.rfft2(x, dim=(1, 2)), dim=1)
    first = rows // 2 - kept // 2
    matrices = torch.view_as_complex(weight)
    y = torch.einsum("byxi,yxio->byxo", spectrum[:, first : first + kept, :low], matrices)
    whole = torch.zeros(*spectrum.shape[:-1], y.shape[-1], dtype=y.dtype)
    whole[:, first : first + kept, :low] = y
    return torch.fft.irfft2(torch.fft.ifftshift(whole, dim=1), s=(rows, columns), dim=(1, 2))


def _torch_haar(x):
    """WaveMix's sums: a grouped convolution of stride 2 along each axis; low, then all bands."""
    import torch

    y = x.permute(0, 3, 1, 2)
    filters = torch.tensor([[1.0, 1.0], [1.0, -1.0]]) / 2**0.5
    for shape, stride in (((2, 1, 1, 2), (1, 2)), ((2, 1, 2, 1), (2, 1))):
        kernel = filters.reshape(shape).repeat(y.shape[1], 1, 1, 1)
        y = torch.nn.functional.conv2d(y, kernel, stride=stride, groups=y.shape[1])
    return y.unflatten(1, (-1, 4)).permute(0, 3, 4, 1, 2)


@benchmark("spectral_mixing")
def spectral_mixing(quick: bool):
    """Adaptive filters, spectral pooling, Fourier layers and wavelets against their code's sums."""

    def bands(x):
        low, (detail,) = ops.haar_dwt2(x)
        return jnp.concatenate([low[..., None], detail], -1)

    for batch, side, width in ((1, 8, 16),) if quick else ((8, 56, 64), (8, 14, 320)):
        shape, title = (batch, side, side, width), f"{batch} x {side} x {side} x {width}"
        matrix, vector = (2, 8, width // 8, width // 8), (2, 8, width // 8)
        yield from op_rows(
            f"adaptive_frequency_filter, {title}",
            ops.adaptive_frequency_filter,
            normal(shape, matrix, vector, matrix, vector),
            torch_peers={"AFFNet's sums": _torch_adaptive},
        )
        yield from op_rows(
            f"spectral_pooling, {title}",
            ops.spectral_pooling,
            normal(shape, (width,)),
            torch_peers={"SPANet's sums": _torch_pooling},
        )
        yield from op_rows(
            f"haar_dwt2, {title}", bands, normal(shape), torch_peers={"WaveMix's sums": _torch_haar}
        )
        yield from op_rows(
            f"fourier_conv2d, {title}, 8 x 5 modes",
            ops.fourier_conv2d,
            normal(shape, (8, 5, width, width, 2)),
            torch_peers={"neuraloperator's sums": _torch_fourier},
        )


def _torch_unwavelet(low, detail):
    """The inverse: both axes of a block from its four bands, by sums and differences."""
    import torch

    a, b, c, d = low, *detail.unbind(-1)
    above = torch.stack([a + b + c + d, a + b - c - d], 3)
    under = torch.stack([a - b + c - d, a - b - c + d], 3)
    y = torch.stack([above, under], 2) / 2
    batch, down, _, right, _, width = y.shape
    return y.reshape(batch, 2 * down, 2 * right, width)


def _whole(letters):
    """The layer with the dense weights that the factors stand for, made first."""

    def layer(x, *factors):
        weight = jnp.einsum(letters, *(jax.lax.complex(f[..., 0], f[..., 1]) for f in factors))
        return ops.fourier_conv2d(x, jnp.stack([weight.real, weight.imag], -1))

    return layer


def _torch_factored(letters):
    """Sums as of neuraloperator's layer that reconstructs its weights from the factors."""

    def layer(x, *factors):
        import torch

        kept, low = len(factors[1]), len(factors[2])
        spectrum = torch.fft.fftshift(torch.fft.rfft2(x, dim=(1, 2)), dim=1)
        first = x.shape[1] // 2 - kept // 2
        weight = torch.einsum(letters, *map(torch.view_as_complex, factors))
        y = torch.einsum("byxi,yxio->byxo", spectrum[:, first : first + kept, :low], weight)
        whole = torch.zeros(*spectrum.shape[:-1], y.shape[-1], dtype=y.dtype)
        whole[:, first : first + kept, :low] = y
        return torch.fft.irfft2(torch.fft.ifftshift(whole, dim=1), s=x.shape[1:3], dim=(1, 2))

    return layer


@benchmark("factored_fourier")
def factored_fourier(quick: bool):
    """Fourier layers in Tucker's and CP's form, and the wavelets' inverse, against their sums."""
    for batch, side, width in ((1, 8, 8),) if quick else ((8, 64, 64), (2, 128, 64)):
        rows, columns = (4, 3) if quick else (32, 17)
        shape, title = (batch, side, side, width), f"{batch} x {side} x {side} x {width}"
        rank, thin = max(width // 2, 2), (max(rows // 2, 2), max(columns // 2, 2))
        tucker = [(*thin, rank, rank, 2), (rows, thin[0], 2), (columns, thin[1], 2)]
        cp = [(rank, 2), (rows, rank, 2), (columns, rank, 2)]
        for name, op, letters, shapes in (
            ("tucker", ops.tucker_fourier_conv2d, "pqrs,fp,gq,ir,os->fgio", tucker),
            ("cp", ops.cp_fourier_conv2d, "r,fr,gr,ir,or->fgio", cp),
        ):
            yield from op_rows(
                f"{name}_fourier_conv2d, {title}, {rows} x {columns} modes, rank {rank}",
                op,
                normal(shape, *shapes, (width, rank, 2), (width, rank, 2), scale=0.3),
                jax_peers={"the weights formed": _whole(letters)},
                torch_peers={"neuraloperator's sums": _torch_factored(letters)},
                tolerance=1e-3,
            )
        half = (batch, side // 2, side // 2, width)
        yield from op_rows(
            f"haar_idwt2, {title}",
            lambda low, detail: ops.haar_idwt2(low, [detail]),
            normal(half, (*half, 3)),
            torch_peers={"the sums in torch": _torch_unwavelet},
        )


def _torch_token_mixing(x):
    import torch

    return torch.fft.fft2(x, norm="ortho").real


@benchmark("fourier_token_mixing")
def fourier_token_mixing(quick: bool):
    """ops.fourier_token_mixing against torch's transform."""
    for batch, tokens, width in ((2, 8, 8),) if quick else ((8, 196, 384), (2, 1024, 256)):
        yield from op_rows(
            f"{batch} x {tokens} x {width}",
            ops.fourier_token_mixing,
            normal((batch, tokens, width)),
            torch_peers={"torch.fft": _torch_token_mixing},
        )
