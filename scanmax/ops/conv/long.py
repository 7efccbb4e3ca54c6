"""Convolutions as long as what they convolve: by FFT over any number of axes, step by step, dense.

One sum serves every mode. The kernel's index j stands for the lag j - c, and

    y_t = sum_j kernel_j x_{t - (j - c)},    c = 0 (causal, circular) or L // 2 (bidirectional).

The transforms are as short as the outputs allow (what wraps around falls on outputs that nobody
reads), of a length whose prime factors are 2, 3 and 5.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from scanmax.ops.contract import (
    accumulator_dtype,
    align,
    check_choice,
    check_rank,
    check_shape,
    op,
    platform,
    require,
    vary_together,
)
from scanmax.ops.conv.conv1d import causal_conv1d
from scanmax.ops.conv.conv2d import depthwise_conv2d
from scanmax.ops.conv.monarch import monarch_transform
from scanmax.ops.segments import segment_starts

FORMS = (None, "fft", "monarch", "direct")
MODES = ("causal", "bidirectional", "circular")
# form=None on CPU: up to here the shifted multiply-adds are faster than the transforms.
DIRECT_TAPS = 32
# Packed sequences: within blocks of at most so many tokens by shifted multiply-adds; 8 and 32 were
# slower on CPU.
PACKED_BLOCK = 16


@op("mode", "return_state", "form")
def fft_conv(
    x: Float[Array, "*B_T D"],
    kernel: Float[Array, "*L D"],
    skip: Float[Array, " D"] | None = None,
    *,
    mode: str = "causal",
    segment_ids: Int[Array, "*B T"] | None = None,
    initial_state: Float[Array, "*B _ D"] | None = None,
    return_state: bool = False,
    form: str | None = None,
):
    """Depthwise convolution over the whole sequence, map or volume, in T log T.

        y_t = skip * x_t + sum_j kernel_j x_{t - (j - c)},   x outside is 0 (circular: periodic)

    c is 0 for "causal" and "circular", where kernel_j weighs the token j steps ago, and L // 2 for
    "bidirectional", where the kernel is centred. The rank of the kernel says how many axes are
    convolved: [L, D] sequences, [Ly, Lx, D] maps, three axes volumes. The gradient transforms again
    what it needs, and keeps x and the kernel alone.

    Args:
      x: [*B, T, D], [*B, Y, X, D] or [*B, Z, Y, X, D].
      kernel: taps per axis, then channels; of any length, but at most T for "circular".
      skip: per channel, the weight of the token itself that is added.
      mode: "causal" (on every axis), "bidirectional" or "circular".
      segment_ids: packed causal sequences: where the number changes from a token to the next a new
        one starts, and nothing passes. Blocks of 2, 4, 8, ... of them are joined by transforms of
        the one sequence that goes on from a half to the next: T (log T)^2, any number of segments
        (at T = 4096 on CPU 3 times the time of one sequence, 5 times in training).
      initial_state: the L - 1 tokens before the first, oldest first, of the first segment, for
        causal sequences; zeros by default.
      return_state: also return the last L - 1 tokens, to go on from; zeros in the place of those of
        segments before the last.
      form: "fft"; "monarch", the same transforms as products with small matrices; "direct",
        shifted multiply-adds, for sequences and maps. None: "direct" on CPU for up to 32 taps in
        all, else "fft".

    Returns:
      The shape and dtype of x; with `return_state` also [*B, L-1, D] in the dtype of x.

    Raises:
      ValueError: arrays of the wrong shape, a state or segments for another mode than "causal"
        sequences, a circular kernel longer than x, "direct" for volumes, an unknown mode or form.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax.ops import fft_conv
      >>> fft_conv(jnp.eye(4)[:, 1:2], jnp.array([[3.0], [2.0], [1.0]]), form="direct")[:, 0]
      Array([0., 3., 2., 1.], dtype=float32)

    Reference: long-conv-flashbutterfly, ckconv, sgconv, ccnn-nd
    """
    axes = _check(x, kernel, mode, form)
    check_shape("kernel", kernel, (*kernel.shape[:-1], x.shape[-1]), "[*L, D]")
    check_shape("skip", skip, x.shape[-1:], "[D]")
    stateful = initial_state is not None or return_state
    require(
        not (stateful or segment_ids is not None) or (mode == "causal" and axes == 1),
        "initial_state, return_state and segment_ids need mode='causal' and a sequence; mode is "
        f"{mode!r} and kernel has shape {kernel.shape}.",
    )
    check_shape("segment_ids", segment_ids, x.shape[:-1], "[*B, T]")
    taps, batch = kernel.shape[0], x.shape[: -axes - 1]
    if stateful:
        shape = (*batch, taps - 1, x.shape[-1])
        check_shape("initial_state", initial_state, shape, "[*B, L-1, D]")
        if initial_state is None:
            initial_state = jnp.zeros(shape, x.dtype)
        extended = jnp.concatenate([initial_state.astype(x.dtype), x], axis=-2)
    else:
        extended = x
    dtype = accumulator_dtype(x, kernel, skip)
    tokens, weights = extended.astype(dtype), kernel.astype(dtype)
    window = extended[..., extended.shape[-2] - (taps - 1) :, :]
    if segment_ids is None:
        y = _convolve(tokens, weights, mode, form, stateful)
    else:
        # the state belongs to the first segment
        more = [(0, 0)] * len(batch) + [(tokens.shape[-2] - x.shape[-2], 0)]
        runs = jnp.pad(jnp.cumsum(segment_starts(segment_ids), -1), more)
        y = _convolve_packed(tokens, weights, runs, form)[..., more[-1][0] :, :]
        last = runs[..., runs.shape[-1] - (taps - 1) :] == runs[..., -1:]
        window = jnp.where(last[..., None], window, 0)
    if skip is not None:
        y = y + x.astype(dtype) * align(skip.astype(dtype), x)
    y = y.astype(x.dtype)
    return (y, window) if return_state else y


@op("mode")
def fft_conv_dense(
    x: Float[Array, "*B_T I"], kernel: Float[Array, "*L I O"], *, mode: str = "causal"
):
    """Convolution over the whole sequence in which every channel reads every channel.

        y_{t,o} = sum_{j,i} kernel_{j,i,o} x_{t - (j - c), i}

    As `fft_conv`, with a matrix product over channels at every frequency.

    Args:
      x: [*B, T, I], [*B, Y, X, I] or [*B, Z, Y, X, I].
      kernel: taps per axis, then input and output channels.
      mode: "causal", "bidirectional" or "circular", see `fft_conv`.

    Returns:
      [*B, T, O] in the dtype of x.

    Raises:
      ValueError: arrays of the wrong shape, a circular kernel longer than x, an unknown mode.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax.ops import fft_conv_dense
      >>> fft_conv_dense(jnp.ones((5, 2)), jnp.ones((3, 2, 4))).shape
      (5, 4)

    Reference: ckconv, flexconv
    """
    check_rank(3, kernel=kernel)
    axes = _check(x, kernel[..., 0], mode, None)
    check_shape("kernel", kernel, (*kernel.shape[:-2], x.shape[-1], kernel.shape[-1]), "[*L, I, O]")
    dtype = accumulator_dtype(x, kernel)
    size = x.shape[-axes - 1 : -1]
    kernel, first = _crop(kernel, size, mode)
    plan = _plan(size, kernel.shape[:axes], first, mode)
    X = jnp.fft.rfftn(_channels_first(x.astype(dtype), axes), plan, axes=_last(axes))
    K = jnp.fft.rfftn(jnp.moveaxis(kernel.astype(dtype), (-2, -1), (0, 1)), plan, axes=_last(axes))
    spectra = "zyx"[3 - axes :]
    Y = jnp.einsum(f"...i{spectra},io{spectra}->...o{spectra}", X, K)
    y = jnp.fft.irfftn(Y, plan, axes=_last(axes))
    return jnp.moveaxis(_window(y, first, size), -axes - 1, -1).astype(x.dtype)


@op()
def long_conv_step(
    state: Float[Array, "*B _ D"],
    x: Float[Array, "*B D"],
    kernel: Float[Array, "L D"],
    skip: Float[Array, " D"] | None = None,
):
    """One token of a causal `fft_conv`: the state is the cache of the last L - 1 tokens.

        y_t = skip * x_t + sum_j kernel_j x_{t - j}

    A kernel without further structure has no smaller state: a token costs L multiply-adds per
    channel, as a query of attention does, not the constant of a scan.

    Args:
      state: the tokens before this one, oldest first; zeros at the start.
      x: the token.
      kernel: row j weighs the token j steps ago.
      skip: per channel, the weight of the token itself that is added.

    Returns:
      (y [*B, D] in the dtype of x, the next state).

    Raises:
      ValueError: an array of the wrong shape.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax.ops import long_conv_step
      >>> y, state = long_conv_step(jnp.array([[5.0]]), jnp.ones(1), jnp.array([[1.0], [2.0]]))
      >>> y
      Array([11.], dtype=float32)

    Reference: long-conv-flashbutterfly
    """
    check_rank(1, x=x)
    check_rank(2, kernel=kernel)
    taps, dim = kernel.shape
    check_shape("kernel", kernel, (taps, x.shape[-1]), "[L, D]")
    check_shape("skip", skip, x.shape[-1:], "[D]")
    check_shape("state", state, (*x.shape[:-1], taps - 1, dim), "[*B, L-1, D]")
    window = jnp.concatenate([state, x[..., None, :].astype(state.dtype)], axis=-2)
    dtype = accumulator_dtype(x, kernel, skip)
    y = (window.astype(dtype) * align(kernel[::-1].astype(dtype), window)).sum(-2)
    if skip is not None:
        y = y + x.astype(dtype) * align(skip.astype(dtype), x)
    return y.astype(x.dtype), window[..., 1:, :]


@op("size", "mode")
def long_conv_matrix(
    kernel: Float[Array, "*L D"],
    skip: Float[Array, " D"] | None = None,
    *,
    size: int | tuple[int, ...],
    mode: str = "causal",
) -> Float[Array, "D T T"]:
    """The matrix over tokens of `fft_conv`: Toeplitz, one per channel, the same for every input.

        A_ts = kernel_{t - s + c} + skip [t = s],   0 outside of the kernel

    Args:
      kernel: taps per axis, then channels.
      skip: per channel, added on the diagonal.
      size: tokens along each convolved axis, static; those of a map are its rows one after another.
      mode: "causal", "bidirectional" or "circular", see `fft_conv`.

    Returns:
      [D, T, T] in the dtype of the kernel, T the product of size.

    Raises:
      ValueError: a size of another rank than the kernel's, a circular kernel longer than x.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax.ops import long_conv_matrix
      >>> long_conv_matrix(jnp.array([[1.0], [2.0]]), size=3)[0]
      Array([[1., 0., 0.],
             [2., 1., 0.],
             [0., 2., 1.]], dtype=float32)

    Reference: long-conv-flashbutterfly
    """
    size = (size,) if isinstance(size, int) else tuple(size)
    check_choice("mode", mode, MODES)
    check_rank(2, kernel=kernel)
    require(
        kernel.ndim == len(size) + 1,
        f"kernel has shape {kernel.shape}; expected as many axes before the channels as {size=}.",
    )
    _check_circular(kernel, size, mode)
    places = np.stack([axis.reshape(-1) for axis in np.indices(size)])  # [axes, T]
    lags = places[:, :, None] - places[:, None, :]
    taps = np.array(kernel.shape[:-1])[:, None, None]
    index = lags + taps // 2 if mode == "bidirectional" else lags
    if mode == "circular":
        index = index % np.array(size)[:, None, None]
    inside = np.all((index >= 0) & (index < taps), axis=0)
    rows = kernel[tuple(np.clip(index, 0, taps - 1))]  # [T, T, D]
    matrix = jnp.moveaxis(jnp.where(inside[..., None], rows, jnp.zeros((), rows.dtype)), -1, 0)
    if skip is not None:
        check_shape("skip", skip, kernel.shape[-1:], "[D]")
        eye = jnp.eye(places.shape[1], dtype=matrix.dtype)
        matrix = matrix + skip.astype(matrix.dtype)[:, None, None] * eye[None]
    return matrix


def smooth_length(minimum: int) -> int:
    """The smallest even length of at least `minimum` whose prime factors are 2, 3 and 5."""
    length = max(minimum + minimum % 2, 2)
    while True:
        rest = length
        for factor in (2, 3, 5):
            while rest % factor == 0:
                rest //= factor
        if rest == 1:
            return length
        length += 2


def _check(x, kernel, mode, form) -> int:
    """The number of convolved axes."""
    check_choice("mode", mode, MODES)
    check_choice("form", form, FORMS)
    check_rank(2, kernel=kernel)
    axes = kernel.ndim - 1
    require(axes <= 3, f"kernel has shape {kernel.shape}; expected 1, 2 or 3 axes of taps.")
    require(
        form != "direct" or axes < 3,
        f"form='direct' serves sequences and maps; kernel has shape {kernel.shape}.",
    )
    check_rank(axes + 1, x=x)
    _check_circular(kernel, x.shape[-axes - 1 : -1], mode)
    return axes


def _check_circular(kernel, size, mode):
    require(
        mode != "circular" or all(taps <= n for taps, n in zip(kernel.shape, size)),
        f"kernel has shape {kernel.shape}; expected at most {tuple(size)} taps where circular.",
    )


def _last(axes: int) -> tuple[int, ...]:
    return tuple(range(-axes, 0))


def _channels_first(x, axes):
    return jnp.moveaxis(x, -1, -axes - 1)


def _crop(kernel, size, mode):
    """The kernel without the taps that meet nothing, and c for each axis."""
    first = []
    for axis, n in enumerate(size):
        taps = kernel.shape[axis]
        if mode == "bidirectional":
            before, after = min(taps // 2, n - 1), min(taps - 1 - taps // 2, n - 1)
            kept = slice(taps // 2 - before, taps // 2 + after + 1)
            first.append(before)
        else:
            kept = slice(0, min(taps, n))
            first.append(0)
        kernel = kernel[(slice(None),) * axis + (kept,)]
    return kernel, tuple(first)


def _plan(size, taps, first, mode) -> tuple[int, ...]:
    """Lengths of the transforms: what wraps around falls before output `first`."""
    if mode == "circular":
        return tuple(size)
    return tuple(smooth_length(max(n + k - 1 - c, n + c, k)) for n, k, c in zip(size, taps, first))


def _window(y, first, size):
    """The outputs, of arrays whose last axes were transformed."""
    return y[(..., *(slice(c, c + n) for c, n in zip(first, size)))]


def _convolve(x, kernel, mode, form, stateful):
    """The sums; `stateful` x begins with L - 1 tokens that give no outputs."""
    axes = kernel.ndim - 1
    size = x.shape[-axes - 1 : -1]
    if stateful:
        first = (kernel.shape[0] - 1,)
    else:
        kernel, first = _crop(kernel, size, mode)
    form = _choose(form, kernel, mode)
    if form == "direct":
        return _direct(x, kernel, mode, first, stateful)
    if stateful:
        # of the longer sequence only the outputs behind the state are read
        size = (size[0] - first[0],)
        plan = (smooth_length(size[0] + first[0]),)
    else:
        plan = _plan(size, kernel.shape[:-1], first, mode)
    x, kernel = vary_together(x, kernel)
    return _transformed(x, kernel, (plan, first, size, form))


def _choose(form, kernel, mode):
    if form is not None:
        return form
    small = math.prod(kernel.shape[:-1]) <= DIRECT_TAPS and kernel.ndim < 4 and mode != "circular"
    return "direct" if small and platform() == "cpu" else "fft"


def _convolve_packed(x, kernel, runs, form):
    """The causal sums over the tokens of the same run, `runs` [*B, T] being numbers that grow.

    A block is two halves, each convolved by itself, and what the left gives to the right one. Only
    the run that goes on across the border takes part in that: one convolution, with the others'
    tokens masked before and their outputs after.
    """
    form = _choose(form, kernel, "causal")
    x, kernel, runs = vary_together(x, kernel, runs)
    (length, dim), taps = x.shape[-2:], kernel.shape[0]
    if form == "direct":
        return causal_conv1d(x, jnp.flip(kernel, 0), segment_ids=runs)
    levels = max(0, math.ceil(math.log2(length / PACKED_BLOCK)))
    block = -(-length // 2**levels)
    lead, pad = x.shape[:-2], (block << levels) - length
    outer = [(0, 0)] * len(lead)
    x, runs = jnp.pad(x, [*outer, (0, pad), (0, 0)]), jnp.pad(runs, [*outer, (0, pad)])

    @functools.partial(jax.checkpoint, static_argnums=(3,))
    def across(x, kernel, runs, half):
        width = min(half, taps - 1)  # tokens further from the border do not reach across
        pairs = (x.shape[-2] // (2 * half), 2, half)
        x, runs = x.reshape(*lead, *pairs, dim), runs.reshape(*lead, *pairs)
        border = runs[..., 0, -1:]
        left = jnp.where(
            (runs[..., 0, half - width :] == border)[..., None], x[..., 0, -width:, :], 0
        )
        options = ((smooth_length(2 * width),), (width,), (width,), form)
        y = _transformed(left, kernel[: 2 * width], options)
        y = jnp.where((runs[..., 1, :width] == border)[..., None], y, 0)
        y = jnp.pad(y, [*outer, (0, 0), (half, half - width), (0, 0)])
        return lax.collapse(y, -3, -1)

    by_block = x.reshape(*lead, 2**levels, block, dim), runs.reshape(*lead, 2**levels, block)
    y = causal_conv1d(by_block[0], jnp.flip(kernel[:block], 0), segment_ids=by_block[1])
    y = y.reshape(x.shape)
    for level in range(levels if taps > 1 else 0):
        y = y + across(x, kernel, runs, block << level)
    return y[..., :length, :]


def _direct(x, kernel, mode, first, stateful):
    """Shifted multiply-adds, of maps of one row where x is a sequence."""
    axes = kernel.ndim - 1
    taps = kernel.shape[:-1]
    if mode == "circular":
        pads = [(k - 1, 0) for k in taps]
        width = [(0, 0)] * (x.ndim - axes - 1) + pads + [(0, 0)]
        x, padding = jnp.pad(x, width, mode="wrap"), [(0, 0)] * axes
    elif stateful:
        padding = [(0, 0)]
    else:
        padding = [(k - 1 - c, c) for k, c in zip(taps, first)]
    # the convolution slides the kernel as it is: the oldest tap first
    kernel = jnp.flip(kernel, tuple(range(axes)))[..., None, :]
    if axes == 1:
        x, kernel, padding = x[..., None, :, :], kernel[None], [(0, 0), *padding]
    y = depthwise_conv2d(x, kernel, padding=tuple(padding))
    return y[..., 0, :, :] if axes == 1 else y


def _transform(x, lengths, form):
    """The spectrum over the last axes of real x [..., D, *T], zeros appended."""
    axes = len(lengths)
    if form == "fft":
        return jnp.fft.rfftn(x, lengths, axes=_last(axes))
    pads = [(0, 0)] * (x.ndim - axes)
    pads += [(0, n - have) for n, have in zip(lengths, x.shape[-axes:])]
    x = jnp.pad(x, pads)
    x = lax.complex(x, jnp.zeros_like(x))
    for axis in range(-axes, 0):
        x = jnp.moveaxis(monarch_transform(jnp.moveaxis(x, axis, -1)), -1, axis)
    return x


def _inverse(spectrum, lengths, form):
    axes = len(lengths)
    if form == "fft":
        return jnp.fft.irfftn(spectrum, lengths, axes=_last(axes))
    x = spectrum.conj()
    for axis in range(-axes, 0):
        x = jnp.moveaxis(monarch_transform(jnp.moveaxis(x, axis, -1)), -1, axis)
    return x.real / math.prod(lengths)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _transformed(x, kernel, options):
    """The convolution of x [*B, *T, D] by its spectrum."""
    lengths, first, size, form = options
    axes = len(lengths)
    X = _transform(_channels_first(x, axes), lengths, form)
    K = _transform(jnp.moveaxis(kernel, -1, 0), lengths, form)
    y = _window(_inverse(X * align(K, X), lengths, form), first, size)
    return jnp.moveaxis(y, -axes - 1, -1)


def _transformed_forward(x, kernel, options):
    return _transformed(x, kernel, options), (x, kernel)


def _transformed_backward(options, kept, cotangent):
    """Correlations of the cotangent with the kernel and with x, by the same transforms."""
    lengths, first, _, form = options
    x, kernel = kept
    axes = len(lengths)
    dy = _channels_first(cotangent, axes)
    pads = [(0, 0)] * (dy.ndim - axes) + [(c, 0) for c in first]
    DY = _transform(jnp.pad(dy, pads), lengths, form)
    X = _transform(_channels_first(x, axes), lengths, form)
    K = _transform(jnp.moveaxis(kernel, -1, 0), lengths, form)

    def back(spectrum, like):
        start = (0,) * axes
        y = _window(_inverse(spectrum, lengths, form), start, like.shape[-axes - 1 : -1])
        return jnp.moveaxis(y, -axes - 1, -1)

    over = tuple(range(DY.ndim - axes - 1))
    dk = jnp.sum(DY * X.conj(), axis=over) if over else DY * X.conj()
    return back(DY * align(K, DY).conj(), x), back(dk, kernel)


_transformed.defvjp(_transformed_forward, _transformed_backward)
