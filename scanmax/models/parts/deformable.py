"""Deformable attention with its maps: queries say where they read, and how much of each place."""

import math
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from scanmax import ops
from scanmax.errors import UserError
from scanmax.models.layers import Dense, zeros_init
from scanmax.models.statistics import at_least_float32


def pixel_middles(shape: tuple[int, int]) -> np.ndarray:
    """Row and column of the middle of each pixel, [Y X, 2], as fractions of the map.

    >>> pixel_middles((1, 2)).tolist()
    [[0.5, 0.25], [0.5, 0.75]]
    """
    rows, columns = np.indices(shape).reshape(2, -1)
    return np.stack([(rows + 0.5) / shape[0], (columns + 0.5) / shape[1]], -1)


class DeformableAttention(nn.Module):
    """Multi-scale deformable attention: y = W ops.deformable_attention(V x, r + W_o q, s(W_w q)).

    Offsets are in pixels of each level. They start as rays, one direction a head and one pixel
    further a point, and all points as equals.

    Attributes:
      heads: number of heads.
      points: that each head reads of each level.
      ratio: width of the values over the model's.

    Reference: vit-comer
    """

    heads: int
    points: int = 4
    ratio: float = 1.0
    use_bias: bool = True
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        queries: Float[Array, "B T D"],
        references: Float[Array, "T 2"],
        x: Float[Array, "B S E"],
        level_shapes: tuple[tuple[int, int], ...],
    ) -> Float[Array, "B T D"]:
        """What queries read of the pixels x of all levels around their own places."""
        dim, levels = queries.shape[-1], len(level_shapes)
        width = int(self.ratio * dim)
        if not width or width % self.heads:
            raise UserError(f"heads={self.heads} do not divide the values' width {width}")
        own = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        rows = (self.heads, width // self.heads)
        xavier = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform", (0,), (1, 2))
        values = Dense(
            rows,
            ("embed", "heads", "kv"),
            use_bias=self.use_bias,
            kernel_init=xavier,
            name="value",
            **own,
        )(x)
        places = (self.heads, levels, self.points)
        # The start is in the bias: there is one whatever use_bias says.
        offsets = Dense(
            (*places, 2),
            ("embed", "heads", None, None, None),
            kernel_init=zeros_init,
            bias_init=self.rays,
            name="offsets",
            **own,
        )(queries)
        logits = Dense(
            places,
            ("embed", "heads", None, None),
            use_bias=self.use_bias,
            kernel_init=zeros_init,
            name="weights",
            **own,
        )(queries)
        weights = nn.softmax(logits, (-2, -1))
        # Half precision tells no pixels of large maps apart.
        offsets = offsets.astype(at_least_float32(offsets.dtype))
        sides = jnp.asarray(level_shapes, offsets.dtype).reshape(1, 1, 1, levels, 1, 2)
        centres = jnp.asarray(references, offsets.dtype).reshape(1, -1, 1, 1, 1, 2)
        y = ops.deformable_attention(
            values, centres + offsets / sides, weights, level_shapes=tuple(level_shapes)
        )
        out = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform", (0, 1), (2,))
        return Dense(
            dim,
            ("heads", "kv", "embed"),
            contract=2,
            use_bias=self.use_bias,
            kernel_init=out,
            name="out",
            **own,
        )(y)

    @nn.nowrap
    def rays(self, key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
        """Offsets [H, L, P, 2]: point p of a head lies p + 1 pixels along its direction."""
        heads, _, points, _ = shape
        angles = np.arange(heads) * (2 * math.pi / heads)
        directions = np.stack([np.sin(angles), np.cos(angles)], -1)
        directions /= np.abs(directions).max(-1, keepdims=True)
        rays = directions[:, None, None] * np.arange(1, points + 1)[:, None]
        return jnp.asarray(np.broadcast_to(rays, shape), dtype)
