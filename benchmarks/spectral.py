"""Mixing in the domain of frequencies, against torch, float32."""

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
