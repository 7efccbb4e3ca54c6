"""Deformable attention: equal to sums over all pixels, on their middles and beyond the edges."""

import jax
import jax.numpy as jnp
import numpy as np

from scanmax import ops
from scanmax.ops import reference
from scanmax.testing import OpCase, OpSuite


class DeformableAttentionTest(OpSuite):
    op = ops.deformable_attention
    reference = reference.deformable_attention
    cases = (
        OpCase(
            length=3,
            batch=(2,),
            heads=2,
            points=3,
            width=2,
            options={"level_shapes": ((2, 3), (1, 2))},
            full=True,
        ),
        OpCase(length=1, heads=1, points=1, width=3, options={"level_shapes": ((1, 1),)}),
        OpCase(
            length=5,
            batch=(1, 2),
            heads=3,
            points=4,
            width=1,
            options={"level_shapes": ((4, 4), (2, 2), (1, 1))},
        ),
    )
    errors = (
        ({"level_shapes": ((2, 3),)}, ValueError, r"have 6 pixels; values .* have 8"),
        ({"level_shapes": ((2, 0), (1, 8))}, ValueError, "level_shapes"),
        ({"locations": lambda x: x[..., :1]}, ValueError, r"\[\*B, T, H, L, P, 2\]"),
        ({"weights": lambda x: x[..., :1]}, ValueError, r"weights has shape .*\[\*B, T, H, L, P\]"),
    )

    def make_args(self, rng, case):
        shapes = case.options["level_shapes"]
        pixels = sum(rows * columns for rows, columns in shapes)
        points = (*case.batch, case.length, case.heads, len(shapes), case.points)
        return {
            "values": rng.normal(size=(*case.batch, pixels, case.heads, case.width)),
            # Some lie outside of the maps.
            "locations": rng.uniform(-0.3, 1.3, size=(*points, 2)),
            "weights": rng.normal(size=points),
        }


def test_on_its_middle_a_pixel_is_read_alone():
    shape = (3, 4)
    values = np.random.default_rng(0).normal(size=(12, 2, 3)).astype(np.float32)
    middles = (np.stack(np.mgrid[:3, :4], -1).reshape(12, 2) + 0.5) / np.array(shape)
    locations = np.broadcast_to(middles[:, None, None, None], (12, 2, 1, 1, 2)).astype(np.float32)
    y = ops.deformable_attention(
        values, locations, np.ones((12, 2, 1, 1), np.float32), level_shapes=(shape,)
    )
    np.testing.assert_allclose(y, values, rtol=1e-5, atol=1e-6)


def test_no_more_is_kept_for_more_points():
    def kept(points):
        arrays = [
            jax.ShapeDtypeStruct(shape, jnp.float32)
            for shape in ((64, 2, 8), (64, 2, 1, points, 2), (64, 2, 1, points))
        ]
        run = lambda *arrays: ops.deformable_attention(*arrays, level_shapes=((8, 8),)).sum()  # noqa: E731
        jaxpr = str(jax.make_jaxpr(jax.grad(run, (0, 1, 2)))(*arrays))
        # What a query reads of all points at once, [points, H, T, V].
        return f"f32[{points},2,64,8]" in jaxpr

    assert not kept(5)
