"""Sentences and grids of two of them, against the same sums in torch."""

import functools

import jax.numpy as jnp

from benchmarks.harness import benchmark
from benchmarks.passes import normal, op_rows
from scanmax import ops


def _torch_pairwise(x, kernel):
    import torch

    first, second = x[:, ::2], x[:, 1::2]
    gate = torch.sigmoid(torch.cat([first, second], -1) @ kernel)
    return gate * first + (1 - gate) * second


@benchmark("gated_pairwise_pool")
def gated_pairwise_pool(quick: bool):
    """ops.gated_pairwise_pool against the same sums in torch."""
    for tokens, width in ((8, 4),) if quick else ((512, 256),):
        yield from op_rows(
            f"8 x {tokens} x {width}",
            ops.gated_pairwise_pool,
            normal((8, tokens, width), (2 * width, width), scale=0.3),
            torch_peers={"the sums in torch": _torch_pairwise},
        )


def _torch_causal_grid(x, kernel):
    """The released code's: a square kernel whose lower rows are masked."""
    import torch

    full = torch.cat([kernel, torch.zeros_like(kernel[:-1])]).permute(3, 2, 0, 1)
    padding = (full.shape[2] // 2, full.shape[3] // 2)
    y = torch.nn.functional.conv2d(x.permute(0, 3, 1, 2), full, padding=padding)
    return y.permute(0, 2, 3, 1)


@benchmark("causal_conv2d")
def causal_conv2d(quick: bool):
    """ops.causal_conv2d against a masked square kernel in torch."""
    for side, width in ((6, 4),) if quick else ((40, 128),):
        yield from op_rows(
            f"4 x {side} x {side} x {width} to 32, 2 x 3 taps",
            ops.causal_conv2d,
            normal((4, side, side, width), (2, 3, width, 32), scale=0.3),
            torch_peers={"masked 3 x 3": _torch_causal_grid},
        )


def _sentence(x, kernel, *, k):
    """A layer of the sentence network: wide convolution, pairs of rows added, the k largest."""
    rows = ops.fold_rows(ops.wide_conv1d(x, kernel))
    return jnp.tanh(ops.k_max_pool(rows.reshape(*rows.shape[:2], -1), k))


def _torch_sentence(x, kernel, *, k):
    import torch

    taps, rows, maps, outputs = kernel.shape
    y = x.permute(0, 2, 3, 1).flatten(1, 2)
    weights = kernel.permute(1, 3, 2, 0).reshape(rows * outputs, maps, taps)
    y = torch.nn.functional.conv1d(y, weights, padding=taps - 1, groups=rows)
    y = y.reshape(len(x), rows // 2, 2, outputs, -1).sum(2).flatten(1, 2)
    places = y.topk(k, -1).indices.sort(-1).values
    return torch.tanh(y.gather(-1, places)).transpose(1, 2)


@benchmark("sentence_layer")
def sentence_layer(quick: bool):
    """Wide convolution, folding and k-max pooling at the sizes of DCNN against torch's."""
    for batch, tokens, rows, maps, outputs, taps, k in (
        ((2, 8, 4, 1, 2, 3, 3),)
        if quick
        else ((64, 56, 48, 1, 6, 7, 28), (64, 28, 24, 6, 14, 5, 4))
    ):
        yield from op_rows(
            f"{batch} x {tokens} tokens, {rows} x {maps} to {rows // 2} x {outputs}, {taps} taps",
            functools.partial(_sentence, k=k),
            normal((batch, tokens, rows, maps), (taps, rows, maps, outputs), scale=0.3),
            torch_peers={"the sums in torch": functools.partial(_torch_sentence, k=k)},
        )
