"""What mixes places by convolutions of functions: attention and focal modulation.

Both take sequences [B, T, C], maps [B, Y, X, C] and volumes [B, Z, Y, X, C].

Reference: kan-conv
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from scanmax import ops
from scanmax.errors import UserError, suggest
from scanmax.models.layers import Conv, fan_in_uniform, partitioned, zeros_init
from scanmax.models.parts.kan_layers import KanConvNorm
from scanmax.models.parts.map_norms import norm_and_bend
from scanmax.models.statistics import at_least_float32
from scanmax.ops.position import turn_pairs

ROTARIES = ("mixed", "axial")


class KanAttention(nn.Module):
    """y = norm(gamma x + softmax(q k^T) v), q, k and v each a `KanConvNorm` of x, of one head.

    Scores are not scaled, and gamma starts at 0.

    Attributes:
      kernel_size, dilation: of the three layers, which keep the size.
      inner_dim: channels between two linear maps, in which attention happens; None leaves both out.
      rotary: "mixed" turns pairs of channels of q and k by learned waves over the places, "axial"
        by fixed ones along each axis; None by none.
      rotary_base: waves run from 2 pi to 2 pi rotary_base.
      square: places are counted as the authors' code counts them, where the first has none and the
        others fill a square row by row, whatever the shape: rows of a map do not end where its own
        do.
      layer: other fields of `KanConvNorm`: kind, options, reduction, groups, norm_layer, affine.
        The norm of the sum is of the same name.

    Reference: kan-conv
    """

    kernel_size: int | tuple[int, ...] = 3
    dilation: int = 1
    inner_dim: int | None = None
    rotary: str | None = None
    rotary_base: float = 10.0
    square: bool = False
    layer: Mapping[str, Any] | None = None
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B ... C"], train: bool = False) -> Float[Array, "B ... C"]:
        x, channels, layer = x.astype(self.dtype), x.shape[-1], dict(self.layer or {})
        dim = channels if self.inner_dim is None else self.inner_dim
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        y = x if self.inner_dim is None else _linear(dim, "inner", channels, dtypes)(x)
        window = {"kernel_size": self.kernel_size, "dilation": self.dilation}
        tokens = []
        for name in ("query", "key", "value"):
            z = KanConvNorm(dim, name=name, **window, **layer, **dtypes)(y, train)
            tokens.append(jax.lax.collapse(z, 1, z.ndim - 1)[:, :, None])
        query, key, value = tokens
        if self.rotary is not None:
            angles = self.angles(x.shape[1:-1], dim)
            query, key = (turn_pairs(z, angles, "interleaved") for z in (query, key))
        y = ops.dot_product_attention(query, key, value, scale=1.0).reshape(y.shape)
        if self.inner_dim is not None:
            y = _linear(channels, "outer", dim, dtypes)(y)
        init = partitioned(zeros_init, (None,))
        gamma = self.param("gamma", init, (1,), self.param_dtype).astype(self.dtype)
        y = gamma.reshape((1,) * x.ndim) * x + y
        return norm_and_bend(y, train, **_norm_of(layer), **dtypes)

    @nn.nowrap
    def angles(self, sides: tuple[int, ...], dim: int) -> Float[Array, "1 T half"]:
        """How far each pair of channels is turned at each place."""
        if self.rotary not in ROTARIES:
            raise UserError(f"unknown rotary {self.rotary!r}; {suggest(self.rotary, ROTARIES)}")
        dtype = at_least_float32(self.dtype)
        places = square_places(int(np.prod(sides))) if self.square else grid_places(sides)
        axes = places.shape[1]
        if dim % (2 * axes):
            raise UserError(f"rotary={self.rotary!r} of {axes} axes turns pairs: {dim} channels")
        waves = float(self.rotary_base) ** (-np.arange(dim // (2 * axes)) * 2 * axes / dim)

        def start(key, shape, dtype):
            """Waves of every length along each of as many directions, at right angles."""
            turn = jnp.eye(axes, dtype=dtype)
            if self.rotary == "mixed":
                turn = jax.random.orthogonal(key, axes, dtype=dtype)
            each = turn[:, :, None] * jnp.asarray(waves, dtype)[None, None]
            return each.reshape(shape)

        shape = (axes, dim // 2)
        if self.rotary == "mixed":
            init = partitioned(start, (None, None))
            frequency = self.param("frequency", init, shape, self.param_dtype).astype(dtype)
        else:
            frequency = start(None, shape, dtype)
        places = jnp.asarray(places, dtype)
        return jnp.matmul(places, frequency, precision="highest")[None]


def grid_places(sides: tuple[int, ...]) -> np.ndarray:
    """[T, axes]: where each place is along each axis, the last axis first."""
    return np.stack([axis.ravel() for axis in np.indices(sides)[::-1]], -1)


def square_places(count: int) -> np.ndarray:
    """[T, 2]: column and row of all but the first of so many places, in rows of sqrt(T - 1)."""
    side = np.float32(max(count - 1, 1) ** 0.5)
    numbers = np.arange(count - 1, dtype=np.float32)
    rest = np.stack([np.fmod(numbers, side), np.floor(numbers / side)], -1)
    return np.concatenate([np.zeros((min(count, 1), 2), np.float32), rest])


class KanFocalModulation(nn.Module):
    """y = proj(norm(q * h(m))), m a sum of contexts of growing reach, by gates of each place.

        q, c_0, g = f(x),   c_l = depthwise_l(c_(l-1)),   m = s + g_L mean(s),  s = sum_l g_l c_l

    f, h and proj are `KanConvNorm` of one tap, each depthwise layer one of a group a channel.

    Attributes:
      focal_window, focal_factor: kernels have focal_window + focal_factor l taps a side, l from 0.
      focal_level: L, how many there are.
      normalize: m is divided by L + 1.
      post_norm: there is the norm, of the layers' name.
      full_kan: False has linear maps for f and h.
      by_function: depthwise layers mix channels, as in `KanConv` and in the authors' code of Gram's
        polynomials.
      layer: other fields of `KanConvNorm`: kind, options, reduction, norm_layer, affine. Depthwise
        layers have no reduction.

    Reference: kan-conv
    """

    focal_window: int = 3
    focal_level: int = 2
    focal_factor: int = 2
    normalize: bool = True
    post_norm: bool = True
    full_kan: bool = True
    by_function: bool = False
    layer: Mapping[str, Any] | None = None
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B ... C"], train: bool = False) -> Float[Array, "B ... C"]:
        x, dim, levels = x.astype(self.dtype), x.shape[-1], self.focal_level
        layer, places = dict(self.layer or {}), tuple(range(1, x.ndim - 1))
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}

        def pointwise(z, features, name, is_kan=True):
            if not is_kan:
                return _linear(features, name, dim, dtypes)(z)
            return KanConvNorm(features, 1, name=name, **layer, **dtypes)(z, train)

        widths = 2 * dim + levels + 1
        joined = pointwise(x, widths, "context", self.full_kan)
        query, context, gates = jnp.split(joined, (dim, 2 * dim), axis=-1)
        own = {key: value for key, value in layer.items() if key != "reduction"}
        own |= {"groups": dim, "by_function": self.by_function, **dtypes}
        total = jnp.zeros_like(context)
        for level in range(levels):
            size = self.focal_factor * level + self.focal_window
            context = KanConvNorm(dim, size, name=f"focal{level}", **own)(context, train)
            total += context * gates[..., level : level + 1]
        total += jnp.mean(total, places, keepdims=True) * gates[..., levels:]
        if self.normalize:
            total = total / (levels + 1)
        y = query * pointwise(total, dim, "modulator", self.full_kan)
        if self.post_norm:
            y = norm_and_bend(y, train, **_norm_of(layer), **dtypes)
        return pointwise(y, dim, "proj")


def _linear(features: int, name: str, fan_in: int, dtypes: dict[str, Any]) -> Conv:
    """A linear map of each place with torch's initial values."""
    inits = {"kernel_init": fan_in_uniform(), "bias_init": fan_in_uniform(fan_in=fan_in)}
    return Conv(features, 1, name=name, **inits, **dtypes)


def _norm_of(layer: Mapping[str, Any]) -> dict[str, Any]:
    """Of a layer's fields those of its norm, as `norm_and_bend` takes them."""
    names = {
        "kind": "norm_layer",
        "affine": "affine",
        "epsilon": "norm_epsilon",
        "momentum": "norm_momentum",
        "frozen_statistics": "frozen_statistics",
    }
    fields = {name: layer.get(own, getattr(KanConvNorm, own)) for name, own in names.items()}
    return {**fields, "bend": None}
