"""The Fourier transform by its definition, and its factorisation by index."""

import jax.numpy as jnp
import numpy as np


def monarch_fft(x, blocks=None, *, factors=None):
    """sum_j exp(-2 pi i j k / N) x_j; with blocks, the factorisation as nested sums."""
    length = x.shape[-1]
    if blocks is None:
        index = np.arange(length)
        return jnp.einsum(
            "kj,...j->...k", np.exp(-2j * np.pi * np.outer(index, index) / length), x + 0j
        )
    first, rest = blocks[0], blocks[1:]
    matrix = first[..., 0] + 1j * first[..., 1]
    n = matrix.shape[0]
    if not rest:
        return jnp.einsum("kj,...j->...k", matrix, x + 0j)
    y = [None] * length
    for k in range(n):
        # every n2-th number, weighed by row k of the first block
        columns = [
            jnp.einsum("j,...j->...", matrix[k], x[..., column :: length // n] + 0j)
            * np.exp(-2j * np.pi * k * column / length)
            for column in range(length // n)
        ]
        inner = monarch_fft(jnp.stack(columns, -1), rest)
        for other in range(length // n):
            y[k + n * other] = inner[..., other]
    return jnp.stack(y, -1)
