"""The Fourier layer, as sums over waves."""

import jax
import jax.numpy as jnp
import numpy as np


def _complex(factor):
    return jax.lax.complex(factor[..., 0], factor[..., 1])


def _waves(size):
    """exp(-2 pi i f u / size) for f, u = 0 .. size - 1."""
    return np.exp(-2j * np.pi * np.outer(np.arange(size), np.arange(size)) / size)


def fourier_conv2d(x, weight, *, precision=None):
    """y = Re of the sum of waves, those of negative g being conjugates of those of positive g.

    The waves g = 0 and, on even maps, g = X / 2 are their own conjugates, and are summed once.
    """
    (Y, X), (M, N) = x.shape[-3:-1], weight.shape[:2]
    matrices = _complex(weight)
    down, across = (jnp.asarray(_waves(size), matrices.dtype) for size in (Y, X))
    spectrum = jnp.einsum("fu,gv,...uvi->...fgi", down, across, x.astype(matrices.dtype))
    y = jnp.zeros((*x.shape[:-1], weight.shape[3]), x.dtype)
    count = min(Y, M)
    for f in range(-(count // 2), count - count // 2):
        for g in range(min(X // 2 + 1, N)):
            coefficient = jnp.einsum(
                "...i,io->...o", spectrum[..., f % Y, g, :], matrices[f + M // 2, g]
            )
            wave = down[f % Y].conj()[:, None] * across[g].conj()[None]
            real = jnp.einsum("...o,uv->...uvo", coefficient, wave).real
            y = y + real * ((1 if 2 * g in (0, X) else 2) / (Y * X))
    return y


def tucker_fourier_conv2d(x, core, rows, columns, inputs, outputs, *, precision=None):
    """R_fgio = sum_pqrs core_pqrs rows_fp columns_gq inputs_ir outputs_os."""
    factors = [_complex(factor) for factor in (core, rows, columns, inputs, outputs)]
    weight = jnp.einsum("pqrs,mp,nq,ir,os->mnio", *factors)
    return fourier_conv2d(x, jnp.stack([weight.real, weight.imag], -1))


def cp_fourier_conv2d(x, scale, rows, columns, inputs, outputs, *, precision=None):
    """R_fgio = sum_r scale_r rows_fr columns_gr inputs_ir outputs_or."""
    factors = [_complex(factor) for factor in (scale, rows, columns, inputs, outputs)]
    weight = jnp.einsum("r,mr,nr,ir,or->mnio", *factors)
    return fourier_conv2d(x, jnp.stack([weight.real, weight.imag], -1))
