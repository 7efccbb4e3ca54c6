"""Layers of functions, edge by edge."""

import jax
import jax.numpy as jnp

from scanmax.ops.reference.conv.axes import conv_over_axes

_BASES = {
    "silu": lambda x: x / (1 + jnp.exp(-x)),
    "gelu": lambda x: x * (1 + jax.lax.erf(x / 2**0.5)) / 2,
    "identity": lambda x: x,
}


def kan_linear(x, basis, coefficients, base_weight=None, *, base="silu", precision=None):
    """y_o is the sum of the functions on the edges that end in o."""
    bent, outputs = _BASES[base](x), []
    for o in range(coefficients.shape[2]):
        y = jnp.zeros_like(x[..., 0])
        for d in range(x.shape[-1]):
            for n in range(basis.shape[-1]):
                y = y + coefficients[d, n, o] * basis[..., d, n]
            if base_weight is not None:
                y = y + base_weight[d, o] * bent[..., d]
        outputs.append(y)
    return jnp.stack(outputs, -1)


def kan_conv1d(
    x,
    basis,
    coefficients,
    base_kernel=None,
    *,
    base="silu",
    stride=1,
    padding="SAME",
    dilation=1,
    groups=1,
    precision=None,
):
    """A convolution along a sequence for each function of the basis, and one for the base."""
    options = {
        "stride": stride,
        "padding": padding,
        "dilation": dilation,
        "groups": groups,
        "precision": precision,
    }
    return _over_axes(x, basis, coefficients, base_kernel, base, **options)


def kan_conv2d(
    x,
    basis,
    coefficients,
    base_kernel=None,
    *,
    base="silu",
    stride=1,
    padding="SAME",
    dilation=1,
    groups=1,
    precision=None,
):
    """A convolution of maps for each function of the basis, and one for the base."""
    options = {
        "stride": stride,
        "padding": padding,
        "dilation": dilation,
        "groups": groups,
        "precision": precision,
    }
    return _over_axes(x, basis, coefficients, base_kernel, base, **options)


def kan_conv3d(
    x,
    basis,
    coefficients,
    base_kernel=None,
    *,
    base="silu",
    stride=1,
    padding="SAME",
    dilation=1,
    groups=1,
    precision=None,
):
    """A convolution of volumes for each function of the basis, and one for the base."""
    options = {
        "stride": stride,
        "padding": padding,
        "dilation": dilation,
        "groups": groups,
        "precision": precision,
    }
    return _over_axes(x, basis, coefficients, base_kernel, base, **options)


def _over_axes(x, basis, coefficients, base_kernel, base, **options):
    y = 0 if base_kernel is None else conv_over_axes(_BASES[base](x), base_kernel, **options)
    for n in range(basis.shape[-1]):
        y = y + conv_over_axes(basis[..., n], coefficients[..., n, :], **options)
    return y
