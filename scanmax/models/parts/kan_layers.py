"""Convolutions of Kolmogorov and Arnold as networks use them: with a base, a norm and a bend."""

import dataclasses
import functools
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax import ops
from scanmax.errors import UserError, suggest
from scanmax.models.layers import (
    Conv,
    activation,
    ones_init,
    partitioned,
    zeros_init,
)
from scanmax.models.parts.kan import KanConv
from scanmax.models.parts.kan_experts import RoutedExamples
from scanmax.models.parts.map_norms import norm_and_bend
from scanmax.ops.contract import spread
from scanmax.ops.conv.axes import conv_over_axes, sizes_of

# torch's kaiming_uniform_ for no nonlinearity.
_even = nn.initializers.variance_scaling(1.0, "fan_in", "uniform")
SQUASHES = ("tanh", "range")
# Norms that read one example.
ALONE = ("instance", "evonorm_s0", "evonorm_s1", "evonorm_s2")


class KanLayer(NamedTuple):
    """What the released layer of a kind is made of.

    Attributes:
      basis: its functions, a name of BASES, or "edges": a wavelet of its own for every edge.
      options: fields of their `Basis`.
      base: what bends the input of the convolution beside them, "identity" for nothing; None leaves
        that convolution out.
      squash: what brings the input of the functions to their interval, a name of SQUASHES.
      norm_first: the norm is of what the functions read, not of the sum.
      bend: of the sum, a name of ACTIVATIONS or "prelu"; None leaves it.
      drops_last: dropout is of the result, not of what the functions read.
    """

    basis: str
    options: Mapping[str, Any] = MappingProxyType({})
    base: str | None = "silu"
    squash: str | None = None
    norm_first: bool = False
    bend: str | None = None
    drops_last: bool = False


KAN_LAYERS: Mapping[str, KanLayer] = MappingProxyType(
    {
        "kan": KanLayer("bspline", base="gelu", bend="prelu", drops_last=True),
        "fastkan": KanLayer("radial", {"grid_size": 8, "grid_range": (-2.0, 2.0)}, norm_first=True),
        "kaln": KanLayer("legendre", base="identity", squash="range", bend="silu"),
        "kacn": KanLayer("chebyshev", base=None, squash="tanh", drops_last=True),
        "kagn": KanLayer("gram", squash="tanh", bend="silu"),
        "wavkan": KanLayer("edges", {"wavelet": "mexican_hat"}),
    }
)


class EdgeWavelets(nn.Module):
    """y_o = sum_p v_po sum_ijc w_ijcp psi((x[u + i, v + j, c] - t_cp) / s_cp), a wavelet an edge.

    All of an image's wavelets are there at once: as many maps as edges.

    Attributes:
      features, kernel_size, stride, padding, dilation, groups: as in `Conv`.
      wavelet: psi, a name of WAVELETS.
    """

    features: int
    kernel_size: int | tuple[int, ...] = 3
    stride: int | tuple[int, ...] = 1
    padding: str | int | tuple[tuple[int, int], ...] = "SAME"
    dilation: int | tuple[int, ...] = 1
    groups: int = 1
    wavelet: str = "mexican_hat"
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B ... C"]) -> Float[Array, "B ... F"]:
        inputs = x.shape[-1] // self.groups
        shape = (inputs, self.features)
        place, scale = (
            self.param(name, partitioned(init, ("conv_in", "conv_out")), shape, self.param_dtype)
            for name, init in (("translation", zeros_init), ("scale", ones_init))
        )
        size = sizes_of(self.kernel_size, x)
        axes = (*(None,) * len(size), "conv_in", "conv_out")
        kernel = self.param(
            "kernel",
            partitioned(_even, axes, range(-len(axes), -1), (-1,)),
            (*size, *shape),
            self.param_dtype,
        )
        x = x.astype(self.dtype)
        share = self.features // self.groups
        maps = []
        for group in range(self.groups):
            ours = slice(group * share, (group + 1) * share)
            basis = ops.wavelet_basis(
                x[..., group * inputs : (group + 1) * inputs],
                place[:, ours].astype(self.dtype),
                scale[:, ours].astype(self.dtype),
                kind=self.wavelet,
            )
            # [B, .., O, I]: the inputs of an output side by side.
            maps.append(basis.swapaxes(-1, -2).reshape(*x.shape[:-1], share * inputs))
        y = conv_over_axes(
            jnp.concatenate(maps, axis=-1),
            kernel.astype(self.dtype),
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.features,
        )
        return Conv(
            self.features,
            1,
            groups=self.groups,
            use_bias=False,
            kernel_init=_even,
            name="out",
            dtype=self.dtype,
            param_dtype=self.param_dtype,
        )(y)


class KanConvNorm(nn.Module):
    """bend(norm(base(x) + functions(squash(x)))), a layer of the paper's networks.

    With a `reduction` the functions stand between two 1x1 convolutions, among fewer channels: the
    paper's bottleneck. Of maps [B, Y, X, C], or of sequences [B, T, C] or volumes [B, Z, Y, X, C],
    along their own axes.

    Attributes:
      features, kernel_size, stride, dilation, groups: as in `Conv`.
      padding: as in `Conv`; None keeps the size at stride 1, dilation (k // 2) on every side.
      kind: a name of KAN_LAYERS.
      options: fields of the functions' `Basis`, such as {"degree": 5}, or of `EdgeWavelets`.
      base: in the place of the kind's; None keeps that.
      squash: in the place of the kind's, "tanh" or "range", that is 2 (x - min) / (max - min) - 1
        over the whole batch, as the release has it for Legendre's: what an image gives depends on
        its neighbours. None keeps the kind's.
      reduction: what divides the greater of inputs and features to give the channels of the
        functions; None leaves the bottleneck out.
      least_width: of these channels of a group, where it has so many.
      by_function: as in `KanConv`.
      experts: fields of a `RoutedExamples`, such as {"num_experts": 8, "top_k": 2}: each example
        goes to a few of many layers, or of many functions where there is a reduction. Layers start
        alike, and their norms read one example. None has one layer.
      dropout_rate: of whole channels of what the functions read, or of the result, as the kind has
        it; in a bottleneck the share of places where noise of a twentieth of a channel's deviation
        is added to the input.
      norm_layer: a name of MAP_NORMS.
      affine: the norm has a scale and an offset.
      norm_momentum: weight of the old average at each training step.
      frozen_statistics: training neither reads the batch's statistics nor moves the averages.
    """

    features: int
    kernel_size: int | tuple[int, ...] = 3
    stride: int = 1
    padding: str | int | tuple[tuple[int, int], ...] | None = None
    dilation: int = 1
    groups: int = 1
    kind: str = "kagn"
    options: Mapping[str, Any] | None = None
    base: str | None = None
    squash: str | None = None
    reduction: float | None = None
    least_width: int = 16
    by_function: bool = False
    experts: Mapping[str, Any] | None = None
    dropout_rate: float = 0.0
    norm_layer: str = "batch"
    affine: bool = True
    norm_epsilon: float = 1e-5
    norm_momentum: float = 0.9
    frozen_statistics: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B ... C"], train: bool = False) -> Float[Array, "B ... F"]:
        kind, x = kan_layer(self.kind), x.astype(self.dtype)
        if self.experts is not None and self.reduction is None:
            return self.routed(x, train)
        places = tuple(range(1, x.ndim - 1))
        drop = nn.Dropout(self.dropout_rate, broadcast_dims=places, deterministic=not train)
        if self.reduction is not None:
            x = self.noisy(x, train)
        base, name = None, self.base or kind.base
        if name is not None:
            bent = x if name == "identity" else activation(name)(x)
            base = self.conv(self.features, "base", **self.window(x))(bent)
        width, dim = self.features, x.shape[-1]
        if self.reduction is not None:
            width = self.inner_width(dim)
            x = self.conv(width, "squeeze", kernel_size=1)(x)
        told = x
        x = self.squashed(x, self.squash or kind.squash)
        if self.reduction is None and not kind.drops_last:
            x = drop(x)
        if kind.norm_first:
            x = self.norm(x, train, None)
        if self.experts is None:
            y = self.functions(kind, width, dim, x)(x)
        else:
            layer = functools.partial(self.functions, kind, width, width, x)
            own = RoutedExamples(layer, name="routed", **self.experts, **self.dtypes)
            y = own(x, told, train)
        if self.reduction is not None:
            y = self.conv(self.features, "expand", kernel_size=1)(y)
        y = y if base is None else y + base
        prelu = kind.bend == "prelu"
        if not kind.norm_first:
            y = self.norm(y, train, None if prelu else kind.bend)
        if prelu:
            init = partitioned(nn.initializers.constant(0.25), (None,))
            slope = self.param("slope", init, (self.groups,), self.param_dtype)
            slope = jnp.repeat(slope.astype(y.dtype), self.features // self.groups)
            y = jnp.where(y >= 0, y, y * spread(slope, y))
        return drop(y) if self.reduction is None and kind.drops_last else y

    @nn.nowrap
    def routed(self, x: Float[Array, "B ... C"], train: bool) -> Float[Array, "B ... F"]:
        """The same of a few of many layers for each example."""
        if self.norm_layer not in ALONE:
            raise UserError(
                f"experts of norm_layer={self.norm_layer!r} would read an example by others that "
                f"happen to take the same one; expected one of {', '.join(ALONE)}"
            )

        names = {field.name for field in dataclasses.fields(self)} - {"experts", "name", "parent"}
        layer = functools.partial(KanConvNorm, **{name: getattr(self, name) for name in names})
        own = RoutedExamples(
            lambda name: layer(name=name), True, name="routed", **self.experts, **self.dtypes
        )
        return own(x, x, train)

    @nn.nowrap
    def window(self, x: Float[Array, "B ... C"]) -> dict[str, Any]:
        """Fields of the convolutions that see more than a place."""
        size, padding = self.kernel_size, self.padding
        if padding is None:
            padding = tuple((self.dilation * (side // 2),) * 2 for side in sizes_of(size, x))
        return {
            "kernel_size": size,
            "stride": self.stride,
            "padding": padding,
            "dilation": self.dilation,
        }

    @property
    def dtypes(self) -> dict[str, Any]:
        return {"dtype": self.dtype, "param_dtype": self.param_dtype}

    @nn.nowrap
    def inner_width(self, dim: int) -> int:
        """Channels of the functions of a bottleneck, of all groups together."""
        inputs, outputs = dim // self.groups, self.features // self.groups
        width = int(max(inputs / self.reduction, outputs / self.reduction))
        if width < self.least_width:
            width = min(self.least_width, inputs, outputs)
        return width * self.groups

    @nn.nowrap
    def conv(self, features: int, name: str, **fields: Any) -> Conv:
        fields |= {"groups": self.groups, "use_bias": False, "kernel_init": _even, **self.dtypes}
        return Conv(features, name=name, **fields)

    @nn.nowrap
    def functions(
        self,
        kind: KanLayer,
        width: int,
        dim: int,
        x: Float[Array, "B ... I"],
        name: str = "functions",
    ) -> nn.Module:
        """The convolution of functions of x to so many channels, in a layer of `dim`."""
        options = {**kind.options, **(self.options or {})}
        fields = {**self.window(x), "groups": self.groups, "name": name, **self.dtypes}
        if kind.basis == "edges":
            if self.by_function:
                raise UserError("by_function=True is of a basis of every channel, not of edges")
            return EdgeWavelets(width, **options, **fields)
        places = math.prod(sizes_of(self.kernel_size, x))
        options["squashes"] = False
        count = options.get("degree", 3) + 1
        # The release reads torch's fan-in of polynomials off an array with an axis of groups in
        # front, and so divides by the outputs as well.
        init = _even
        if kind.basis in ("gram", "legendre"):
            scale = self.groups / width
            init = nn.initializers.variance_scaling(scale, "fan_in", "uniform")
        if kind.basis == "gram":
            options.setdefault("weight_std", 1 / (places * dim * count))
        elif kind.basis == "chebyshev":
            init = nn.initializers.normal(1 / (places * x.shape[-1] * count))
        return KanConv(
            width,
            basis=kind.basis,
            basis_options=options,
            base=None,
            coefficient_init=init,
            by_function=self.by_function,
            **fields,
        )

    @nn.nowrap
    def squashed(self, x: Float[Array, "B ... C"], squash: str | None) -> Float[Array, "B ... C"]:
        """The input of the functions in their interval."""
        if squash is None:
            return x
        if squash not in SQUASHES:
            raise UserError(f"unknown squash {squash!r}; {suggest(squash, SQUASHES)}")
        if squash == "tanh":
            return jnp.tanh(x)
        parts = []
        for part in jnp.split(x, self.groups, axis=-1):
            least, most = jnp.min(part), jnp.max(part)
            # Of one number throughout any place in the interval is as good.
            span = jnp.where(most > least, most - least, jnp.ones_like(most))
            parts.append(2 * (part - least) / span - 1)
        return jnp.concatenate(parts, axis=-1)

    @nn.nowrap
    def norm(
        self, x: Float[Array, "B ... C"], train: bool, bend: str | None
    ) -> Float[Array, "B ... C"]:
        return norm_and_bend(
            x,
            train,
            kind=self.norm_layer,
            bend=bend,
            affine=self.affine,
            epsilon=self.norm_epsilon,
            momentum=self.norm_momentum,
            frozen_statistics=self.frozen_statistics,
            **self.dtypes,
        )

    @nn.nowrap
    def noisy(self, x: Float[Array, "B ... C"], train: bool) -> Float[Array, "B ... C"]:
        """The input with noise at some places, in training."""
        if not train or self.dropout_rate == 0:
            return x
        key, place = jax.random.split(self.make_rng("dropout"))
        count, places = math.prod(x.shape[:-1]), tuple(range(x.ndim - 1))
        centred = x - jnp.mean(x, axis=places, keepdims=True)
        squares = jnp.sum(jnp.square(centred), axis=places, keepdims=True)
        noise = jax.random.normal(key, x.shape, x.dtype) * jnp.sqrt(squares / max(1, count - 1))
        falls = jax.random.bernoulli(place, self.dropout_rate, x.shape)
        return x + jnp.where(falls, 0.05 * noise, jnp.zeros((), x.dtype))


def kan_layer(kind: str) -> KanLayer:
    """The layer of that name; UserError lists the others."""
    if kind not in KAN_LAYERS:
        raise UserError(f"unknown kind {kind!r} of KAN layer; {suggest(kind, KAN_LAYERS)}")
    return KAN_LAYERS[kind]
