"""Two-dimensional convolutions, each lowered to whatever is fastest for its backend and shape.

On GPU and TPU that is XLA's own convolution. On CPU XLA's is slow wherever it is not one large
matrix product (a 7x7 depthwise one takes 50 times longer than the sums it is made of, 20 times
with gradients; docs/benchmarks.md), so there

- depthwise kernels become multiply-adds of shifted maps, with gradients of the same kind;
- kernels that do not overlap (patches, 1x1) become one matrix product;
- small strided kernels become one matrix product over gathered taps;
- grouped kernels become one batched matrix product per tap.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.ops.contract import (
    accumulator_dtype,
    check_implementation,
    check_rank,
    first_available,
    op,
    platform,
    require,
)
from scanmax.ops.conv.native import native_depthwise, native_obstacles

Pair = int | tuple[int, int]
Padding = str | int | tuple

# Products summed in one fused loop. Fewer, and the partial sums are written and read too often;
# more, and XLA's loop spills its registers. XLA also fuses (that is, repeats for every use) the
# reading of a slice that has fewer than 16 uses, which the kernel gradient must avoid.
_FORWARD_PRODUCTS = 14
_GRADIENT_PRODUCTS = 16
# From here on a loop over kernel rows replaces unrolled taps, to bound the compile time.
_UNROLLED_TAPS = 128


def numbers(name: str, value: int | tuple[int, ...], axes: int) -> tuple[int, ...]:
    """A positive number for each axis."""
    each = (value,) * axes if isinstance(value, int) else tuple(value)
    require(
        len(each) == axes and all(isinstance(side, int) and side >= 1 for side in each),
        f"{name}={value!r}: expected a positive integer or "
        f"{'a pair' if axes == 2 else axes} of them.",
    )
    return each


def _pair(name: str, value: Pair) -> tuple[int, ...]:
    return numbers(name, value, 2)


def _reach(window, dilation) -> tuple[int, ...]:
    """How much of each axis of the map one output sees."""
    return tuple((k - 1) * d + 1 for k, d in zip(window, dilation))


def zeros_around(padding: Padding, size, window, stride, dilation) -> tuple[tuple[int, int], ...]:
    """Zeros before and after the map, per axis."""
    reach, axes = _reach(window, dilation), len(size)
    if padding == "SAME":
        totals = [max((-(-n // s) - 1) * s + r - n, 0) for n, s, r in zip(size, stride, reach)]
        return tuple((total // 2, total - total // 2) for total in totals)
    sides = 0 if padding == "VALID" else padding
    sides = (sides,) * axes if isinstance(sides, int) else sides
    require(
        isinstance(sides, tuple | list) and len(sides) == axes,
        f'padding={padding!r}: expected "SAME", "VALID", an integer or '
        f"{'a pair' if axes == 2 else f'{axes} entries'}.",
    )
    pads = tuple((side, side) if isinstance(side, int) else tuple(side) for side in sides)
    require(
        all(len(pad) == 2 and min(pad) >= 0 for pad in pads),
        f"padding={padding!r}: expected (before, after) >= 0 for each axis.",
    )
    require(
        all(n + sum(pad) >= r for n, pad, r in zip(size, pads, reach)),
        f"kernel window {tuple(window)} with dilation {tuple(dilation)} reaches over the padded "
        f"map of {' x '.join(map(str, size))} (padding={padding!r}).",
    )
    return pads


def outputs_of(size, window, stride, dilation) -> tuple[int, ...]:
    """Size of the result for a padded map, per axis."""
    return tuple((n - r) // s + 1 for n, r, s in zip(size, _reach(window, dilation), stride))


def _pad(x: Array, pads) -> Array:
    return jnp.pad(x, ((0, 0), *pads, (0, 0)))


def _tap(x: Array, i, j, outputs, stride, dilation) -> Array:
    """What tap (i, j) of the kernel sees of the padded x [B, Y, X, C], for every output."""
    start = (0, i * dilation[0], j * dilation[1], 0)
    last = [s + (n - 1) * t + 1 for s, n, t in zip(start[1:3], outputs, stride)]
    return jax.lax.slice(x, start, (x.shape[0], *last, x.shape[3]), (1, *stride, 1))


def _lax_conv(x, kernel, stride, pads, dilation, groups, precision) -> Array:
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        stride,
        pads,
        rhs_dilation=dilation,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
        precision=precision,
    )


def _matmul(x, kernel, precision) -> Array:
    """x [..., I] times kernel [..., I, O] whose leading axes are those of the last of x."""
    return jnp.matmul(x, kernel.reshape(-1, kernel.shape[-1]), precision=precision)


def _gathered(x, kernel, stride, dilation, precision) -> Array:
    """One matrix product over the concatenated taps of the padded x."""
    window = kernel.shape[:2]
    outputs = outputs_of(x.shape[1:3], window, stride, dilation)
    taps = [
        _tap(x, i, j, outputs, stride, dilation) for i in range(window[0]) for j in range(window[1])
    ]
    return _matmul(jnp.concatenate(taps, -1), kernel, precision)


def _grouped(x, kernel, stride, dilation, groups, precision) -> Array:
    """One product per tap of the padded x, batched over groups of channels."""
    *window, inputs, _ = kernel.shape
    outputs = outputs_of(x.shape[1:3], window, stride, dilation)
    kernel = kernel.reshape(*window, inputs, groups, -1)
    total = 0
    for i in range(window[0]):
        for j in range(window[1]):
            tap = _tap(x, i, j, outputs, stride, dilation)
            total += jnp.einsum(
                "byxgi,igo->byxgo",
                tap.reshape(*tap.shape[:3], groups, inputs),
                kernel[i, j],
                precision=precision,
                preferred_element_type=accumulator_dtype(x),
            )
    return jax.lax.collapse(total, 3).astype(x.dtype)


def conv2d_each(x, kernels, stride, padding, dilation, precision) -> Array:
    """A kernel [B, ky, kx, I, O] for each map of x [B, Y, X, I]: a product per tap over them."""
    stride, dilation = _pair("stride", stride), _pair("dilation", dilation)
    window = kernels.shape[1:3]
    x = _pad(x, zeros_around(padding, x.shape[1:3], window, stride, dilation))
    outputs = outputs_of(x.shape[1:3], window, stride, dilation)
    total = 0
    for i in range(window[0]):
        for j in range(window[1]):
            total += jnp.einsum(
                "bpi,bio->bpo",
                jax.lax.collapse(_tap(x, i, j, outputs, stride, dilation), 1, 3),
                kernels[:, i, j],
                precision=precision,
                preferred_element_type=accumulator_dtype(x),
            )
    return total.astype(x.dtype).reshape(len(x), *outputs, -1)


def _shifted(x: Array, edges, kernel: Array, stride, dilation) -> Array:
    """Depthwise sum over taps of x [B, Y, X, C] with kernel [ky, kx, C].

    `edges` are rows and columns of zeros (before, after, between), as in jax.lax.pad.
    """
    rows, columns, _ = kernel.shape
    # A norm or product behind the convolution would draw the last taps into its own kernel, which
    # wants every slice and every broadcast weight as an array of its own. It stops at a slice: one
    # row too many is computed, and cut off.
    (before, after, between), across = edges
    down = (before, after + stride[0], between)
    x = jax.lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), down, across, (0, 0, 0)))
    outputs = outputs_of(x.shape[1:3], (rows, columns), stride, dilation)
    # Without it XLA would slice before it pads, and pad once for every tap.
    x = jax.lax.optimization_barrier(x)

    def products(x, kernel):
        taps = [(i, j) for i in range(kernel.shape[0]) for j in range(columns)]
        total = None
        for start in range(0, len(taps), _FORWARD_PRODUCTS):
            part = functools.reduce(
                jnp.add,
                [
                    _tap(x, i, j, outputs, stride, dilation) * kernel[i, j].reshape(1, 1, 1, -1)
                    for i, j in taps[start : start + _FORWARD_PRODUCTS]
                ],
            )
            total = part if total is None else jax.lax.optimization_barrier(total) + part
        return total

    if rows * columns <= _UNROLLED_TAPS:
        return products(x, kernel)[:, :-1]
    height = (outputs[0] - 1) * stride[0] + 1

    def add_row(total, row):
        i, kernel_row = row
        seen = jax.lax.dynamic_slice_in_dim(x, i * dilation[0], height, 1)
        return total + products(seen, kernel_row[None]), None

    zeros = jnp.zeros((x.shape[0], *outputs, x.shape[3]), x.dtype)
    return jax.lax.scan(add_row, zeros, (jnp.arange(rows), kernel))[0][:, :-1]


def _steps(batch: int, rows: int) -> tuple[int, int]:
    """Images and rows that one step of the kernel gradient sums over."""
    divisors = [n for n in range(1, min(batch, 32) + 1) if batch % n == 0]
    images = next((n for n in divisors if n * rows >= _GRADIENT_PRODUCTS), 1)
    height = math.ceil(rows / max(1, rows // math.ceil(_GRADIENT_PRODUCTS / images)))
    # XLA unrolls a loop of a single step, and then copies every slice of a long sum.
    if (images, height) == (batch, rows) and images * height >= _GRADIENT_PRODUCTS:
        return (divisors[-2], height) if images > 1 else (1, math.ceil(height / 2))
    return images, height


def _kernel_gradient(x: Array, dy: Array, window, stride, dilation) -> Array:
    """sum_byx x[b, y s + i d, x s + j d, c] dy[b, y, x, c] of the padded x, as [ky, kx, C].

    A step sums some images and rows, for all kernel rows at once and every column of the map
    apart, so that XLA sees plain loops over contiguous channels rather than reductions; the
    columns are summed at the end.
    """
    batch, rows, columns, channels = dy.shape
    if not batch:
        return jnp.zeros((*window, channels), dy.dtype)
    images, height = _steps(batch, rows)
    blocks = math.ceil(rows / height)
    dy = _pad(dy, ((0, blocks * height - rows), (0, 0)))
    seen = (height - 1) * stride[0] + _reach(window, dilation)[0]
    missing = (blocks - 1) * height * stride[0] + seen - x.shape[1]
    x = _pad(x, ((0, max(missing, 0)), (0, 0)))

    def step(totals, t):
        image, row = t // blocks * images, t % blocks * height
        block = jax.lax.dynamic_slice(
            x, (image, row * stride[0], 0, 0), (images, seen, x.shape[2], channels)
        )
        cotangent = jax.lax.dynamic_slice(
            dy, (image, row, 0, 0), (images, height, columns, channels)
        )
        block, cotangent = jax.lax.optimization_barrier((block, cotangent))

        def products(j):
            first = j * dilation[1]
            span = slice(first, first + (columns - 1) * stride[1] + 1, stride[1])
            taps = [slice(r * stride[0], None, dilation[0]) for r in range(height)]
            return functools.reduce(
                jnp.add,
                [
                    block[b, taps[r], span][: window[0]] * cotangent[b, r][None]
                    for b in range(images)
                    for r in range(height)
                ],
            )

        return [total + products(j) for j, total in enumerate(totals)], None

    # One [ky, X, C] for every kernel column.
    totals = [jnp.zeros((window[0], columns, channels), dy.dtype)] * window[1]
    totals, _ = jax.lax.scan(step, totals, jnp.arange(batch // images * blocks))
    return jnp.stack([jnp.sum(total, 1) for total in totals], 1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _depthwise(x: Array, kernel: Array, stride, pads, dilation) -> Array:
    """x [B, Y, X, C], kernel [ky, kx, C]; autodiff of the shifts would scatter every tap."""
    dtype = accumulator_dtype(x, kernel)
    edges = [(*pad, 0) for pad in pads]
    y = _shifted(x.astype(dtype), edges, kernel.astype(dtype), stride, dilation)
    return y.astype(x.dtype)


def _depthwise_forward(x, kernel, stride, pads, dilation):
    return _depthwise(x, kernel, stride, pads, dilation), (x, kernel)


def _depthwise_backward(stride, pads, dilation, saved, dy):
    x, kernel = saved
    dtype, window = accumulator_dtype(x, kernel), kernel.shape[:2]
    dy = dy.astype(dtype)
    # The input's gradient is the convolution of dy, its strides filled with zeros, with the
    # turned kernel; what the forward pass padded is cut off again (negative pads).
    reach = _reach(window, dilation)
    edges = [
        (r - 1 - before, n + before - 1 - (outputs - 1) * s, s - 1)
        for r, n, (before, _), outputs, s in zip(reach, x.shape[1:3], pads, dy.shape[1:3], stride)
    ]
    dx = _shifted(dy, edges, kernel.astype(dtype)[::-1, ::-1], (1, 1), dilation)
    dkernel = _kernel_gradient(_pad(x.astype(dtype), pads), dy, window, stride, dilation)
    return dx.astype(x.dtype), dkernel.astype(kernel.dtype)


_depthwise.defvjp(_depthwise_forward, _depthwise_backward)


def _prepare(x, kernel, stride, padding, dilation):
    """Checks what both convolutions share; x as [B, Y, X, C] and the options as pairs."""
    check_rank(3, x=x)
    require(
        kernel.ndim == 4,
        f"kernel has shape {kernel.shape}; expected [ky, kx, C_in / groups, C_out].",
    )
    stride, dilation = _pair("stride", stride), _pair("dilation", dilation)
    pads = zeros_around(padding, x.shape[-3:-1], kernel.shape[:2], stride, dilation)
    return jax.lax.collapse(x, 0, -3), stride, pads, dilation


@op("stride", "padding", "dilation", "groups", "precision", "implementation")
def conv2d(
    x: Float[Array, "*B Y X C"],
    kernel: Float[Array, "ky kx I O"],
    *,
    stride: Pair = 1,
    padding: Padding = "SAME",
    dilation: Pair = 1,
    groups: int = 1,
    precision: jax.lax.PrecisionLike = None,
    implementation: str | tuple[str, ...] | None = None,
) -> Float[Array, "*B U V O"]:
    """Convolution of channels-last maps (cross-correlation, as everywhere in deep learning).

    y[u, v, o] = sum_ijc x[u s + i d - p, v s + j d - p, c] kernel[i, j, c, o], group by group;
    x is zero outside the map.

    Args:
      x: [*B, Y, X, C] maps.
      kernel: [ky, kx, C / groups, O].
      stride: s, one integer or (rows, columns).
      padding: "SAME" (ceil(Y / s) outputs, the odd zero after), "VALID" (none), an integer, or
        one integer or (before, after) for each axis.
      dilation: d, one integer or (rows, columns).
      groups: slices of the channels that see only their own slice of x; divides C and O.
      precision: of the products, as in jax.lax.
      implementation: None or "xla".

    Returns:
      [*B, U, V, O] in the dtype of x.

    Raises:
      ValueError: when kernel does not fit x and groups, an option is malformed, or the kernel
        reaches over the padded map.
      NotImplementedError: for an implementation other than "xla".

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> ops.conv2d(jnp.ones((4, 4, 1)), jnp.ones((3, 3, 1, 2)), stride=2)[..., 0]
      Array([[9., 6.],
             [6., 4.]], dtype=float32)

    Reference: convnext
    """
    check_implementation("conv2d", implementation, ("xla",))
    y, stride, pads, dilation = _prepare(x, kernel, stride, padding, dilation)
    *window, inputs, features = kernel.shape
    require(
        groups >= 1 and inputs * groups == x.shape[-1] and features % groups == 0,
        f"kernel has shape {kernel.shape}; expected [ky, kx, C / groups, O] with C = "
        f"{x.shape[-1]} channels of x and groups={groups}, which divides C and O.",
    )
    kernel = kernel.astype(x.dtype)
    patches = tuple(window) == stride and dilation == (1, 1) and groups == 1
    # A TPU lays few channels out along lanes that stay empty: patches of an image are a product
    # there too, with 2% fewer bytes to move in a step of DeiT-S.
    if platform() != "cpu" and not (platform() == "tpu" and patches and inputs < 8):
        y = _lax_conv(y, kernel, stride, pads, dilation, groups, precision)
    elif groups == features == x.shape[-1] and groups > 1:
        y = _depthwise(y, kernel[:, :, 0], stride, pads, dilation)
    elif groups > 1:
        y = _grouped(_pad(y, pads), kernel, stride, dilation, groups, precision)
    elif tuple(window) == (1, 1):
        y = _matmul(_pad(y, pads)[:, :: stride[0], :: stride[1]], kernel, precision)
    elif patches:
        y = _pad(y, pads)
        whole = [n // s * s for n, s in zip(y.shape[1:3], stride)]
        y = _matmul(patchify(y[:, : whole[0], : whole[1]], stride), kernel, precision)
    elif max(stride) > 1 and math.prod(window) <= 9:
        y = _gathered(_pad(y, pads), kernel, stride, dilation, precision)
    else:
        y = _lax_conv(y, kernel, stride, pads, dilation, groups, precision)
    return y.reshape(*x.shape[:-3], *y.shape[1:])


@op("stride", "padding", "dilation", "precision", "implementation")
def depthwise_conv2d(
    x: Float[Array, "*B Y X C"],
    kernel: Float[Array, "ky kx 1 C"],
    *,
    stride: Pair = 1,
    padding: Padding = "SAME",
    dilation: Pair = 1,
    precision: jax.lax.PrecisionLike = None,
    implementation: str | tuple[str, ...] | None = None,
) -> Float[Array, "*B U V C"]:
    """Convolution of each channel with its own kernel: `conv2d` with groups = C = O.

    y[u, v, c] = sum_ij x[u s + i d - p, v s + j d - p, c] kernel[i, j, 0, c]

    Args:
      x: [*B, Y, X, C] maps.
      kernel: [ky, kx, 1, C].
      stride: s, one integer or (rows, columns).
      padding: "SAME", "VALID", an integer, or a pair, as in `conv2d`.
      dilation: d, one integer or (rows, columns).
      precision: of the products, as in jax.lax; on CPU they are exact in the accumulator dtype.
      implementation: "xla", or "cpu" (there, in float32, of stride and dilation 1, on one device: a
        kernel in C++, compiled on first use by a compiler that must be there). None is "xla", and
        with SCANMAX_NATIVE=1 in the environment "cpu" where it serves, from 25 taps on.

    Returns:
      [*B, U, V, C] in the dtype of x; sums are carried in at least float32.

    Raises:
      ValueError: when kernel is not [ky, kx, 1, C], an option is malformed, or the kernel
        reaches over the padded map.
      NotImplementedError: a named implementation that cannot serve; the message says why.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> ops.depthwise_conv2d(jnp.ones((2, 2, 1)), jnp.ones((3, 3, 1, 1)))[..., 0]
      Array([[4., 4.],
             [4., 4.]], dtype=float32)

    Reference: convnext
    """
    y, stride, pads, dilation = _prepare(x, kernel, stride, padding, dilation)
    require(
        kernel.shape[2:] == (1, x.shape[-1]),
        f"kernel has shape {kernel.shape}; expected [ky, kx, 1, C] with C = {x.shape[-1]}.",
    )
    asked = implementation == "cpu" or "cpu" in (implementation or ())
    obstacles = {"cpu": native_obstacles(y, kernel, stride, dilation, asked)}
    available = ("xla",) if obstacles["cpu"] else ("cpu", "xla")
    check_implementation("depthwise_conv2d", implementation, available, obstacles)
    if first_available(implementation or available, available) == "cpu":
        y = native_depthwise(y, kernel[:, :, 0], pads)
    elif platform() == "cpu":
        y = _depthwise(y, kernel[:, :, 0], stride, pads, dilation)
    else:
        kernel = kernel.astype(x.dtype)
        y = _lax_conv(y, kernel, stride, pads, dilation, x.shape[-1], precision)
    return y.reshape(*x.shape[:-3], *y.shape[1:])


@op("patch_size")
def patchify(x: Float[Array, "*B Y X C"], patch_size: Pair) -> Float[Array, "*B U V D"]:
    """Cuts maps into patches that do not overlap, each flattened.

    y[u, v, (i, j, c)] = x[u p + i, v q + j, c], so that a product with a kernel [p, q, C, O]
    reshaped to [p q C, O] is the convolution of stride (p, q).

    Args:
      x: [*B, Y, X, C] maps.
      patch_size: one integer or (p, q); divides Y and X.

    Returns:
      [*B, Y / p, X / q, p q C].

    Raises:
      ValueError: when patch_size does not divide the map or is malformed.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> ops.patchify(jnp.arange(8.0).reshape(2, 4, 1), 2)
      Array([[[0., 1., 4., 5.],
              [2., 3., 6., 7.]]], dtype=float32)

    Reference: deit
    """
    check_rank(3, x=x)
    p, q = _pair("patch_size", patch_size)
    *batch, rows, columns, channels = x.shape
    require(
        rows % p == 0 and columns % q == 0,
        f"x has shape {x.shape}; patch_size={patch_size} must divide its rows and columns.",
    )
    y = x.reshape(*batch, rows // p, p, columns // q, q, channels)
    y = jnp.swapaxes(y, -4, -3)  # [*B, Y/p, X/q, p, q, C]
    return y.reshape(*batch, rows // p, columns // q, p * q * channels)
