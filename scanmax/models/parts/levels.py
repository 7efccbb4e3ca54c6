"""What maps of several scales, one row of tokens, make of each other: ViT-CoMer's branch."""

import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from scanmax.models.layers import (
    BatchNorm,
    Conv,
    Dense,
    DropPath,
    LayerNorm,
    LayerScale,
    activation,
    constrain_last,
)
from scanmax.models.parts.conv_mlp import ConvMlp, on_levels
from scanmax.models.parts.conv_norm import halved
from scanmax.models.parts.deformable import DeformableAttention, pixel_middles

Shapes = tuple[tuple[int, int], ...]


def enlarged(x: Float[Array, "B Y X C"], times: int) -> Float[Array, "B V U C"]:
    """A map of so many times the sides, linear between the middles of its pixels."""
    batch, rows, columns, channels = x.shape
    shape = (batch, times * rows, times * columns, channels)
    return jax.image.resize(x, shape, "bilinear", precision="highest")


class ReceptiveFields(nn.Module):
    """Dense, depthwise 3x3 and 5x5 convolutions of half the channels each, Dense (MRFP).

    Every level has kernels and a batch norm of its own. As released there are two activations
    behind the norm; the paper draws one.

    Attributes:
      hidden: width between; even.
      norm_momentum: weight of the old averages at each training step.
      frozen_statistics: the norms keep their averages, in training too.

    Reference: vit-comer
    """

    hidden: int
    activation: str = "gelu"
    norm_momentum: float = 0.9
    frozen_statistics: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T D"], shapes: Shapes, train: bool = False
    ) -> Float[Array, "B T D"]:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        act = activation(self.activation)

        def filters(level: int):
            def of_map(y):
                halves = jnp.split(y, [self.hidden // 2], -1)
                for index, size in enumerate((3, 5)):
                    width = halves[index].shape[-1]
                    init = nn.initializers.normal((2 / size**2) ** 0.5)
                    own = {"groups": width, "kernel_init": init, **dtypes}
                    name = f"level{level}_conv{size}"
                    halves[index] = Conv(width, size, name=name, **own)(halves[index])
                norm = BatchNorm(
                    momentum=self.norm_momentum,
                    frozen_statistics=self.frozen_statistics,
                    name=f"level{level}_norm",
                    **dtypes,
                )
                return act(norm(jnp.concatenate(halves, -1), train))

            return of_map

        y = constrain_last(Dense(self.hidden, ("embed", "mlp"), name="fc1", **dtypes)(x), "mlp")
        y = act(on_levels([filters(level) for level in range(len(shapes))], y, shapes))
        return Dense(x.shape[-1], ("mlp", "embed"), name="fc2", **dtypes)(y)


class LevelMlp(nn.Module):
    """x + mlp(norm(x)); the MLP's hidden layer is convolved at every level, by one kernel.

    Attributes:
      ratio: the MLP's width over the model's.
      drop_path_rate: of the branch.
    """

    ratio: float = 0.25
    drop_path_rate: float = 0.0
    norm_epsilon: float = 1e-6
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T D"], shapes: Shapes, train: bool = False
    ) -> Float[Array, "B T D"]:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        y = LayerNorm(epsilon=self.norm_epsilon, name="norm", **dtypes)(x)
        y = ConvMlp(int(x.shape[-1] * self.ratio), name="mlp", **dtypes)(y, shapes, train)
        return x + DropPath()(y, self.drop_path_rate, train)


class LevelMixing(nn.Module):
    """Deformable attention over all levels, then a `LevelMlp`.

    Attributes:
      heads: of the attention, and
      points: that each reads of each level.
      ratio: width of its values over the model's.
      residual: what the attention reads is added to its queries; else it takes their place.
      mlp_ratio, drop_path_rate: of the `LevelMlp`.
    """

    heads: int
    points: int = 4
    ratio: float = 1.0
    residual: bool = True
    mlp_ratio: float = 0.25
    drop_path_rate: float = 0.0
    norm_epsilon: float = 1e-6
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        queries: Float[Array, "B T D"],
        x: Float[Array, "B T D"],
        shapes: Shapes,
        train: bool = False,
    ) -> Float[Array, "B T D"]:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        norm = {"epsilon": self.norm_epsilon, **dtypes}
        attend = DeformableAttention(
            self.heads, points=self.points, ratio=self.ratio, name="attention", **dtypes
        )
        y = attend(
            LayerNorm(name="query_norm", **norm)(queries),
            np.concatenate([pixel_middles(shape) for shape in shapes]),
            LayerNorm(name="key_norm", **norm)(x),
            shapes,
        )
        y = queries + y if self.residual else y
        mlp = LevelMlp(
            self.mlp_ratio, self.drop_path_rate, self.norm_epsilon, name="branch", **dtypes
        )
        return mlp(y, shapes, train)


class LevelsToTokens(nn.Module):
    """Tokens plus a scaled sum of what three levels make of each other, at the middle's size.

    Attributes:
      mixing: fields of a `LevelMixing`.
      layer_scale: initial value of the scale; at 0 the tokens start as they come.

    Reference: vit-comer
    """

    mixing: Mapping[str, Any]
    layer_scale: float = 0.0

    @nn.compact
    def __call__(
        self,
        tokens: Float[Array, "B N D"],
        levels: Float[Array, "B T D"],
        shapes: Shapes,
        train: bool = False,
    ) -> Float[Array, "B N D"]:
        y = LevelMixing(residual=False, name="mixing", **self.mixing)(levels, levels, shapes, train)
        fine, middle, coarse = jnp.split(y, np.cumsum([r * c for r, c in shapes])[:-1], 1)
        fine = halved(fine.reshape(fine.shape[0], *shapes[0], -1)).reshape(middle.shape)
        coarse = enlarged(coarse.reshape(coarse.shape[0], *shapes[2], -1), 2).reshape(middle.shape)
        dtypes = {name: self.mixing[name] for name in ("dtype", "param_dtype")}
        scale = LayerScale(self.layer_scale, name="layer_scale", **dtypes)
        return tokens + scale(fine + middle + coarse)


class TokensToLevels(nn.Module):
    """Three levels, the tokens added to the middle one, mixed again.

    Norms stand before the mixing and in it: what it adds to has passed the first.

    Attributes:
      mixing: fields of a `LevelMixing`.
      leads: a `LevelMlp` stands in front.

    Reference: vit-comer
    """

    mixing: Mapping[str, Any]
    leads: bool = False

    @nn.compact
    def __call__(
        self,
        levels: Float[Array, "B T D"],
        tokens: Float[Array, "B N D"],
        shapes: Shapes,
        train: bool = False,
    ) -> Float[Array, "B T D"]:
        y = with_tokens(levels, tokens, shapes)
        shared = ("drop_path_rate", "norm_epsilon", "dtype", "param_dtype")
        fields = {name: self.mixing[name] for name in shared}
        if self.leads:
            y = LevelMlp(self.mixing["mlp_ratio"], name="branch", **fields)(y, shapes, train)
        norm = {"epsilon": fields["norm_epsilon"]}
        norm |= {name: fields[name] for name in ("dtype", "param_dtype")}
        queries = LayerNorm(name="query_norm", **norm)(y)
        keys = LayerNorm(name="key_norm", **norm)(y)
        return LevelMixing(name="mixing", **self.mixing)(queries, keys, shapes, train)


def with_tokens(
    levels: Float[Array, "B T D"], tokens: Float[Array, "B N D"], shapes: Shapes
) -> Float[Array, "B T D"]:
    """The row of levels, tokens added to the second of them."""
    first = math.prod(shapes[0])
    fine, middle, coarse = jnp.split(levels, [first, first + tokens.shape[1]], 1)
    return jnp.concatenate([fine, middle + tokens, coarse], 1)
