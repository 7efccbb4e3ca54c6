"""Softmax-free attention as a module: a Gaussian kernel through landmarks pooled from the map."""

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax import ops
from scanmax.errors import UserError
from scanmax.models.layers import Conv, Dense, LayerNorm, activation, normal_init, partitioned
from scanmax.models.mixers.base import Mixer

LANDMARKS = ("conv", "average")


class Soft(Mixer):
    """out(P A^+ P^T v + conv(v)): SOFT, with SOFT++'s normalisation as an option.

    Queries are the keys, scaled by K ** -1/4. Landmarks come from the queries of the grid, one per
    `ratio` by `ratio` pixels; a grid that ratio does not divide is continued with zeros, where the
    released code leaves the rest out. Prefix tokens make no landmark, but read and are read through
    all of them. The convolution over the grid has one kernel per head, shared by its channels.

    Attributes:
      ratio: side of the windows that landmarks are pooled from (released: 8, 4, 2 by stage).
      landmarks: "conv", as released: a convolution with kernel and stride `ratio` within each head,
        of weights that the heads share, LayerNorm and GELU; or "average" over the window's pixels.
      normalize: the symmetric normalisation of SOFT++.
      conv_size: side of the kernel on v (released: 9, 5, 3 by stage); 0 leaves it out.
      num_steps: Newton steps of the pseudo-inverse.
    """

    formula: ClassVar[str] = "P A^+ P^T v, P = exp(-|q - landmarks|^2 / 2), A likewise"
    cost: ClassVar[str] = "T M"
    papers: ClassVar[tuple[str, ...]] = ("soft-softmax-free",)
    ratio: int = 2
    landmarks: str = "conv"
    normalize: bool = False
    conv_size: int = 3
    num_steps: int = 20

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        grid: tuple[int, int] | None = None,
        train: bool = False,
    ) -> Float[Array, "B T D"]:
        if self.is_causal:
            raise ValueError("soft has no causal form: its landmarks are pooled from all tokens.")
        if self.landmarks not in LANDMARKS:
            raise UserError(f"landmarks={self.landmarks!r} is not one of {', '.join(LANDMARKS)}")
        dim, grid = x.shape[-1], self.grid_or_line(x, grid)
        width = self.head_dim(dim)
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        shape, axes = (self.heads, width), ("embed", "heads", "kv")
        dense = {"use_bias": self.use_bias, **dtypes}
        query = Dense(shape, axes, name="query", **dense)(x) * width**-0.25
        value = Dense(shape, axes, name="value", **dense)(x)
        landmarks = self.pool(query[:, self.prefix_tokens :], grid)
        options = {"normalize": self.normalize, "num_steps": self.num_steps, "scale": 1.0}
        y = ops.soft_attention(query, value, landmarks, **options)
        kernel = None
        if self.conv_size:
            size = (self.conv_size, self.conv_size, 1, self.heads)
            init = partitioned(normal_init, (None, None, None, "heads"), (-4, -3, -2))
            kernel = self.param("conv_kernel", init, size, self.param_dtype).astype(self.dtype)
            y = y + self.filter(value, jnp.repeat(kernel, width, axis=-1), grid)

        def matrix():
            found = ops.soft_attention_matrix(query, landmarks, **options)
            if kernel is None:
                return found
            # every token on its own, as a value that all heads share
            tokens = jnp.eye(x.shape[1], dtype=self.dtype)[:, :, None, None]
            tokens = jnp.broadcast_to(tokens, (x.shape[1], x.shape[1], self.heads, 1))
            filtered = self.filter(tokens, kernel, grid)[..., 0]  # [S, T, H]
            return found + jnp.moveaxis(filtered, (0, 2), (2, 0))[None].astype(found.dtype)

        self.sow_attention(x.shape[1], matrix)
        return Dense(dim, ("heads", "kv", "embed"), contract=2, name="out", **dense)(y)

    @nn.nowrap
    def pool(self, query: Float[Array, "B T H K"], grid: tuple[int, int]):
        """The landmarks [B, M, H, K] of the grid's queries."""
        batch, _, heads, width = query.shape
        ratio, (rows, columns) = self.ratio, grid
        below, right = -rows % ratio, -columns % ratio
        maps = jnp.moveaxis(query.reshape(batch, rows, columns, heads, width), 3, 1)
        maps = maps.reshape(batch * heads, rows, columns, width)
        maps = jnp.pad(maps, ((0, 0), (0, below), (0, right), (0, 0)))
        if self.landmarks == "conv":
            dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
            conv = Conv(
                width,
                ratio,
                stride=ratio,
                padding="VALID",
                use_bias=False,
                name="landmark_conv",
                **dtypes,
            )
            norm = LayerNorm(1e-5, axis="kv", name="landmark_norm", **dtypes)
            pooled = activation("gelu")(norm(conv(maps)))
        else:
            shape = ((rows + below) // ratio, ratio, (columns + right) // ratio, ratio)
            maps = maps.reshape(batch * heads, *shape, width)
            counts = (
                jnp.minimum(ratio, size - ratio * jnp.arange(shape[axis]))
                for axis, size in ((0, rows), (2, columns))
            )
            counts = jnp.outer(*counts)[None, :, :, None].astype(maps.dtype)
            pooled = jnp.sum(maps, (2, 4)) / counts
        pooled = jax.lax.collapse(pooled, 1, 3)  # [B H, cells, K]
        pooled = pooled.reshape(batch, heads, *pooled.shape[1:])
        return jnp.moveaxis(pooled, 1, 2)

    @nn.nowrap
    def filter(self, value: Float[Array, "B T H V"], kernel, grid: tuple[int, int]):
        """The values of the grid under one kernel per channel; zero for prefix tokens."""
        batch, _, heads, width = value.shape
        maps = value[:, self.prefix_tokens :].reshape(batch, *grid, heads * width)
        y = jax.lax.collapse(ops.depthwise_conv2d(maps, kernel), 1, 3)
        y = y.reshape(*y.shape[:2], heads, width)
        return jnp.pad(y, ((0, 0), (self.prefix_tokens, 0), (0, 0), (0, 0)))
