"""One large-kernel convolution seen as attention: both forms, and the matrix between tokens."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from scanmax.ops.contract import (
    accumulator_dtype,
    check_choice,
    check_grid,
    check_rank,
    op,
    require,
)
from scanmax.ops.conv.conv2d import depthwise_conv2d

FORMS = (None, "parallel", "conv")
# form=None: a tap of the convolution costs what this many entries of the matrix product do (CPU; a
# kernel of 13 x 13 on 28 x 28 or 32 x 32 pixels takes under half the time by the matrix, on 56 x 56
# three times as long, and one of 7 x 7 on 28 x 28 ten times), and longer maps make no matrix.
ENTRIES_PER_TAP = 8
PARALLEL_UP_TO = 1024


@op("form", "precision")
def lkca(
    value: Float[Array, "*B Y X H V"],
    kernel: Float[Array, "ky kx *heads"],
    *,
    form: str | None = None,
    precision=None,
) -> Float[Array, "*B Y X H V"]:
    """Attention whose weights depend on the offset between two pixels alone.

        y_p = sum_q A_pq v_q,   A_pq = kernel[centre + q - p], 0 outside of the kernel and the map

    The same sum is a convolution with zero padding ("conv") and attention with a fixed matrix
    ("parallel"), block-Toeplitz over the rows of the map and Toeplitz within a block. With a kernel
    of 2 Y - 1 by 2 X - 1 every pixel reads every other.

    The paper builds the matrix from one shared table of that size, by sliding a window over it; the
    authors' code is not public. Whether heads or channels have kernels of their own there is not
    settled: the kernel's shape says it here.

    Args:
      value: [*B, Y, X, H, V] map.
      kernel: [ky, kx] shared by all, [ky, kx, H] one per head, or [ky, kx, H, V] one per channel;
        ky and kx are odd.
      form: "conv" or "parallel", which makes the matrix of T by T tokens. None: "parallel" for
        kernels in common and up to 1024 pixels, at most eight times as many as taps, else "conv".
      precision: of the products of the parallel form.

    Returns:
      [*B, Y, X, H, V] in the dtype of value.

    Raises:
      ValueError: a kernel of even sides or whose last axes are not those of value.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> ops.lkca(jnp.ones((1, 3, 1, 1)), jnp.ones((1, 3)))[0, :, 0, 0]
      Array([2., 3., 2.], dtype=float32)

    Reference: lkca
    """
    check_choice("form", form, FORMS)
    check_rank(4, value=value)
    *batch, Y, X, H, V = value.shape
    _check(kernel, (H, V))
    if form is None:
        taps = min(kernel.shape[0], 2 * Y - 1) * min(kernel.shape[1], 2 * X - 1)
        small = kernel.ndim < 4 and min(ENTRIES_PER_TAP * taps, PARALLEL_UP_TO) >= Y * X
        form = "parallel" if small else "conv"
    if form == "parallel":
        dtype = accumulator_dtype(value, kernel)
        matrix = _matrix(kernel.astype(dtype), Y, X)  # [H or 1, V or 1, T, T]
        v = value.reshape(*batch, Y * X, H, V).astype(dtype)
        if matrix.shape[:2] == (1, 1):
            y = jnp.einsum("ts,...shv->...thv", matrix[0, 0], v, precision=precision)
        elif matrix.shape[1] == 1:
            y = jnp.einsum("hts,...shv->...thv", matrix[:, 0], v, precision=precision)
        else:
            y = jnp.einsum("hvts,...shv->...thv", matrix, v, precision=precision)
        return y.astype(value.dtype).reshape(value.shape)
    # A tap further away than the map is wide meets only zeros.
    kernel = _within(kernel, Y, X)
    ky, kx = kernel.shape[:2]
    kernel = kernel.reshape(ky, kx, *kernel.shape[2:], *(1,) * (4 - kernel.ndim))
    kernel = jnp.broadcast_to(kernel, (ky, kx, H, V)).reshape(ky, kx, 1, H * V)
    padding = ((ky // 2, ky // 2), (kx // 2, kx // 2))
    y = depthwise_conv2d(value.reshape(*batch, Y, X, H * V), kernel, padding=padding)
    return y.reshape(value.shape)


@op("grid")
def lkca_matrix(
    kernel: Float[Array, "ky kx *heads"], grid: tuple[int, int]
) -> Float[Array, "_ T T"]:
    """The matrix over tokens of `lkca`: block-Toeplitz, the same for every input.

        A_pq = kernel[centre + q - p], 0 outside of the kernel

    Args:
      kernel: [ky, kx], [ky, kx, H] or [ky, kx, H, V].
      grid: rows and columns of the map, static; tokens are its rows one after another.

    Returns:
      [1, T, T], [H, T, T], or [H V, T, T] where every channel has its own.

    Raises:
      ValueError: a kernel of even sides.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> ops.lkca_matrix(jnp.array([[1.0, 2.0, 3.0]]), (1, 3))[0]
      Array([[2., 3., 0.],
             [1., 2., 3.],
             [0., 1., 2.]], dtype=float32)

    Reference: lkca
    """
    check_grid("grid", grid)
    _check(kernel)
    return _matrix(kernel, *grid).reshape(-1, grid[0] * grid[1], grid[0] * grid[1])


def _check(kernel, channels=None):
    check_rank(2, kernel=kernel)
    fits = kernel.ndim <= 4 and kernel.shape[0] % 2 == 1 and kernel.shape[1] % 2 == 1
    if channels is not None:
        fits = fits and kernel.shape[2:] == channels[: kernel.ndim - 2]
    require(
        fits,
        f"kernel has shape {kernel.shape}; expected [ky, kx], [ky, kx, H] or [ky, kx, H, V] with "
        f"odd ky and kx{'' if channels is None else f' and (H, V) = {channels}'}.",
    )


def _within(kernel, Y, X):
    """The kernel without the taps that no pair of pixels of the map meets."""
    for axis, size in enumerate((Y, X)):
        beyond = max(kernel.shape[axis] // 2 - (size - 1), 0)
        if beyond:
            inner = slice(beyond, kernel.shape[axis] - beyond)
            kernel = kernel[(slice(None),) * axis + (inner,)]
    return kernel


def _matrix(kernel, Y, X):
    """[H or 1, V or 1, T, T] by looking every offset up in the kernel."""
    kernel = kernel.reshape(*kernel.shape, *(1,) * (4 - kernel.ndim))
    # the whole table of offsets, zeros where the kernel does not reach
    for axis, size in enumerate((Y, X)):
        missing = size - 1 - kernel.shape[axis] // 2
        if missing > 0:
            pads = [(missing, missing) if i == axis else (0, 0) for i in range(4)]
            kernel = jnp.pad(kernel, pads)
        elif missing < 0:
            kernel = kernel[(slice(None),) * axis + (slice(-missing, missing),)]
    rows = np.arange(Y)[None, :] - np.arange(Y)[:, None] + Y - 1  # [p, q]
    columns = np.arange(X)[None, :] - np.arange(X)[:, None] + X - 1
    matrix = kernel[rows[:, None, :, None], columns[None, :, None, :]]  # [Y, X, Y, X, H, V]
    matrix = matrix.reshape(Y * X, Y * X, *matrix.shape[4:])
    return jnp.moveaxis(matrix, (2, 3), (0, 1))
