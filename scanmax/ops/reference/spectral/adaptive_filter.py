"""Adaptive frequency filters, as circular convolutions with a kernel that the map sets."""

import jax
import jax.numpy as jnp


def _dense(x, kernel, bias):
    """The complex linear map of each group."""
    y = jnp.einsum("...gi,gij->...gj", x, jax.lax.complex(kernel[0], kernel[1]))
    return y + jnp.broadcast_to(jax.lax.complex(bias[0], bias[1]), y.shape)


def _by_parts(function, z):
    return jax.lax.complex(function(z.real), function(z.imag))


def adaptive_frequency_filter(
    x, kernel, bias, out_kernel, out_bias, *, threshold=0.01, precision=None
):
    """y[u, v] = sum_ij k[i, j] x[u - i, v - j] around the map, k = irfft2(M)."""
    rows, columns = x.shape[-3:-1]
    spectrum = jnp.fft.rfft2(x, axes=(-3, -2), norm="ortho")
    groups = spectrum.reshape(*spectrum.shape[:-1], *kernel.shape[1:3])
    mask = _dense(_by_parts(jax.nn.relu, _dense(groups, kernel, bias)), out_kernel, out_bias)

    def shrink(part):
        return jnp.where(jnp.abs(part) > threshold, part - threshold * jnp.sign(part), 0)

    mask = _by_parts(shrink, mask).reshape(spectrum.shape)
    k = jnp.fft.irfft2(mask, s=(rows, columns), axes=(-3, -2))
    y = jnp.zeros_like(x)
    for i in range(rows):
        for j in range(columns):
            y = y + k[..., i : i + 1, j : j + 1, :] * jnp.roll(x, (i, j), (-3, -2))
    return y
