"""The discrete Fourier transform as products with small matrices, fixed or learned."""

import math
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float, Inexact

from scanmax.ops.contract import accumulator_dtype, check_rank, op, require

# The matrices of one transform are at most this wide, as wide as the tiles of matrix units.
WIDEST = 32


@op("factors")
def monarch_fft(
    x: Inexact[Array, "*B N"],
    blocks: Sequence[Float[Array, "n n 2"]] | None = None,
    *,
    factors: tuple[int, ...] | None = None,
) -> Complex[Array, "*B N"]:
    """Fourier transform of the last axis as a Monarch product of small matrices.

        X[k1 + n1 k2] = sum_j2 F2[k2, j2] w^(k1 j2) sum_j1 F1[k1, j1] x[j1 n2 + j2],  N = n1 n2

    with w = exp(-2 pi i / N); further factors split n2 in the same way. A product of two factors
    costs N (n1 + n2) multiply-adds in matrix products instead of N log N outside of them. With
    `blocks` learned matrices stand in the place of the small transforms F and the twiddle factors
    and permutations stay: the learnable extension of the paper.

    Args:
      x: real or complex.
      blocks: one matrix per factor, real and imaginary part last; None is the Fourier transform.
      factors: sizes of the matrices, of product N; None takes those of `blocks`, or splits N into
        nearly equal factors of at most 32 where N has them.

    Returns:
      [*B, N] complex, complex64 or complex128.

    Raises:
      ValueError: factors whose product is not N, blocks of other sizes.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax.ops import monarch_fft
      >>> x = jnp.arange(12.0)
      >>> bool(jnp.allclose(monarch_fft(x), jnp.fft.fft(x), atol=1e-4))
      True

    Reference: long-conv-flashbutterfly
    """
    check_rank(1, x=x)
    length = x.shape[-1]
    if factors is None and blocks is not None:
        factors = tuple(block.shape[0] for block in blocks)
    if factors is not None:
        require(
            math.prod(factors) == length,
            f"factors={tuple(factors)} have product {math.prod(factors)}; x has shape {x.shape}.",
        )
    if blocks is not None:
        shapes = tuple(tuple(block.shape) for block in blocks)
        require(
            shapes == tuple((n, n, 2) for n in factors),
            f"blocks have shapes {shapes}; expected [n, n, 2] for n in {tuple(factors)}.",
        )
    real = accumulator_dtype(x.real)
    x = x.astype(jnp.complex128 if real == jnp.float64 else jnp.complex64)
    matrices = None
    if blocks is not None:
        matrices = [(block[..., 0] + 1j * block[..., 1]).astype(x.dtype) for block in blocks]
    return monarch_transform(x, factors, matrices)


def monarch_transform(x, factors=None, matrices=None):
    """The transform of complex x [*B, N], by the factors of N, by given matrices or Fourier's."""
    factors = monarch_factors(x.shape[-1]) if factors is None else tuple(factors)
    first, *rest = factors
    matrix = _fourier(first, x.dtype) if matrices is None else matrices[0]
    if not rest:
        return jnp.einsum("kj,...j->...k", matrix, x, precision="highest")
    others = math.prod(rest)
    x = x.reshape(*x.shape[:-1], first, others)
    x = jnp.einsum("kj,...jn->...kn", matrix, x, precision="highest")
    x = x * _twiddle(first, others, x.dtype).reshape((1,) * (x.ndim - 2) + (first, others))
    x = monarch_transform(x, rest, None if matrices is None else matrices[1:])
    return jnp.swapaxes(x, -1, -2).reshape(*x.shape[:-2], first * others)


def monarch_factors(length: int) -> tuple[int, ...]:
    """Factors of the length, nearly equal, each of at most 32 unless a prime is larger."""
    primes, rest, factor = [], length, 2
    while rest > 1:
        while rest % factor == 0:
            primes.append(factor)
            rest //= factor
        factor += 1
    count = max(1, math.ceil(math.log(max(length, 2)) / math.log(WIDEST) - 1e-9))
    while True:
        factors = [1] * count
        for prime in reversed(primes):
            smallest = min(range(count), key=factors.__getitem__)
            factors[smallest] *= prime
        if max(factors) <= max([WIDEST, *primes]) or count > len(primes):
            return tuple(sorted((f for f in factors if f > 1), reverse=True)) or (1,)
        count += 1


def _fourier(size: int, dtype):
    index = np.arange(size)
    return jnp.asarray(np.exp(-2j * np.pi * (np.outer(index, index) % size) / size), dtype)


def _twiddle(first: int, others: int, dtype):
    phase = np.outer(np.arange(first), np.arange(others)) / (first * others)
    return jnp.asarray(np.exp(-2j * np.pi * phase), dtype)
