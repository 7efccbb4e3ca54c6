"""Deformable attention, against torch's sampling of grids."""

import functools

import numpy as np

from benchmarks.harness import benchmark
from benchmarks.passes import normal, op_rows
from scanmax import ops


def _torch_sampling(values, locations, weights, *, shapes):
    """The sums of Deformable DETR's own check: grid_sample, level by level."""
    import torch

    batch, _, heads, width = values.shape
    length, total, first = locations.shape[1], 0.0, 0
    for level, (rows, columns) in enumerate(shapes):
        maps = values[:, first : first + rows * columns]
        first += rows * columns
        maps = maps.permute(0, 2, 3, 1).reshape(batch * heads, width, rows, columns)
        grid = 2 * locations[:, :, :, level].flip(-1) - 1
        read = torch.nn.functional.grid_sample(
            maps, grid.transpose(1, 2).flatten(0, 1), align_corners=False
        )
        share = weights[:, :, :, level].transpose(1, 2).flatten(0, 1)
        total = total + (read * share[:, None]).sum(-1)
    return total.reshape(batch, heads, width, length).permute(0, 3, 1, 2)


@benchmark("deformable_attention")
def deformable_attention(quick: bool):
    """ops.deformable_attention over ViT-CoMer's three scales against grid_sample in torch."""
    for side, heads, width in ((4, 2, 8),) if quick else ((16, 6, 64), (32, 6, 64)):
        shapes = ((2 * side, 2 * side), (side, side), (side // 2, side // 2))
        pixels = sum(rows * columns for rows, columns in shapes)
        points = (1, pixels, heads, len(shapes), 4)
        values, weights = normal((1, pixels, heads, width), points)
        locations = np.random.default_rng(1).uniform(size=(*points, 2)).astype(np.float32)
        peer = functools.partial(_torch_sampling, shapes=shapes)
        yield from op_rows(
            f"{pixels} pixels of 3 scales, {heads} heads of {width}",
            functools.partial(ops.deformable_attention, level_shapes=shapes),
            [values, locations, weights],
            torch_peers={"grid_sample": peer},
            tolerance=1e-3,
        )
