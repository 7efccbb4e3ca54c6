"""Convolution in the mixer: convolved projections, the additive mixer, and one large kernel."""

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax import ops
from scanmax.errors import UserError
from scanmax.models.layers import (
    BatchNorm,
    Conv,
    fan_in_uniform,
    normal_init,
    partitioned,
    zeros_init,
)
from scanmax.models.mixers.base import Mixer

SCALES = ("model", "head")
SHARED_BY = ("all", "head", "channel")


class _OnGrid(Mixer):
    """What mixers of convolutions share: the map behind the prefix, layers, no causal form."""

    @nn.nowrap
    def maps(self, x: Float[Array, "B T D"], grid):
        """(prefix [B, P, D], map [B, Y, X, D])."""
        if self.is_causal:
            raise ValueError(f"{type(self).__name__} has no causal form: it convolves a grid.")
        grid = self.grid_or_line(x, grid)
        prefix, tokens = x[:, : self.prefix_tokens], x[:, self.prefix_tokens :]
        return prefix, tokens.reshape(x.shape[0], *grid, x.shape[-1])

    @property
    def dtypes(self) -> dict[str, Any]:
        """Dtypes that every layer takes."""
        return {"dtype": self.dtype, "param_dtype": self.param_dtype}

    @nn.nowrap
    def depthwise(self, channels: int, size: int, name: str, stride: int = 1, use_bias=True):
        """A depthwise convolution with size // 2 zeros on every side, as torch starts it."""
        init = fan_in_uniform(fan_in=size * size)
        return Conv(
            channels,
            size,
            stride=stride,
            padding=size // 2,
            groups=channels,
            use_bias=use_bias,
            kernel_init=init,
            name=name,
            **self.dtypes,
        )


class _BatchNormed(_OnGrid):
    """Those with batch norms."""

    norm_momentum: float = 0.9
    frozen_statistics: bool = False

    @nn.nowrap
    def statistics_norm(self, name: str) -> BatchNorm:
        """A batch norm."""
        momentum, frozen = self.norm_momentum, self.frozen_statistics
        return BatchNorm(momentum=momentum, frozen_statistics=frozen, name=name, **self.dtypes)


class ConvProjection(_BatchNormed):
    """CvT's attention: queries, keys and values are convolved before they are projected.

    Each is a depthwise convolution without bias, a batch norm, and a product; keys and values are
    convolved with a stride. Prefix tokens stay out of the convolutions and are projected like the
    rest, so that they read and are read by all.

    Attributes:
      kernel_size: side of the kernels.
      stride: of the convolutions of keys and values.
      scale: "model" divides the logits by the root of the model's width, as the released code
        does; "head" by that of a head, as the paper's equation.
      qkv_bias: biases of the three products; None is as use_bias.
      norm_momentum: weight of the old averages of batch norms at each training step.
      frozen_statistics: batch norms keep their averages, in training too.
    """

    formula: ClassVar[str] = (
        "y = softmax(q k^T / sqrt D) v,  q, k, v = W BN(DW(x)), DW of stride 1, 2, 2"
    )
    cost: ClassVar[str] = "T^2 / 4"
    papers: ClassVar[tuple[str, ...]] = ("cvt",)

    kernel_size: int = 3
    stride: int = 2
    scale: str = "model"
    qkv_bias: bool | None = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        grid: tuple[int, int] | None = None,
        train: bool = False,
    ) -> Float[Array, "B T D"]:
        if self.scale not in SCALES:
            raise UserError(f"scale={self.scale!r} is not one of {', '.join(SCALES)}")
        prefix, maps = self.maps(x, grid)
        dim, width = x.shape[-1], self.head_dim(x.shape[-1])
        projected = []
        for name, stride in (("query", 1), ("key", self.stride), ("value", self.stride)):
            conv = self.depthwise(dim, self.kernel_size, f"{name}_conv", stride, use_bias=False)
            norm = self.statistics_norm(f"{name}_norm")
            y = jax.lax.collapse(norm(conv(maps), train), 1, 3).astype(x.dtype)
            y = jnp.concatenate([prefix, y], axis=1)
            axes = ("embed", "heads", "kv")
            dense = self.dense((self.heads, width), axes, name, use_bias=self.qkv_bias)
            projected.append(dense(y))
        scale = (dim if self.scale == "model" else width) ** -0.5
        y = ops.dot_product_attention(*projected, scale=scale)
        return self.dense(dim, ("heads", "kv", "embed"), "out", contract=2)(y)


class ConvAdditive(_BatchNormed):
    """CAS-ViT's mixer: gated queries and keys are added, convolved, and multiplied by the values.

    It has no heads: `heads` is not read. Prefix tokens lie outside the map, and a convolution of
    one is its middle tap; they take part in the means of the channel gates, through which they read
    every token and every token reads them. Batch statistics count them too.

    Attributes:
      qkv_bias: biases of queries, keys and values; none in the released code.
      norm_momentum: weight of the old averages of batch norms at each training step.
      frozen_statistics: batch norms keep their averages, in training too.
    """

    formula: ClassVar[str] = (
        "y = DW(DW(phi(q) + phi(k)) * v),  phi(q) = g sigmoid(W mean(g)), g = q sigmoid(s(q))"
    )
    cost: ClassVar[str] = "T"
    papers: ClassVar[tuple[str, ...]] = ("cas-vit",)

    qkv_bias: bool = False

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        grid: tuple[int, int] | None = None,
        train: bool = False,
    ) -> Float[Array, "B T D"]:
        self.maps(x, grid)
        grid, dim = self.grid_or_line(x, grid), x.shape[-1]
        qkv = self.dense((3, dim), ("embed", None, "mlp"), "qkv", use_bias=self.qkv_bias)(x)
        query, key, value = (qkv[:, :, index] for index in range(3))
        gates = {
            name: self.gates(name, tokens, grid, train)
            for name, tokens in (("query", query), ("key", key))
        }
        kernel, bias = self.filter(dim)

        def mixed(tokens, spatial):
            return ops.conv_additive_attention(
                *tokens,
                kernel,
                bias,
                query_spatial=spatial[0],
                key_spatial=spatial[1],
                query_channel=gates["query"][1],
                key_channel=gates["key"][1],
            )

        spatial = tuple(gate for gate, _ in gates.values())
        y = self.by_part(mixed, ((query, key, value), spatial), grid)
        return self.by_part(self.depthwise(dim, 3, "out"), (y,), grid)

    @nn.nowrap
    def by_part(self, function, arrays, grid):
        """function on the map of the tokens, and on a map of one pixel for each prefix token."""

        def parts(x):
            first, rest = x[:, : self.prefix_tokens], x[:, self.prefix_tokens :]
            return first, rest.reshape(x.shape[0], *grid, x.shape[-1])

        y = function(*jax.tree.map(lambda x: parts(x)[1], arrays))
        outputs = [jax.lax.collapse(y, 1, 3)]
        for index in range(self.prefix_tokens - 1, -1, -1):
            pixel = jax.tree.map(lambda x, i=index: x[:, None, i : i + 1], arrays)
            outputs.insert(0, function(*pixel)[:, 0])
        return jnp.concatenate(outputs, axis=1)

    @nn.nowrap
    def gates(self, name: str, x: Float[Array, "B T D"], grid, train: bool):
        """Logits of the spatial gate [B, T, 1] and of the channel gate [B, D] of q or k."""
        dim = x.shape[-1]
        y = self.by_part(self.depthwise(dim, 3, f"{name}_conv"), (x,), grid)
        y = jax.nn.relu(self.statistics_norm(f"{name}_norm")(y, train))
        spatial = self.dense(1, ("mlp", None), f"{name}_spatial", use_bias=False)(y)
        mean = jnp.mean(x * jax.nn.sigmoid(spatial), axis=1)
        return spatial, self.dense(dim, ("mlp", None), f"{name}_channel", use_bias=False)(mean)

    @nn.nowrap
    def filter(self, dim: int) -> tuple[Array, Array]:
        """Kernel and bias of the convolution of the added queries and keys."""
        init, axes = fan_in_uniform(fan_in=9), (None, None, None, "conv_out")
        taps = partitioned(init, axes, (-4, -3, -2))
        kernel = self.param("kernel", taps, (3, 3, 1, dim), self.param_dtype)
        bias = self.param("bias", partitioned(zeros_init, axes[-1:]), (dim,), self.param_dtype)
        return kernel.astype(self.dtype), bias.astype(self.dtype)


class Lkca(_OnGrid):
    """One large-kernel convolution in the place of attention: values, kernel, output projection.

    There are no queries and keys: the weights depend on the offset between two pixels alone. Prefix
    tokens have no offset: each reads the mean of all values, and every token adds their values by
    a learned weight each.

    Attributes:
      kernel_size: side of the kernel, odd; 27 lets every pixel of a 14 x 14 map read every other,
        as the paper's table does.
      shared_by: who has a kernel in common: "all" channels, as the paper's single table reads,
        those of a "head", or none ("channel"). Which the authors use is not settled.
    """

    formula: ClassVar[str] = "y_t = sum_s w(s - t) v_s"
    cost: ClassVar[str] = "T k^2"
    papers: ClassVar[tuple[str, ...]] = ("lkca",)

    kernel_size: int = 27
    shared_by: str = "all"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        grid: tuple[int, int] | None = None,
        train: bool = False,
    ) -> Float[Array, "B T D"]:
        if self.shared_by not in SHARED_BY:
            raise UserError(f"shared_by={self.shared_by!r} is not one of {', '.join(SHARED_BY)}")
        self.maps(x, grid)
        grid, dim, width = self.grid_or_line(x, grid), x.shape[-1], self.head_dim(x.shape[-1])
        axes = ("embed", "heads", "kv")
        value = self.dense((self.heads, width), axes, "value")(x)
        kernel = self.kernel(width)
        first, rest = value[:, : self.prefix_tokens], value[:, self.prefix_tokens :]
        maps = rest.reshape(x.shape[0], *grid, self.heads, width)
        y = ops.lkca(maps, kernel).reshape(rest.shape)
        weights = None
        if self.prefix_tokens:
            shape, init = (self.prefix_tokens,), partitioned(normal_init, (None,))
            weights = self.param("prefix", init, shape, self.param_dtype).astype(self.dtype)
            mean = jnp.mean(value, axis=1, keepdims=True)
            added = jnp.einsum("p,bphv->bhv", weights, first)[:, None]
            y = jnp.concatenate([jnp.broadcast_to(mean, first.shape), y + added], axis=1)
        if self.shared_by != "channel":
            self.sow_attention(x.shape[1], lambda: self.matrix(x, kernel, weights, grid))
        return self.dense(dim, ("heads", "kv", "embed"), "out", contract=2)(y)

    @nn.nowrap
    def kernel(self, width: int) -> Array:
        size = (self.kernel_size, self.kernel_size)
        if self.shared_by == "all":
            shape, axes = size, (None, None)
        elif self.shared_by == "head":
            shape, axes = (*size, self.heads), (None, None, "heads")
        else:
            shape, axes = (*size, self.heads, width), (None, None, "heads", "kv")
        init = fan_in_uniform(fan_in=self.kernel_size**2)
        init = partitioned(init, axes, range(-len(shape), 2 - len(shape)))
        return self.param("kernel", init, shape, self.param_dtype).astype(self.dtype)

    @nn.nowrap
    def matrix(self, x, kernel, weights, grid) -> Float[Array, "B H T T"]:
        """The weights between tokens, the same for every example."""
        B, T, P = *x.shape[:2], self.prefix_tokens
        matrix = ops.lkca_matrix(kernel, grid)
        if P:
            columns = jnp.broadcast_to(weights[None, None], (len(matrix), T - P, P))
            rows = jnp.full((len(matrix), P, T), 1 / T, matrix.dtype)
            matrix = jnp.concatenate([rows, jnp.concatenate([columns, matrix], 2)], 1)
        return jnp.broadcast_to(matrix[None], (B, self.heads, T, T))
