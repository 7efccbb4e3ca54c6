"""ConvShareViT's attention: tokens as maps, whose linear maps are convolutions that all share."""

import math
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax import ops
from scanmax.errors import UserError
from scanmax.models.layers import fan_in_uniform, partitioned, zeros_init
from scanmax.models.mixers.base import Mixer
from scanmax.ops.contract import spread

PADDINGS = ("valid", "same")


class ConvShare(Mixer):
    """Attention whose queries, keys, values and output are convolutions of each token as a map.

    Attributes:
      padding: "valid" has kernels as large as a token's map, each of which gives one number: it is
        attention with linear maps. "same" has three kernels a head, which make a map of each token
        again, and one that brings each head's back.
      kernel_size: side of the kernels of "same".
      token_grid: rows and columns of a token's map, of D in all; None is as square as can be.
    """

    formula: ClassVar[str] = "y = sum_h conv_h(softmax(q_h k_h^T / sqrt(D)) v_h), q_h = conv(x)"
    cost: ClassVar[str] = "T^2"
    causal_form: ClassVar[bool] = True
    papers: ClassVar[tuple[str, ...]] = ("convsharevit",)

    padding: str = "valid"
    kernel_size: int = 3
    token_grid: tuple[int, int] | None = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        grid: tuple[int, int] | None = None,
        train: bool = False,
    ) -> Float[Array, "B T D"]:
        batch, length, dim = x.shape
        if self.padding not in PADDINGS:
            raise UserError(f"padding={self.padding!r} is not one of {', '.join(PADDINGS)}")
        sides = self.token_grid or squarest(dim)
        if math.prod(sides) != dim:
            raise UserError(f"token_grid={sides}: a token has {dim} channels")
        maps = x.astype(self.dtype).reshape(batch, length, *sides)
        if self.padding == "valid":
            size, kernels, width = sides, 3 * dim, self.head_dim(dim)
        else:
            size, kernels, width = (self.kernel_size,) * 2, 3 * self.heads, dim
        axes = (None, None, "heads")
        y = self.convolved(maps, "input", axes, (*size, kernels))
        # of "valid" a token's numbers are the kernels, of "same" the places beside them
        y = y.reshape(batch, length, math.prod(y.shape[2:4]), kernels).swapaxes(-1, -2)
        y = y.reshape(batch, length, 3, self.heads, width)
        query, key, value = jnp.unstack(y, axis=2)
        self.sow_attention(
            length, lambda: ops.attention_matrix(query, key, is_causal=self.is_causal)
        )
        y = ops.dot_product_attention(query, key, value, is_causal=self.is_causal)
        if self.padding == "valid":
            y = y.reshape(batch, length, *sides)
            return self.convolved(y, "output", axes, (*size, dim)).reshape(x.shape)
        kernel = self.kernels("output", axes, (*size, self.heads), math.prod(size) * self.heads)
        maps = jnp.moveaxis(y.reshape(batch, length, self.heads, *sides), 2, -1)
        y = ops.conv2d(maps, kernel[..., None]).reshape(x.shape)
        return self.biased(y[..., None], "output")[..., 0]

    @nn.nowrap
    def kernels(self, name: str, axes, shape: tuple[int, ...], inputs: int) -> Array:
        init = partitioned(fan_in_uniform(fan_in=inputs), axes, inputs=(-3, -2), outputs=(-1,))
        return self.param(f"{name}_kernel", init, shape, self.param_dtype).astype(self.dtype)

    @nn.nowrap
    def biased(self, y: Array, name: str) -> Array:
        if not self.use_bias:
            return y
        init = partitioned(zeros_init, ("heads",))
        bias = self.param(f"{name}_bias", init, y.shape[-1:], self.param_dtype)
        return y + spread(bias.astype(self.dtype), y)

    @nn.nowrap
    def convolved(self, maps: Float[Array, "B T Y X"], name: str, axes, shape) -> Array:
        """The maps by kernels of that shape, with a bias each."""
        kernel = self.kernels(name, axes, shape, math.prod(shape[:2]))
        y = ops.shared_conv2d(maps, kernel, padding=self.padding.upper())
        return self.biased(y, name)


def squarest(number: int) -> tuple[int, int]:
    """Two factors of a number, the first the largest that is no larger than the second."""
    rows = next(n for n in range(math.isqrt(number), 0, -1) if number % n == 0)
    return rows, number // rows
