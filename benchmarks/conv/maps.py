"""Convolutions of maps against lax.conv and torch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.harness import Row, benchmark, jax_contender, to_torch, torch_contender
from benchmarks.passes import normal, op_rows, with_gradients
from scanmax import ops
from scanmax.ops import native


def _lax_depthwise(x, kernel):
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


def _torch_depthwise(x, kernel, cotangent, memory_format):
    """Forward, and forward with both gradients, in torch; results in our layout."""
    import torch

    x = to_torch(x.transpose(0, 3, 1, 2)).contiguous(memory_format=memory_format)
    kernel = to_torch(kernel.transpose(3, 2, 0, 1)).contiguous(memory_format=memory_format)
    cotangent = to_torch(cotangent.transpose(0, 3, 1, 2)).contiguous(memory_format=memory_format)
    x.requires_grad_(), kernel.requires_grad_()
    convolve = functools.partial(torch.nn.functional.conv2d, padding="same", groups=kernel.shape[0])

    def forward():
        with torch.no_grad():
            return convolve(x, kernel)

    def backward():
        y = convolve(x, kernel)
        return y, *torch.autograd.grad(y, (x, kernel), cotangent)

    def gradients_in_our_layout(output):
        y, dx, dkernel = output
        return (
            y.permute(0, 2, 3, 1),
            dx.permute(0, 2, 3, 1),
            dkernel.permute(2, 3, 1, 0),
        )

    return forward, backward, gradients_in_our_layout


@benchmark("depthwise")
def depthwise(quick: bool):
    """ops.depthwise_conv2d against lax.conv and torch (both memory layouts), 7x7, float32."""
    import torch

    shapes = [(8, 56, 56, 96), (4, 28, 28, 192), (4, 14, 14, 384), (4, 7, 7, 768)]
    for shape in shapes[-1:] if quick else shapes:
        rng = np.random.default_rng(0)
        x, cotangent = (rng.normal(size=shape).astype(np.float32) for _ in range(2))
        kernel = rng.normal(size=(7, 7, 1, shape[-1])).astype(np.float32)
        layouts = {
            name: _torch_depthwise(x, kernel, cotangent, memory_format)
            for name, memory_format in (
                ("torch, channels last", torch.channels_last),
                ("torch, contiguous", torch.contiguous_format),
            )
        }
        title = "x".join(map(str, shape))
        by_kernel = functools.partial(ops.depthwise_conv2d, implementation="cpu")
        compiles = native.compiler() is not None
        yield Row(
            f"{title}, forward",
            ours=jax_contender("scanmax", ops.depthwise_conv2d, x, kernel),
            peers=[
                *([jax_contender("cpu", by_kernel, x, kernel)] if compiles else []),
                jax_contender("lax.conv", _lax_depthwise, x, kernel),
                *(
                    torch_contender(name, forward, result=lambda y: y.permute(0, 2, 3, 1))
                    for name, (forward, _, _) in layouts.items()
                ),
            ],
            tolerance=1e-5,
        )
        arrays = (x, kernel, cotangent)
        yield Row(
            f"{title}, forward and gradients",
            ours=jax_contender("scanmax", with_gradients(ops.depthwise_conv2d), *arrays),
            peers=[
                *([jax_contender("cpu", with_gradients(by_kernel), *arrays)] if compiles else []),
                jax_contender("lax.conv", with_gradients(_lax_depthwise), *arrays),
                *(
                    torch_contender(name, backward, result=result)
                    for name, (_, backward, result) in layouts.items()
                ),
            ],
            tolerance=1e-5,
        )


def _torch_inception(x, *kernels):
    import torch

    groups = [kernel.shape[-1] for kernel in kernels]
    rest, *parts = x.permute(0, 3, 1, 2).split([x.shape[-1] - sum(groups), *groups], 1)
    parts = [
        torch.nn.functional.conv2d(
            part, kernel.permute(3, 2, 0, 1), padding="same", groups=part.shape[1]
        )
        for part, kernel in zip(parts, kernels)
    ]
    return torch.cat([rest, *parts], 1).permute(0, 2, 3, 1)


def _torch_spd(x, kernel):
    import torch

    *_, rows, columns, channels = x.shape
    y = x.permute(0, 3, 1, 2).reshape(-1, channels, rows // 2, 2, columns // 2, 2)
    y = y.permute(0, 3, 5, 1, 2, 4).reshape(-1, 4 * channels, rows // 2, columns // 2)
    y = torch.nn.functional.conv2d(y, kernel.permute(3, 2, 0, 1), padding=1)
    return y.permute(0, 2, 3, 1)


@benchmark("map_conv")
def map_conv(quick: bool):
    """InceptionNeXt's depthwise convolution and space to depth with one: timm's sums in torch."""
    for batch, side, width in ((1, 8, 16),) if quick else ((8, 56, 96), (4, 14, 384)):
        group, shape = width // 8, (batch, side, side, width)
        x, *kernels = normal(shape, (3, 3, 1, group), (1, 11, 1, group), (11, 1, 1, group))
        title = "x".join(map(str, shape))
        yield from op_rows(
            f"inception_depthwise_conv2d, {title}",
            ops.inception_depthwise_conv2d,
            [x, *kernels],
            torch_peers={"timm's sums": _torch_inception},
        )
        yield from op_rows(
            f"spd_conv, {title}",
            functools.partial(ops.spd_conv, block_order="rows"),
            [x, *normal((3, 3, 4 * width, width))],
            torch_peers={"timm's sums": _torch_spd},
        )


def _nchw(x):
    return x.permute(0, 3, 1, 2)


def _torch_cond(stride, groups):
    """timm's sums: one grouped convolution, the batch beside the channels."""
    import torch

    def convolve(x, kernels, weights):
        batch, rows, columns, channels = x.shape
        mixed = torch.einsum("bn,nyxio->boiyx", weights, kernels)
        x = _nchw(x).reshape(1, batch * channels, rows, columns)
        y = torch.nn.functional.conv2d(
            x, mixed.flatten(0, 1), padding=1, stride=stride, groups=batch * groups
        )
        return y.reshape(batch, -1, *y.shape[2:]).permute(0, 2, 3, 1)

    return convolve


def _torch_aggregation(x, weights):
    """The released kernel's sums, over unfolded neighbourhoods."""
    import torch

    batch, rows, columns, channels = x.shape
    groups, taps = weights.shape[-2:]
    near = torch.nn.functional.unfold(_nchw(x), 3, padding=1)
    near = near.reshape(batch, channels // groups, groups, taps, rows, columns)
    y = torch.einsum("bjgwyx,byxgw->byxjg", near, weights)
    return y.reshape(x.shape)


def _torch_oversized(x, column, row):
    import torch

    y, channels = _nchw(x), x.shape[-1]
    for taps, shape in ((column, (channels, 1, -1, 1)), (row, (channels, 1, 1, -1))):
        padding = [(size - 1) // 2 for size in taps.T.reshape(shape).shape[2:]]
        y = torch.nn.functional.conv2d(
            y, taps.T.reshape(shape), padding=tuple(padding), groups=channels
        )
    return y.permute(0, 2, 3, 1)


def _torch_transposed(x, kernel):
    import torch

    y = torch.nn.functional.conv_transpose2d(
        _nchw(x), kernel.permute(2, 3, 0, 1), stride=2, padding=1
    )
    return y.permute(0, 2, 3, 1)


def _torch_scale_aware(x, aggregation, *kernels):
    """The released code's convolutions, shuffle and grouped convolution."""
    import torch

    batch, rows, columns, channels = x.shape
    heads = [
        torch.nn.functional.conv2d(
            part, kernel.permute(3, 2, 0, 1), padding="same", groups=part.shape[1]
        )
        for part, kernel in zip(_nchw(x).chunk(len(kernels), 1), kernels)
    ]
    y = torch.stack(heads, 2).reshape(batch, channels, rows, columns)
    weights = aggregation.permute(1, 2, 0).flatten(0, 1)[..., None, None]
    y = torch.nn.functional.conv2d(y, weights, groups=channels // len(kernels))
    return y.permute(0, 2, 3, 1)


def _scale_aware(x, aggregation, *kernels):
    return ops.scale_aware_aggregation(ops.mixed_head_conv2d(x, kernels), aggregation)


@benchmark("mixed_conv")
def mixed_conv(quick: bool):
    """Kernels of each example or pixel, kernels of the whole map, and enlargement, against torch.

    The sums are those of timm (CondConv), of LSNet's, SMT's and ParCNetV2's code, and of WaveMix's.
    """
    shapes = ((2, 8, 16),) if quick else ((4, 56, 64), (8, 14, 320))
    for batch, side, width in shapes:
        title, shape = f"{batch} x {side} x {side} x {width}", (batch, side, side, width)
        for kind, groups in (("dense", 1), ("depthwise", width)):
            x, kernels, weights = normal(shape, (4, 3, 3, width // groups, width), (batch, 4))
            yield from op_rows(
                f"cond_conv2d, {kind}, {title}",
                functools.partial(ops.cond_conv2d, groups=groups),
                [x, 0.05 * kernels, weights],
                torch_peers={"timm's sums": _torch_cond(1, groups)},
            )
        yield from op_rows(
            f"small_kernel_aggregation, {title}",
            ops.small_kernel_aggregation,
            normal(shape, (batch, side, side, width // 8, 9)),
            torch_peers={"torch, unfolded": _torch_aggregation},
        )
        yield from op_rows(
            f"scale_aware_aggregation of mixed_head_conv2d, {title}",
            _scale_aware,
            normal(
                shape,
                (4, width // 4, 8),
                *((size, size, 1, width // 4) for size in (3, 5, 7, 9)),
            ),
            torch_peers={"SMT's sums": _torch_scale_aware},
        )
        taps = (2 * side - 1, width)
        yield from op_rows(
            f"oversized_conv2d, {title}",
            ops.oversized_conv2d,
            normal(shape, taps, taps),
            torch_peers={"torch conv2d": _torch_oversized},
        )
        yield from op_rows(
            f"conv_transpose2d, {title}",
            functools.partial(ops.conv_transpose2d, padding=1),
            normal(shape, (4, 4, width, width)),
            torch_peers={"torch conv_transpose2d": _torch_transposed},
        )


def _formed(x, channels, rows, columns, outputs):
    kernel = jnp.einsum("ir,jr,cr,ro->ijco", rows, columns, channels, outputs)
    dimensions = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=dimensions)


@benchmark("cp_conv2d")
def cp_conv2d(quick: bool):
    """ops.cp_conv2d against the convolution with the kernel that its factors make."""
    for side, width in ((8, 8),) if quick else ((56, 64), (14, 256)):
        arrays = normal(
            (4, side, side, width),
            (width, width),
            (3, width),
            (3, width),
            (width, width),
            scale=0.2,
        )
        yield from op_rows(
            f"{side} x {side} x {width}, {width} products",
            ops.cp_conv2d,
            arrays,
            jax_peers={"the kernel formed": _formed},
        )
