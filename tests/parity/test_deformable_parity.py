"""Deformable attention against torch's sampling of grids, as Deformable DETR's own check has it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tolerances

from scanmax import ops
from scanmax.testing import compare

pytestmark = pytest.mark.parity
SHAPES = ((6, 4), (3, 2), (1, 1))


def sampled(torch, values, locations, weights):
    """Sums over levels and points of what grid_sample reads; there columns come first."""
    batch, _, heads, width = values.shape
    length, total, first = locations.shape[1], 0.0, 0
    for level, (rows, columns) in enumerate(SHAPES):
        maps = values[:, first : first + rows * columns]
        first += rows * columns
        maps = maps.permute(0, 2, 3, 1).reshape(batch * heads, width, rows, columns)
        grid = 2 * locations[:, :, :, level].flip(-1) - 1
        grid = grid.transpose(1, 2).flatten(0, 1)
        read = torch.nn.functional.grid_sample(
            maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False
        )
        share = weights[:, :, :, level].transpose(1, 2).flatten(0, 1)
        total = total + (read * share[:, None]).sum(-1)
    return total.reshape(batch, heads, width, length).permute(0, 3, 1, 2)


def test_it_is_torchs_sampling_and_its_gradients(peers):
    torch, rng = peers.torch, np.random.default_rng(0)
    points = (2, 5, 3, len(SHAPES), 4)
    arrays = [
        rng.normal(size=(2, sum(a * b for a, b in SHAPES), 3, 8)),
        rng.uniform(-0.2, 1.2, size=(*points, 2)),
        rng.normal(size=points),
    ]
    arrays = [array.astype(np.float32) for array in arrays]
    tensors = [torch.tensor(array, requires_grad=True) for array in arrays]
    y = sampled(torch, *tensors)
    cotangent = rng.normal(size=y.shape).astype(np.float32)
    (y * torch.tensor(cotangent)).sum().backward()

    def loss(*arrays):
        y = ops.deformable_attention(*arrays, level_shapes=SHAPES)
        return jnp.sum(y * cotangent), y

    grads, actual = jax.grad(loss, (0, 1, 2), has_aux=True)(*map(jnp.asarray, arrays))
    expected = [y.detach().numpy(), *(tensor.grad.numpy() for tensor in tensors)]
    compare.assert_relative([actual, *grads], expected, tolerances.PARITY)
