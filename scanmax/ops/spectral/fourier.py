"""The Fourier layer of neural operators: low frequencies times matrices over channels.

The matrices of all frequencies are one array, or the factors of one: Tucker's or those of CP, by
which the spectrum is multiplied in turn, so that the array is never made.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.ops.contract import accumulator_dtype, check_rank, check_shape, op, require


def _check(x: Array, **factors: tuple[Array, int, str]) -> None:
    """Refuses factors without their axes; each is (array, axes, what they are)."""
    check_rank(3, x=x)
    for name, (factor, axes, layout) in factors.items():
        require(
            factor.ndim == axes and factor.shape[-1] == 2,
            f"{name} has shape {factor.shape}; expected {layout}.",
        )


def _complex(factor: Array, dtype) -> Array:
    factor = factor.astype(dtype)
    return jax.lax.complex(factor[..., 0], factor[..., 1])


def _transformed(x: Array, modes: tuple[int, int], dtype, multiply) -> Array:
    """irfft2 of multiply(low frequencies of x, their rows of the weights, their columns).

    Row i of the weights is of the frequency i - floor(M / 2), column j of the frequency j.
    """
    grid, edge = x.shape[-3:-1], x.shape[-2] // 2 + 1
    rows, columns = min(grid[0], modes[0]), min(edge, modes[1])
    below = rows // 2
    # Channels first, and along Y the low frequencies along X alone: neither way takes more.
    spectrum = jnp.fft.rfft(jnp.moveaxis(x.astype(dtype), -1, -3))[..., :columns]
    spectrum = jnp.fft.fft(jnp.swapaxes(spectrum, -1, -2))  # [*B, I, columns, Y]
    low = jnp.concatenate([spectrum[..., grid[0] - below :], spectrum[..., : rows - below]], -1)
    first = modes[0] // 2 - below
    low = jnp.moveaxis(low, -3, -1).swapaxes(-3, -2)
    y = multiply(low, slice(first, first + rows), slice(0, columns))
    y = jnp.moveaxis(y.swapaxes(-3, -2), -1, -3)  # [*B, O, columns, rows]
    zeros = jnp.zeros((*y.shape[:-1], grid[0] - rows), y.dtype)
    y = jnp.concatenate([y[..., below:], zeros, y[..., :below]], -1)
    y = jnp.swapaxes(jnp.fft.ifft(y), -1, -2)
    return jnp.moveaxis(jnp.fft.irfft(y, n=grid[1]), -3, -1).astype(x.dtype)


@op("precision")
def fourier_conv2d(
    x: Float[Array, "*B Y X I"],
    weight: Float[Array, "M N I O 2"],
    *,
    precision: jax.lax.PrecisionLike = None,
) -> Float[Array, "*B Y X O"]:
    """Fourier layer: every low frequency times a matrix over channels, higher ones times zero.

        y = irfft2(R(f, g) rfft2(x)(f, g)),  -floor(M / 2) <= f < ceil(M / 2),  0 <= g < N

    The matrices belong to the frequencies in periods over the map, so that the same weights serve
    maps of any resolution, and a wave sampled more finely gives the same wave sampled more finely.

    Args:
      x: the map.
      weight: real and imaginary parts of R; row M // 2 is of frequency 0 along Y. Those of
        frequencies that the map does not have are not read.
      precision: of the products over channels, as in jax.lax.

    Returns:
      [*B, Y, X, O] in the dtype of x; transforms are in at least float32.

    Raises:
      ValueError: when weight is not [M, N, I, O, 2].

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> mean = jnp.array([1.0, 0.0]).reshape(1, 1, 1, 1, 2)
      >>> ops.fourier_conv2d(jnp.array([[[1.0], [3.0]], [[5.0], [7.0]]]), mean)[..., 0]
      Array([[4., 4.],
             [4., 4.]], dtype=float32)

    Reference: mg-tfno
    """
    _check(x, weight=(weight, 5, "[M, N, I, O, 2]"))
    require(
        weight.shape[2] == x.shape[-1],
        f"weight has shape {weight.shape}; expected [M, N, I, O, 2] with I = {x.shape[-1]}.",
    )
    dtype = accumulator_dtype(x, weight)

    def multiply(low, rows, columns):
        kept = jax.lax.collapse(weight.astype(dtype)[rows, columns], 3)
        # Real and imaginary parts of x times pairs of parts: the weights are read as they lie, and
        # XLA on CPU is slow at complex products.
        parts = jnp.stack([low.real, low.imag])
        pairs = jnp.einsum("p...mni,mnio->p...mno", parts, kept, precision=precision)
        real, imaginary = pairs.reshape(*pairs.shape[:-1], weight.shape[3], 2)
        return jax.lax.complex(real[..., 0] - imaginary[..., 1], real[..., 1] + imaginary[..., 0])

    return _transformed(x, weight.shape[:2], dtype, multiply)


@op("precision")
def tucker_fourier_conv2d(
    x: Float[Array, "*B Y X I"],
    core: Float[Array, "P Q R S 2"],
    rows: Float[Array, "M P 2"],
    columns: Float[Array, "N Q 2"],
    inputs: Float[Array, "I R 2"],
    outputs: Float[Array, "O S 2"],
    *,
    precision: jax.lax.PrecisionLike = None,
) -> Float[Array, "*B Y X O"]:
    """`fourier_conv2d` with weights in Tucker's form: a small core and a factor for every axis.

        R_fgio = sum_pqrs core_pqrs rows_fp columns_gq inputs_ir outputs_os

    The spectrum is multiplied by one factor after another; R itself is never made.

    Args:
      x: the map.
      core: real and imaginary parts, as of all factors.
      rows: of the frequencies along Y, of which row M // 2 is frequency 0.
      columns: of those along X.
      inputs: of the input channels.
      outputs: of the output channels.
      precision: of the products, as in jax.lax.

    Returns:
      [*B, Y, X, O] in the dtype of x; transforms are in at least float32.

    Raises:
      ValueError: a factor of the wrong shape.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> one = jnp.array([[1.0, 0.0]])
      >>> core, x = one.reshape(1, 1, 1, 1, 2), jnp.array([[[1.0], [3.0]]])
      >>> ops.tucker_fourier_conv2d(x, core, *[one[None]] * 4)[..., 0]
      Array([[2., 2.]], dtype=float32)

    Reference: mg-tfno
    """
    factors = {"rows": rows, "columns": columns, "inputs": inputs, "outputs": outputs}
    _check(
        x,
        core=(core, 5, "[P, Q, R, S, 2]"),
        **{name: (factor, 3, "[size, rank, 2]") for name, factor in factors.items()},
    )
    for rank, (name, factor) in zip(core.shape, factors.items()):
        check_shape(name, factor, (len(factor), rank, 2), "[size, rank, 2]")
    check_shape("inputs", inputs, (x.shape[-1], core.shape[2], 2), "[I, R, 2]")
    dtype = accumulator_dtype(x, core, *factors.values())

    def multiply(low, down, across):
        given = (rows[down], columns[across], core, inputs, outputs)
        down, across, middle, into, out = (_complex(factor, dtype) for factor in given)
        thin = jnp.einsum("...mni,ir->...mnr", low, into, precision=precision)
        middle = jnp.einsum("mp,pqrs->mqrs", down, middle, precision=precision)
        middle = jnp.einsum("nq,mqrs->mnrs", across, middle, precision=precision)
        thin = jnp.einsum("...mnr,mnrs->...mns", thin, middle, precision=precision)
        return jnp.einsum("...mns,os->...mno", thin, out, precision=precision)

    return _transformed(x, (len(rows), len(columns)), dtype, multiply)


@op("precision")
def cp_fourier_conv2d(
    x: Float[Array, "*B Y X I"],
    scale: Float[Array, "R 2"],
    rows: Float[Array, "M R 2"],
    columns: Float[Array, "N R 2"],
    inputs: Float[Array, "I R 2"],
    outputs: Float[Array, "O R 2"],
    *,
    precision: jax.lax.PrecisionLike = None,
) -> Float[Array, "*B Y X O"]:
    """`fourier_conv2d` with weights in CP's form: a sum of R products of vectors.

        R_fgio = sum_r scale_r rows_fr columns_gr inputs_ir outputs_or

    Args:
      x: the map.
      scale: of each product, real and imaginary part, as of all factors.
      rows: of the frequencies along Y, of which row M // 2 is frequency 0.
      columns: of those along X.
      inputs: of the input channels.
      outputs: of the output channels.
      precision: of the products, as in jax.lax.

    Returns:
      [*B, Y, X, O] in the dtype of x; transforms are in at least float32.

    Raises:
      ValueError: a factor of the wrong shape.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> one, x = jnp.array([[1.0, 0.0]]), jnp.array([[[1.0], [3.0]]])
      >>> ops.cp_fourier_conv2d(x, one, *[one[None]] * 4)[..., 0]
      Array([[2., 2.]], dtype=float32)

    Reference: mg-tfno
    """
    factors = {"rows": rows, "columns": columns, "inputs": inputs, "outputs": outputs}
    _check(
        x,
        scale=(scale, 2, "[R, 2]"),
        **{name: (factor, 3, "[size, R, 2]") for name, factor in factors.items()},
    )
    for name, factor in factors.items():
        size = x.shape[-1] if name == "inputs" else len(factor)
        check_shape(name, factor, (size, len(scale), 2), "[size, R, 2]")
    dtype = accumulator_dtype(x, scale, *factors.values())

    def multiply(low, down, across):
        given = (rows[down], columns[across], scale, inputs, outputs)
        down, across, weights, into, out = (_complex(factor, dtype) for factor in given)
        thin = jnp.einsum("...mni,ir->...mnr", low, into, precision=precision)
        gains = jnp.einsum("r,mr,nr->mnr", weights, down, across, precision=precision)
        thin = thin * jnp.broadcast_to(gains, thin.shape)
        return jnp.einsum("...mnr,or->...mno", thin, out, precision=precision)

    return _transformed(x, (len(rows), len(columns)), dtype, multiply)
