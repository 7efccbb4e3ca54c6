"""Layers whose edges are functions: dense and convolutional, over any basis."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.ops.contract import (
    accumulator_dtype,
    check_choice,
    check_rank,
    check_shape,
    op,
    require,
)
from scanmax.ops.conv.axes import conv_over_axes
from scanmax.ops.conv.conv2d import Padding, Pair

_BASES: dict[str, Callable] = {
    "silu": jax.nn.silu,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "identity": lambda x: x,
}


@op("base", "precision")
def kan_linear(
    x: Float[Array, "*B D"],
    basis: Float[Array, "*B D N"],
    coefficients: Float[Array, "D N O"],
    base_weight: Float[Array, "D O"] | None = None,
    *,
    base: str = "silu",
    precision: jax.lax.PrecisionLike = None,
) -> Float[Array, "*B O"]:
    """A layer of Kolmogorov and Arnold: every edge from d to o is a function of its own.

        y_o = sum_d  w_do b(x_d) + sum_n c_dno B_n(x_d)

    As one product with the basis, of which each channel has its values once, not once an edge.

    Args:
      x: the input, read by the base alone.
      basis: B_n(x_d), by `bspline_basis`, `polynomial_basis`, `gram_basis`, `radial_basis` or
        `wavelet_basis`.
      coefficients: c; a scale of splines belongs into them.
      base_weight: w; None leaves the base out.
      base: b, "silu", "gelu" or "identity".
      precision: of the products, as in jax.lax.

    Returns:
      [*B, O] in the dtype of x.

    Raises:
      ValueError: arrays whose shapes do not fit, an unknown base.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> x = jnp.array([0.5, -1.0])
      >>> basis = ops.polynomial_basis(x, degree=2)
      >>> ops.kan_linear(x, basis, jnp.ones((2, 3, 1)))
      Array([2.], dtype=float32)

    Reference: kan, kan-conv
    """
    check_rank(1, x=x)
    check_choice("base", base, tuple(_BASES))
    channels = x.shape[-1]
    require(
        basis.shape[:-1] == x.shape,
        f"basis has shape {basis.shape}; expected [*B, D, N] with x of shape {x.shape}.",
    )
    count = basis.shape[-1]
    require(
        coefficients.ndim == 3 and coefficients.shape[:2] == (channels, count),
        f"coefficients has shape {coefficients.shape}; expected [{channels}, {count}, O].",
    )
    features = coefficients.shape[2]
    check_shape("base_weight", base_weight, (channels, features), "[D, O]")
    dtype = accumulator_dtype(x, basis, coefficients, base_weight)
    options = {"precision": precision, "preferred_element_type": dtype}
    flat = basis.reshape(*x.shape[:-1], channels * count).astype(dtype)
    weights = coefficients.reshape(channels * count, features).astype(dtype)
    y = jnp.matmul(flat, weights, **options)
    if base_weight is not None:
        y = y + jnp.matmul(_BASES[base](x.astype(dtype)), base_weight.astype(dtype), **options)
    return y.astype(x.dtype)


def _over_axes(axes, x, basis, coefficients, base_kernel, base, *, groups, **options) -> Array:
    """The convolution over so many axes before the channels."""
    check_rank(axes + 1, x=x)
    check_choice("base", base, tuple(_BASES))
    places, taps = (("T", "k"), ("Y, X", "ky, kx"), ("Z, Y, X", "kz, ky, kx"))[axes - 1]
    require(
        basis.shape[:-1] == x.shape,
        f"basis has shape {basis.shape}; expected [*B, {places}, C, N] with x of shape {x.shape}.",
    )
    inputs, count = x.shape[-1] // groups, basis.shape[-1]
    require(
        coefficients.ndim == axes + 3 and coefficients.shape[axes:-1] == (inputs, count),
        f"coefficients has shape {coefficients.shape}; expected [{taps}, {inputs}, {count}, O].",
    )
    sizes, features = coefficients.shape[:axes], coefficients.shape[-1]
    expected = (*sizes, inputs, features)
    check_shape("base_kernel", base_kernel, expected, f"[{taps}, C / groups, O]")
    dtype = accumulator_dtype(x, basis, coefficients, base_kernel)
    flat = basis.reshape(*x.shape[:-1], x.shape[-1] * count).astype(dtype)
    kernel = coefficients.reshape(*sizes, inputs * count, features).astype(dtype)
    options["groups"] = groups
    y = conv_over_axes(flat, kernel, **options)
    if base_kernel is not None:
        bent = _BASES[base](x.astype(dtype))
        y = y + conv_over_axes(bent, base_kernel.astype(dtype), **options)
    return y.astype(x.dtype)


@op("base", "stride", "padding", "dilation", "groups", "precision", "implementation")
def kan_conv1d(
    x: Float[Array, "*B T C"],
    basis: Float[Array, "*B T C N"],
    coefficients: Float[Array, "k I N O"],
    base_kernel: Float[Array, "k I O"] | None = None,
    *,
    base: str = "silu",
    stride: int = 1,
    padding: Padding = "SAME",
    dilation: int = 1,
    groups: int = 1,
    precision: jax.lax.PrecisionLike = None,
    implementation: str | tuple[str, ...] | None = None,
) -> Float[Array, "*B U O"]:
    """`kan_conv2d` over sequences: functions in the place of the taps along one axis.

        y[t, o] = sum_ic  w_ico b(x[t + i, c]) + sum_n c_icno B_n(x[t + i, c])

    Args:
      x: the sequence, read by the base alone.
      basis: B_n at every place, as in `kan_linear`.
      coefficients: c, of C / groups input channels.
      base_kernel: w; None leaves the base out.
      base: b, "silu", "gelu" or "identity".
      stride: one number, like `dilation`.
      padding: "SAME", "VALID", a number, or ((before, after),).
      dilation: distance of taps.
      groups: of channels.
      precision: of the products, as in jax.lax.
      implementation: None or "xla".

    Returns:
      [*B, U, O] in the dtype of x.

    Raises:
      ValueError: arrays whose shapes do not fit, an unknown base, a malformed option.
      NotImplementedError: for an implementation other than "xla".

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> x = jnp.array([[1.0], [2.0]])
      >>> ops.kan_conv1d(x, x[..., None], jnp.ones((3, 1, 1, 1)))[..., 0]
      Array([3., 3.], dtype=float32)

    Reference: kan-conv
    """
    return _over_axes(
        1,
        x,
        basis,
        coefficients,
        base_kernel,
        base,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        precision=precision,
        implementation=implementation,
    )


@op("base", "stride", "padding", "dilation", "groups", "precision", "implementation")
def kan_conv2d(
    x: Float[Array, "*B Y X C"],
    basis: Float[Array, "*B Y X C N"],
    coefficients: Float[Array, "ky kx I N O"],
    base_kernel: Float[Array, "ky kx I O"] | None = None,
    *,
    base: str = "silu",
    stride: Pair = 1,
    padding: Padding = "SAME",
    dilation: Pair = 1,
    groups: int = 1,
    precision: jax.lax.PrecisionLike = None,
    implementation: str | tuple[str, ...] | None = None,
) -> Float[Array, "*B U V O"]:
    """A convolution whose taps are functions: `kan_linear` over the pixels under the kernel.

        y[u, v, o] = sum_ijc  w_ijco b(x[u + i, v + j, c]) + sum_n c_ijcno B_n(x[u + i, v + j, c])

    Beyond the edges the basis is 0, not the basis at 0, as the released code pads.

    Args:
      x: the map, read by the base alone.
      basis: B_n at every pixel, as in `kan_linear`.
      coefficients: c, of C / groups input channels.
      base_kernel: w; None leaves the base out.
      base: b, "silu", "gelu" or "identity".
      stride: as in `conv2d`, like the options that follow.
      padding: "SAME", "VALID" or numbers.
      dilation: distance of taps.
      groups: of channels.
      precision: of the products, as in jax.lax.
      implementation: None or "xla".

    Returns:
      [*B, U, V, O] in the dtype of x.

    Raises:
      ValueError: arrays whose shapes do not fit, an unknown base.
      NotImplementedError: for an implementation other than "xla".

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> x = jnp.array([[[1.0], [2.0]]])
      >>> ops.kan_conv2d(x, x[..., None], jnp.ones((1, 3, 1, 1, 1)))[..., 0]
      Array([[3., 3.]], dtype=float32)

    Reference: kan-conv
    """
    return _over_axes(
        2,
        x,
        basis,
        coefficients,
        base_kernel,
        base,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        precision=precision,
        implementation=implementation,
    )


@op("base", "stride", "padding", "dilation", "groups", "precision", "implementation")
def kan_conv3d(
    x: Float[Array, "*B Z Y X C"],
    basis: Float[Array, "*B Z Y X C N"],
    coefficients: Float[Array, "kz ky kx I N O"],
    base_kernel: Float[Array, "kz ky kx I O"] | None = None,
    *,
    base: str = "silu",
    stride: int | tuple[int, int, int] = 1,
    padding: Padding = "SAME",
    dilation: int | tuple[int, int, int] = 1,
    groups: int = 1,
    precision: jax.lax.PrecisionLike = None,
    implementation: str | tuple[str, ...] | None = None,
) -> Float[Array, "*B S U V O"]:
    """`kan_conv2d` over volumes: functions in the place of the taps along three axes.

        y[s, u, v, o] = sum_hijc  w_hijco b(x[s + h, u + i, v + j, c])
                                  + sum_n c_hijcno B_n(x[s + h, u + i, v + j, c])

    Args:
      x: the volume, read by the base alone.
      basis: B_n at every place, as in `kan_linear`.
      coefficients: c, of C / groups input channels.
      base_kernel: w; None leaves the base out.
      base: b, "silu", "gelu" or "identity".
      stride: one number or three, like `dilation`.
      padding: "SAME", "VALID", a number, or one or (before, after) for each axis.
      dilation: distance of taps.
      groups: of channels.
      precision: of the products, as in jax.lax.
      implementation: None or "xla".

    Returns:
      [*B, S, U, V, O] in the dtype of x.

    Raises:
      ValueError: arrays whose shapes do not fit, an unknown base, a malformed option.
      NotImplementedError: for an implementation other than "xla".

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> x = jnp.array([[[[1.0]]], [[[2.0]]]])
      >>> ops.kan_conv3d(x, x[..., None], jnp.ones((3, 1, 1, 1, 1, 1)))[..., 0].ravel()
      Array([3., 3.], dtype=float32)

    Reference: kan-conv
    """
    return _over_axes(
        3,
        x,
        basis,
        coefficients,
        base_kernel,
        base,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        precision=precision,
        implementation=implementation,
    )
