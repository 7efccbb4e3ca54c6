"""Layers of Kolmogorov and Arnold: edges that are functions, and rational activations of groups."""

import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from scanmax import ops
from scanmax.errors import UserError, suggest
from scanmax.models.layers import (
    Dense,
    Initializer,
    constrain_last,
    normal_init,
    ones_init,
    partitioned,
    zeros_init,
)
from scanmax.models.statistics import at_least_float32
from scanmax.ops.conv.axes import sizes_of

POLYNOMIALS = ("chebyshev", "legendre", "jacobi", "bernstein")
WAVELETS = ("mexican_hat", "morlet", "dog", "meyer", "shannon", "sinc")
BASES = ("bspline", "radial", "switch", "gram", *POLYNOMIALS, *WAVELETS)
# a_0 .. a_5 and b_1 .. b_4 that the released KAT starts from, fitted between -3 and 3.
RATIONALS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "identity": ((0.0, 1.0, 0.0, 0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 0.0)),
    "gelu": (
        (-0.00153969, 0.51692871, 0.44075827, 0.0972553, -0.00884418, -0.00378675),
        (-0.14171056, -0.06481231, -0.0444695, 0.01283776),
    ),
    "silu": (
        (3.05488e-07, 0.500000785, 0.249997834, 0.0532662827, 0.00580303457, 0.000275196102),
        (-4.11155496e-06, 0.106528993, -1.269001e-06, 0.000550233126),
    ),
}


class Basis(nn.Module):
    """The functions that the edges of a layer are sums of: [.., D] -> [.., D, N].

    Polynomials read tanh(x), Bernstein's the logistic function of it, and silu bends Gram's, as the
    released convolutions do. The knots of splines lie in "batch_stats": they are carried, not
    learned, and `refit_kan` moves them.

    Attributes:
      kind: a name of BASES.
      grid_size: intervals of the splines, N = grid_size + degree; the number of bumps or wavelets.
      degree: of splines and polynomials, N = degree + 1.
      grid_range: what the intervals or the bumps cover at the start.
      width: of the bumps "radial" and "switch"; None is the distance of neighbours, and 0.33.
      squashes: False for polynomials of numbers that are brought to their interval already.
      weight_std: of the weights of Gram's recurrence at the start; None is 1 / (D N).
    """

    kind: str = "bspline"
    grid_size: int = 5
    degree: int = 3
    grid_range: tuple[float, float] = (-1.0, 1.0)
    width: float | None = None
    squashes: bool = True
    weight_std: float | None = None
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D N"]:
        if self.kind not in BASES:
            raise UserError(f"unknown basis {self.kind!r}; {suggest(self.kind, BASES)}")
        x, dim, dtype = x.astype(self.dtype), x.shape[-1], at_least_float32(self.dtype)
        if self.kind == "bspline":
            knots = self.variable("batch_stats", "knots", self.even_knots, dim).value
            return ops.bspline_basis(x, knots.astype(dtype), degree=self.degree)
        if self.kind in ("radial", "switch"):
            centers = jnp.linspace(*self.grid_range, self.grid_size, dtype=dtype)
            if self.kind == "radial":
                return ops.radial_basis(x, centers, width=self.width)
            return ops.switch_basis(x, centers, width=self.width or 0.33)
        if self.kind in WAVELETS:
            place, scale = (
                self.param(name, partitioned(init, ("embed", None)), shape, self.param_dtype)
                for name, init, shape in (
                    ("translation", normal_init, (dim, self.grid_size)),
                    ("scale", ones_init, (dim, self.grid_size)),
                )
            )
            return ops.wavelet_basis(x, place.astype(dtype), scale.astype(dtype), kind=self.kind)
        if self.kind == "gram":
            std = self.weight_std or 1 / (dim * (self.degree + 1))
            init = partitioned(nn.initializers.normal(std), (None,))
            weight = self.param("weight", init, (self.degree + 1,), self.param_dtype)
            squashed = jnp.tanh(x) if self.squashes else x
            return nn.silu(ops.gram_basis(squashed, weight.astype(dtype)))
        if self.squashes:
            x = nn.sigmoid(x) if self.kind == "bernstein" else jnp.tanh(x)
        return ops.polynomial_basis(x, kind=self.kind, degree=self.degree)

    @nn.nowrap
    def even_knots(self, dim: int) -> Float[Array, "D M"]:
        """Knots of even intervals, the same for every channel."""
        dtype = at_least_float32(self.param_dtype)
        points = jnp.linspace(*self.grid_range, self.grid_size + 1, dtype=dtype)
        return ops.extend_knots(jnp.tile(points[None], (dim, 1)), degree=self.degree)


class KanDense(nn.Module):
    """y_o = sum_d w_do b(x_d) + s_do sum_n c_dno B_n(x_d): a dense layer of functions.

    With splines it has D O (grid_size + degree + 2) parameters. A KAN is some of these in a row.

    Attributes:
      features: outputs.
      basis: B, a name of BASES.
      basis_options: other fields of `Basis`: grid_size, degree, grid_range.
      base: b, "silu", "gelu" or "identity"; None leaves that part out.
      learn_scale: whether there is s, which starts as 1; None is for splines alone.
      coefficient_init: of c.
      edges: for each input, which outputs it has a function to; None joins all.
    """

    features: int
    basis: str = "bspline"
    basis_options: Mapping[str, Any] | None = None
    base: str | None = "silu"
    learn_scale: bool | None = None
    coefficient_init: Initializer | None = None
    edges: tuple[tuple[bool, ...], ...] | None = None
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... O"]:
        x, dim = x.astype(self.dtype), x.shape[-1]
        basis = Basis(
            self.basis,
            **(self.basis_options or {}),
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name="basis",
        )(x)
        count = basis.shape[-1]
        init = self.coefficient_init or coefficient_init(self.basis, dim * count)
        axes = ("embed", None, "mlp")
        coefficients = self.param(
            "coefficients",
            partitioned(init, axes, (-3, -2), (-1,)),
            (dim, count, self.features),
            self.param_dtype,
        ).astype(self.dtype)
        learn_scale = self.basis == "bspline" if self.learn_scale is None else self.learn_scale
        if learn_scale:
            init = partitioned(ones_init, ("embed", "mlp"))
            scale = self.param("scale", init, (dim, self.features), self.param_dtype)
            coefficients = coefficients * scale.astype(self.dtype)[:, None]
        weight = None
        if self.base is not None:
            init = partitioned(nn.initializers.xavier_normal(), ("embed", "mlp"), (-2,), (-1,))
            weight = self.param("base", init, (dim, self.features), self.param_dtype)
            weight = weight.astype(self.dtype)
        coefficients, weight = _joined(self.edges, coefficients, weight)
        return ops.kan_linear(x, basis, coefficients, weight, base=self.base or "identity")


class KanConv(nn.Module):
    """A convolution whose taps are functions, on maps [B, Y, X, C]; no norm or activation after it.

    Sequences [B, T, C] and volumes [B, Z, Y, X, C] are convolved along their own axes.

    Attributes:
      features, kernel_size, stride, padding, dilation, groups: as in `Conv`.
      basis, basis_options, base, coefficient_init: as in `KanDense`.
      edges: as there, for each input of a group.
      by_function: groups are slices of one function of all channels after the other, so that they
        mix channels, as the authors' layers of a group a channel have it by mistake.
    """

    features: int
    kernel_size: int | tuple[int, ...] = 3
    stride: int | tuple[int, ...] = 1
    padding: str | int | tuple[tuple[int, int], ...] = "SAME"
    dilation: int | tuple[int, ...] = 1
    groups: int = 1
    basis: str = "gram"
    basis_options: Mapping[str, Any] | None = None
    base: str | None = "silu"
    coefficient_init: Initializer | None = None
    edges: tuple[tuple[bool, ...], ...] | None = None
    by_function: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B ... C"]) -> Float[Array, "B ... F"]:
        x, size = x.astype(self.dtype), sizes_of(self.kernel_size, x)
        basis = Basis(
            self.basis,
            **(self.basis_options or {}),
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name="basis",
        )(x)
        if self.by_function:
            basis = basis.swapaxes(-1, -2).reshape(basis.shape)
        inputs, count = x.shape[-1] // self.groups, basis.shape[-1]
        fan_in = inputs * count * math.prod(size)
        init = self.coefficient_init or coefficient_init(self.basis, fan_in)
        taps = (None,) * len(size)
        axes = (*taps, "conv_in", None, "conv_out")
        coefficients = self.param(
            "coefficients",
            partitioned(init, axes, range(-len(axes), -1), (-1,)),
            (*size, inputs, count, self.features),
            self.param_dtype,
        ).astype(self.dtype)
        kernel = None
        if self.base is not None:
            init = partitioned(
                nn.initializers.lecun_normal(),
                (*taps, "conv_in", "conv_out"),
                range(-len(size) - 2, -1),
                (-1,),
            )
            kernel = self.param("base", init, (*size, inputs, self.features), self.param_dtype)
            kernel = kernel.astype(self.dtype)
        coefficients, kernel = _joined(self.edges, coefficients, kernel)
        return getattr(ops, f"kan_conv{len(size)}d")(
            x,
            basis,
            coefficients,
            kernel,
            base=self.base or "identity",
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
        )


def _joined(edges, coefficients, base):
    """Coefficients [.., D, N, O] and weights [.., D, O] of the base, 0 where there is no edge."""
    if edges is None:
        return coefficients, base
    mask = jnp.asarray(edges)
    if mask.shape != (coefficients.shape[-3], coefficients.shape[-1]):
        raise UserError(
            f"edges has shape {mask.shape}; expected inputs and outputs, "
            f"{(coefficients.shape[-3], coefficients.shape[-1])}."
        )
    own = mask.reshape((1,) * (coefficients.ndim - 3) + (len(edges), 1, -1))
    coefficients = jnp.where(own, coefficients, jnp.zeros((), coefficients.dtype))
    if base is not None:
        base = jnp.where(own[..., 0, :], base, jnp.zeros((), base.dtype))
    return coefficients, base


def coefficient_init(basis: str, fan_in: int) -> Initializer:
    """Small numbers for splines, as the paper of KANs has them; else 1 / sqrt(fan_in)."""
    return nn.initializers.normal(0.1 if basis == "bspline" else fan_in**-0.5)


def refit_kan(
    layer: KanDense,
    variables: Mapping[str, Any],
    x: Float[Array, "S D"],
    *,
    grid_size: int | None = None,
    uniform: float = 0.02,
) -> tuple[KanDense, dict[str, Any]]:
    """A layer of splines on other knots that is as near as can be to the same function at x.

    Args:
      layer: a `KanDense` of splines.
      variables: its own, with "params" and "batch_stats".
      x: what the layer reads, S samples.
      grid_size: None moves the knots to where the samples lie, as many as there are; a number
        spreads that many even intervals over the range of the old ones (grid extension).
      uniform: the share of an even grid in the moved knots.

    Returns:
      The layer with its grid size, and its variables, unboxed.

    Raises:
      UserError: for a layer of another basis.
    """
    if layer.basis != "bspline":
        raise UserError(f"basis={layer.basis!r} has no knots to move; 'bspline' has.")
    variables = nn.unbox(variables)
    options = dict(layer.basis_options or {})
    degree = options.get("degree", Basis.degree)
    params, old = dict(variables["params"]), variables["batch_stats"]["basis"]["knots"]
    if grid_size is None:
        size = options.get("grid_size", Basis.grid_size)
        knots = ops.sample_knots(x, grid_size=size, degree=degree, uniform=uniform)
    else:
        ends = old[:, degree : old.shape[1] - degree]
        shares = jnp.linspace(0, 1, grid_size + 1, dtype=old.dtype)[None]
        points = ends[:, :1] + shares * (ends[:, -1:] - ends[:, :1])
        knots = ops.extend_knots(points, degree=degree)
        layer = layer.clone(basis_options={**options, "grid_size": grid_size})
    basis = ops.bspline_basis(x, old, degree=degree)
    curves = jnp.einsum("sdn,dno->sdo", basis, params["coefficients"])
    params["coefficients"] = ops.fit_bspline(x, curves, knots, degree=degree)
    statistics = {**variables["batch_stats"], "basis": {"knots": knots.astype(old.dtype)}}
    return layer, {**variables, "params": params, "batch_stats": statistics}


class Rational(nn.Module):
    """P(x) / (1 + |Q(x)|), P shared by all channels and Q by those of a group.

    Attributes:
      start: the function that it begins as, a name of RATIONALS.
      groups: of channels.
      sizes: how Q is kept from poles, as in `ops.group_rational`.
    """

    start: str = "identity"
    groups: int = 8
    sizes: str = "sum"
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        top, under = rational_start(self.start)
        tables = []
        for name, row, rows in (("numerator", top, 1), ("denominator", under, self.groups)):

            def init(key, shape, dtype, row=row):
                return jnp.broadcast_to(jnp.asarray(row, dtype)[None], shape)

            shape = (rows, len(row))
            table = self.param(name, partitioned(init, (None, None)), shape, self.param_dtype)
            tables.append(table.astype(at_least_float32(self.dtype)))
        return ops.group_rational(x.astype(self.dtype), *tables, sizes=self.sizes)


def rational_start(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The coefficients of that name; UserError lists the others."""
    if name not in RATIONALS:
        raise UserError(f"unknown start {name!r}; {suggest(name, RATIONALS)}")
    return RATIONALS[name]


def rational_gain(name: str) -> float:
    """1 / E[phi(z)^2] for normal z: what a weight's variance makes good behind phi."""
    top, under = rational_start(name)
    z, weight = np.polynomial.hermite_e.hermegauss(64)
    inner = z * np.polynomial.polynomial.polyval(z, under)
    y = np.polynomial.polynomial.polyval(z, top) / (1 + np.abs(inner))
    return float(np.sum(weight) / np.sum(weight * y**2))


class RationalMlp(nn.Module):
    """The MLP of KAT: y = W_2 phi_2(W_1 phi_1(x) + b_1) + b_2, of rational functions.

    A function comes before the linear map that reads it, phi_1 begins as the identity, phi_2 as
    `activation`, and weights so that normal inputs keep their variance through both.

    Attributes:
      hidden: width of W_1 phi_1.
      activation: a name of RATIONALS, the start of phi_2.
      groups: of channels in either function.
      sizes: how either is kept from poles, as in `ops.group_rational`.
      dropout_rate: behind either function.
    """

    hidden: int
    activation: str = "gelu"
    groups: int = 8
    sizes: str = "sum"
    dropout_rate: float = 0.0
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B ... C"], train: bool = False) -> Float[Array, "B ... C"]:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        widths = (self.hidden, x.shape[-1])
        for i, (start, axes) in enumerate(
            (("identity", ("embed", "mlp")), (self.activation, ("mlp", "embed"))), 1
        ):
            x = Rational(start, self.groups, self.sizes, name=f"act{i}", **dtypes)(x)
            x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
            init = nn.initializers.variance_scaling(rational_gain(start), "fan_in", "normal")
            dense = Dense(
                widths[i - 1],
                axes,
                kernel_init=init,
                bias_init=zeros_init,
                name=f"fc{i}",
                **dtypes,
            )
            x = dense(x)
            if i == 1:
                x = constrain_last(x, "mlp")
        return x
