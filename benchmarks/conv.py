"""Convolutions against lax.conv and torch."""

import functools

import jax
import numpy as np

from benchmarks.harness import Row, benchmark, jax_contender, to_torch, torch_contender
from benchmarks.passes import with_gradients
from scanmax import ops


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
        yield Row(
            f"{title}, forward",
            ours=jax_contender("scanmax", ops.depthwise_conv2d, x, kernel),
            peers=[
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
                jax_contender("lax.conv", with_gradients(_lax_depthwise), *arrays),
                *(
                    torch_contender(name, backward, result=result)
                    for name, (_, backward, result) in layouts.items()
                ),
            ],
            tolerance=1e-5,
        )
