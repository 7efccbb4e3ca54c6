"""Kernels of long convolutions: multi-scale, of moving points, regularised."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.ops.contract import accumulator_dtype, check_choice, check_rank, op, require

INTERPOLATIONS = ("linear", "nearest")
ARRANGEMENTS = ("cat", "sum")


@op("length", "arrangement", "interpolation")
def sgconv_kernel(
    weights: Float[Array, "S d D"],
    multiplier: float | Float[Array, " D"] = 2.0,
    *,
    length: int,
    arrangement: str = "cat",
    interpolation: str = "linear",
) -> Float[Array, "L D"]:
    """Multi-scale kernel: short pieces, each stretched to twice the one before and weaker.

        cat:  k = [m^(S-1) w_0, Up_1(m^(S-2) w_1), Up_2(m^(S-3) w_2), Up_4(m^(S-4) w_3), ...]
        sum:  k = Up_1(m^(S-1) w_0) + Up_2(m^(S-2) w_1) + Up_4(m^(S-3) w_2) + ...

    Up_n stretches n times. d numbers per scale and channel make d 2^(S-1) taps: parameters grow as
    log L. As in the released code weights grow towards the first piece by `multiplier`, which is
    the paper's decay of 1 / multiplier per piece up to a factor; both divide the kernel by a norm
    taken once, when it is made (the mixer does), and m may be one per channel.

    Args:
      weights: S scales of d taps each for D channels.
      multiplier: m, between neighbouring scales; a number or one per channel.
      length: L; longer than the pieces reach, zeros follow.
      arrangement: "cat" puts the pieces one after another, "sum" adds them from the first tap on.
      interpolation: "linear" (ends held, half-pixel centres, as torch has it) or "nearest".

    Returns:
      [L, D] in the dtype of weights.

    Raises:
      ValueError: weights of another rank, unknown options.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax.ops import sgconv_kernel
      >>> sgconv_kernel(jnp.ones((3, 2, 1)), length=8, interpolation="nearest")[:, 0]
      Array([4., 4., 2., 2., 1., 1., 1., 1.], dtype=float32)

    Reference: sgconv
    """
    check_choice("arrangement", arrangement, ARRANGEMENTS)
    check_choice("interpolation", interpolation, INTERPOLATIONS)
    check_rank(3, weights=weights)
    scales, size, channels = weights.shape
    dtype = accumulator_dtype(weights)
    multiplier = jnp.broadcast_to(jnp.asarray(multiplier, dtype), (channels,))
    pieces = []
    for i in range(scales):
        factor = 2 ** (i if arrangement == "sum" else max(i - 1, 0))
        piece = weights[i].astype(dtype) * (multiplier ** (scales - 1 - i))[None]
        if interpolation == "nearest":
            piece = jnp.repeat(piece, factor, axis=0)
        else:
            piece = jax.image.resize(piece, (size * factor, channels), "linear")
        pieces.append(piece)
    if arrangement == "cat":
        kernel = jnp.concatenate(pieces)
    else:
        longest = len(pieces[-1])
        kernel = sum(jnp.pad(piece, ((0, longest - len(piece)), (0, 0))) for piece in pieces)
    kernel = kernel[:length]
    return jnp.pad(kernel, ((0, length - len(kernel)), (0, 0))).astype(weights.dtype)


@op("averaged")
def point_kernel(
    coordinates: Float[Array, "*L A"],
    positions: Float[Array, "*G P A"],
    radius: Float[Array, "*G P"],
    weights: Float[Array, "P D"],
    *,
    averaged: bool = False,
) -> Float[Array, "*L D"]:
    """Kernel of points that lie anywhere: each weighs its neighbourhood, linearly falling off.

        k_c(x) = sum_i w_ic max(0, 1 - |x - p_i|_1 / r_i)

    Points move by their gradient like weights. Points and radii are shared by all channels, as in
    the released image networks, or one set per channel, as in the released sequence networks,
    which also divide by the number of points that reach x (`averaged`).

    Args:
      coordinates: where the kernel is sampled, in A dimensions.
      positions: [P, A] shared, or [D, P, A].
      radius: [P] or [D, P], positive.
      weights: of each point in each channel.
      averaged: divide by the count of points within reach (plus 1e-6, as released).

    Returns:
      [*L, D] in the dtype of weights.

    Raises:
      ValueError: arrays whose shapes do not fit.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax.ops import point_kernel
      >>> grid = jnp.linspace(-1, 1, 5)[:, None]
      >>> point_kernel(grid, jnp.zeros((1, 1)), jnp.ones(1), jnp.ones((1, 1)))[:, 0]
      Array([0. , 0.5, 1. , 0.5, 0. ], dtype=float32)

    Reference: smpconv
    """
    points, channels = weights.shape
    dims = coordinates.shape[-1]
    shared = positions.ndim == 2
    group = () if shared else (channels,)
    require(
        positions.shape == (*group, points, dims) and radius.shape == (*group, points),
        f"positions have shape {positions.shape} and radius {radius.shape}; expected [P, A] and "
        f"[P], or [D, P, A] and [D, P], with P = {points}, A = {dims}, D = {channels}.",
    )
    dtype, out = accumulator_dtype(coordinates, positions, radius, weights), weights.dtype
    coordinates, positions, radius, weights = (
        array.astype(dtype) for array in (coordinates, positions, radius, weights)
    )
    flat = coordinates.reshape(-1, dims)

    def near(positions, radius):
        """[N, P]; one dimension after another, so that no [N, P, A] is made."""
        distance = sum(jnp.abs(flat[:, a, None] - positions[None, :, a]) for a in range(dims))
        values = jax.nn.relu(1 - distance / radius[None])
        if averaged:
            values = values / (jnp.sum(values != 0, 1, keepdims=True).astype(dtype) + 1e-6)
        return values

    if shared:
        kernel = near(positions, radius) @ weights
    else:
        # one channel after another, recomputed backwards: what is near is N by P for each
        channel = jax.checkpoint(lambda points: near(*points[:2]) @ points[2])
        kernel = jax.lax.map(channel, (positions, radius, weights.T)).T
    return kernel.reshape(*coordinates.shape[:-1], channels).astype(out)


@op()
def squash_kernel(
    kernel: Float[Array, "*L"], threshold: float | Float[Array, ""] = 1e-3
) -> Float[Array, "*L"]:
    """Soft threshold of the kernel's weights: small ones become zero, the others come nearer to it.

        sign(k) max(|k| - threshold, 0)

    Args:
      kernel: any array.
      threshold: at least 0. The released code's default is 0.1 for kernels of standard deviation
        0.002 to 0.02; the paper's runs lie near 0.001 to 0.003, and 0.001 is ours.

    Returns:
      The shape and dtype of kernel.

    Raises:
      ValueError: a threshold that is not a scalar.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax.ops import squash_kernel
      >>> squash_kernel(jnp.array([-3.0, 0.5, 2.0]), 1.0)
      Array([-2.,  0.,  1.], dtype=float32)

    Reference: long-conv-flashbutterfly
    """
    require(jnp.ndim(threshold) == 0, f"threshold has shape {jnp.shape(threshold)}; expected ().")
    threshold = jnp.asarray(threshold, kernel.dtype)
    return jnp.sign(kernel) * jax.nn.relu(jnp.abs(kernel) - threshold)


@op("width")
def smooth_kernel(kernel: Float[Array, "L *D"], *, width: int = 7) -> Float[Array, "L *D"]:
    """Moving average of the kernel along its first axis, zeros beyond its ends.

        k'_j = 1 / width sum_{|i| <= width // 2} k_{j+i}

    Args:
      kernel: taps first.
      width: of the window, odd.

    Returns:
      The shape and dtype of kernel.

    Raises:
      ValueError: an even width.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax.ops import smooth_kernel
      >>> smooth_kernel(jnp.array([3.0, 0.0, 3.0]), width=3)
      Array([1., 2., 1.], dtype=float32)

    Reference: long-conv-flashbutterfly
    """
    require(width >= 1 and width % 2 == 1, f"width={width} must be odd and positive.")
    check_rank(1, kernel=kernel)
    length, half = kernel.shape[0], width // 2
    dtype = accumulator_dtype(kernel)
    padded = jnp.pad(kernel.astype(dtype), ((half, half), *((0, 0),) * (kernel.ndim - 1)))
    total = sum(padded[i : i + length] for i in range(width))
    return (total / width).astype(kernel.dtype)
