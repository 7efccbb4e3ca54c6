"""MAXIM's maps over places with their weights, and two maps that gate each other."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax import ops
from scanmax.models.layers import (
    Dense,
    Initializer,
    LayerNorm,
    activation,
    normal_init,
    ones_init,
    partitioned,
    zeros_init,
)


class PlaceMix(nn.Module):
    """`ops.block_mix` (axis "block") or `ops.grid_mix` ("grid") with weights of its own.

    Attributes:
      axis: "block" or "grid".
      size: rows and columns of a block, or of the grid's cells.
    """

    axis: str
    size: tuple[int, int]
    use_bias: bool = True
    bias_init: Initializer = zeros_init
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B Y X C"]) -> Float[Array, "B Y X C"]:
        size = tuple(self.size)
        places, bias = size[0] * size[1], None
        init = partitioned(normal_init, (None, None), (-2,), (-1,))
        kernel = self.param("kernel", init, (places, places), self.param_dtype)
        if self.use_bias:
            init = partitioned(self.bias_init, (None,))
            bias = self.param("bias", init, (places,), self.param_dtype).astype(self.dtype)
        arrays = (x.astype(self.dtype), kernel.astype(self.dtype), bias)
        if self.axis == "block":
            return ops.block_mix(*arrays, block_size=size)
        return ops.grid_mix(*arrays, grid_size=size)


class CrossGating(nn.Module):
    """Two maps of one size multiply each other: what each says of its places gates the other.

        y = y + W_y (v * g(u)),    x = x + W_x (u * g(v)) + y,
        u = gelu(V LN(x)),  v = gelu(V' LN(y))

    after a linear map of each, where g maps to twice the channels, mixes half of them over grids
    and half in blocks with biases that start at one, and maps back. Called, it gives (x, y): x has
    both, y goes on to the next scale.

    Attributes:
      features: channels of both results.
      block_size: rows and columns of a block.
      grid_size: rows and columns of a grid's cells.
      activation: "gelu_tanh" as released, or another of layers.ACTIVATIONS.

    Reference: maxim
    """

    features: int
    block_size: tuple[int, int] = (8, 8)
    grid_size: tuple[int, int] = (8, 8)
    activation: str = "gelu_tanh"
    use_bias: bool = True
    dropout_rate: float = 0.0
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "B Y X C"], y: Float[Array, "B Y X E"], train: bool = False
    ) -> tuple[Float[Array, "B Y X F"], Float[Array, "B Y X F"]]:
        if x.shape[:-1] != y.shape[:-1]:
            raise ValueError(f"y has shape {y.shape}; expected the size of x, {x.shape}.")
        act, dropout = (
            activation(self.activation),
            nn.Dropout(self.dropout_rate, deterministic=not train),
        )
        inputs, values, gates = {}, {}, {}
        for name, maps in (("x", x), ("y", y)):
            inputs[name] = self.dense(f"{name}_proj")(maps)
            z = self.norm(f"{name}_norm")(inputs[name])
            values[name] = act(self.dense(f"{name}_in")(z))
            z = self.norm(f"{name}_gate_norm")(values[name])
            z = act(self.dense(f"{name}_gate_in", 2)(z))
            far, near = jnp.split(z, 2, -1)
            far = self.mix("grid", self.grid_size, f"{name}_grid")(far)
            near = self.mix("block", self.block_size, f"{name}_block")(near)
            z = self.dense(f"{name}_gate_out")(jnp.concatenate([far, near], -1))
            gates[name] = dropout(z)
        y = inputs["y"] + dropout(self.dense("y_out")(values["y"] * gates["x"]))
        return inputs["x"] + dropout(self.dense("x_out")(values["x"] * gates["y"])) + y, y

    @nn.nowrap
    def dense(self, name: str, times: int = 1) -> Dense:
        return Dense(
            times * self.features,
            ("embed", "mlp"),
            use_bias=self.use_bias,
            name=name,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
        )

    @nn.nowrap
    def norm(self, name: str) -> LayerNorm:
        return LayerNorm(axis="mlp", name=name, dtype=self.dtype, param_dtype=self.param_dtype)

    @nn.nowrap
    def mix(self, axis: str, size: tuple[int, int], name: str) -> PlaceMix:
        return PlaceMix(
            axis,
            size,
            use_bias=self.use_bias,
            bias_init=ones_init,
            name=name,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
        )
