"""Gates between maps, shifts, and kernels merged of many, against the same sums in torch."""

import functools
import itertools

from benchmarks.harness import benchmark
from benchmarks.passes import normal, op_rows
from scanmax import ops


def _recursive(x, gates, *kernels):
    return ops.recursive_gate(x, gates, kernels)


def _torch_recursive(x, gates, *kernels):
    """HorNet's sums, over pixels in a row."""
    own, *others = gates.split([x.shape[-1], *(kernel.shape[1] for kernel in kernels)], -1)
    x = x * own
    for kernel, gate in zip(kernels, others):
        x = (x @ kernel) * gate
    return x


@benchmark("recursive_gate")
def recursive_gate(quick: bool):
    """ops.recursive_gate at the first and third stage of HorNet-T against its sums in torch."""
    for batch, side, width, order in (
        ((1, 4, 8, 2),) if quick else ((8, 56, 64, 2), (8, 14, 256, 4))
    ):
        widths = [width // 2 ** (order - 1 - k) for k in range(order)]
        shapes = [(batch, side**2, widths[0]), (batch, side**2, sum(widths))]
        shapes += itertools.pairwise(widths)
        yield from op_rows(
            f"{batch} x {side} x {side} x {width}, order {order}",
            _recursive,
            normal(*shapes, scale=0.5),
            torch_peers={"HorNet's sums": _torch_recursive},
        )


def _torch_zzw(z, kernel, fast):
    """The released code's: products of maps, channels first."""
    import torch

    y = torch.matmul((z * kernel).permute(0, 3, 1, 2), fast.permute(0, 3, 1, 2))
    return y.permute(0, 2, 3, 1)


def _torch_shift(x):
    """SCNet's: each eighth of the channels laid into a map of zeros."""
    import torch

    rows, columns, share = x.shape[1], x.shape[2], x.shape[3] // 8
    y = torch.zeros_like(x)
    offsets = ((-1, 0), (1, 0), (0, -1), (0, 1), (1, 1), (1, -1), (-1, 1), (-1, -1))
    for index, (down, right) in enumerate(offsets):
        own = slice(index * share, (index + 1) * share)
        into = (
            slice(max(-down, 0), rows - max(down, 0)),
            slice(max(-right, 0), columns - max(right, 0)),
        )
        of = (
            slice(max(down, 0), rows - max(-down, 0)),
            slice(max(right, 0), columns - max(-right, 0)),
        )
        y[:, into[0], into[1], own] = x[:, of[0], of[1], own]
    return y


def _torch_kernel(filters, weights, bias, offset, context):
    h = filters[0]
    for wave, matrix, own, seen in zip(filters[1:], weights, bias, context):
        h = wave * (h @ matrix + own) + offset[..., None]
        h = (h.detach() + 0.1 * h / h.square().sum((0, 1), keepdim=True).sqrt()) * seen
    return h


@benchmark("gated_maps")
def gated_maps(quick: bool):
    """ops.hyper_zzw, hyper_kernel and shift_eight against the same products and slices in torch."""
    for batch, side, width in ((1, 6, 8),) if quick else ((4, 32, 128), (4, 64, 64)):
        shape = (batch, side, side, width)
        title = f"{batch} x {side} x {side} x {width}"
        yield from op_rows(
            f"hyper_zzw, {title}",
            ops.hyper_zzw,
            normal(shape, shape[1:], shape, scale=0.5),
            torch_peers={"products of maps": _torch_zzw},
        )
        shapes = ((3, 9, 9, width), (2, width, width), (2, width), (9, 9), (2, 9, 9, width))
        yield from op_rows(
            f"hyper_kernel, 9 x 9 x {width}, 2 layers",
            ops.hyper_kernel,
            normal(*shapes, scale=0.5),
            torch_peers={"the authors' sums": _torch_kernel},
        )
        yield from op_rows(
            f"shift_eight, {title}",
            ops.shift_eight,
            normal(shape),
            torch_peers={"slices": _torch_shift},
        )


SIZES, DILATIONS = (5, 7, 3, 3, 3), (1, 2, 3, 4, 5)


def _branches(x, kernel, *branches):
    y = ops.depthwise_conv2d(x, kernel)
    for branch, dilation in zip(branches, DILATIONS):
        y = y + ops.depthwise_conv2d(x, branch, dilation=dilation)
    return y


def _merged(x, kernel, *branches):
    merged = ops.merge_dilated_kernels(kernel, branches, dilations=DILATIONS)
    return ops.depthwise_conv2d(x, merged)


def _torch_branches(x, *kernels):
    """UniRepLKNet's branches as it trains them, without their norms."""
    import torch

    x, y = x.permute(0, 3, 1, 2), 0.0
    for kernel, dilation in zip(kernels, (1, *DILATIONS)):
        y = y + torch.nn.functional.conv2d(
            x, kernel.permute(3, 2, 0, 1), padding="same", dilation=dilation, groups=x.shape[1]
        )
    return y.permute(0, 2, 3, 1)


@benchmark("merged_kernels")
def merged_kernels(quick: bool):
    """UniRepLKNet's six kernels as one of 13 x 13 against each by itself, here and in torch."""
    for batch, side, width in ((1, 14, 4),) if quick else ((4, 28, 160), (4, 14, 320)):
        shapes = [(batch, side, side, width), *((size, size, 1, width) for size in (13, *SIZES))]
        arrays = normal(*shapes)
        yield from op_rows(
            f"{batch} x {side} x {side} x {width}",
            _merged,
            arrays,
            jax_peers={"six kernels": _branches},
            torch_peers={"six kernels in torch": _torch_branches},
            name="one kernel",
        )


def _torch_shared(x, kernel, *, padding):
    import torch

    batch, tokens, rows, columns = x.shape
    y = torch.nn.functional.conv2d(
        x.reshape(batch * tokens, 1, rows, columns),
        kernel.permute(2, 0, 1)[:, None],
        padding=padding.lower(),
    )
    return y.permute(0, 2, 3, 1).unflatten(0, (batch, tokens))


@benchmark("shared_conv2d")
def shared_conv2d(quick: bool):
    """ops.shared_conv2d of tokens as maps, both paddings, against torch's convolution."""
    for batch, tokens, side in ((1, 3, 4),) if quick else ((8, 65, 14), (8, 197, 8)):
        for padding, size, count in (("SAME", 3, 9), ("VALID", side, side**2)):
            yield from op_rows(
                f"{batch} x {tokens} tokens of {side} x {side}, {count} kernels, {padding}",
                functools.partial(ops.shared_conv2d, padding=padding),
                normal((batch, tokens, side, side), (size, size, count)),
                torch_peers={"torch conv2d": functools.partial(_torch_shared, padding=padding)},
            )
