"""Normalisation: layer, rms, gated rms, group, batch by statistics, instance-batch, response."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float, Int

from scanmax.ops.contract import (
    accumulator_dtype,
    check_rank,
    check_shape,
    op,
    require,
    spread,
)
from scanmax.ops.keeping import recomputed


def scaled_and_shifted(y: Array, scale: Array | None, bias: Array | None, dtype) -> Array:
    """Applies per-channel scale and bias to the last axis, then casts to `dtype`."""
    for vector, combine in ((scale, jnp.multiply), (bias, jnp.add)):
        if vector is not None:
            y = combine(y, spread(vector.astype(y.dtype), y))
    return y.astype(dtype)


def check_channels(x: Array, **vectors: Array | None) -> None:
    check_rank(1, x=x)
    for name, vector in vectors.items():
        check_shape(name, vector, x.shape[-1:], "[D]")


def check_groups(x: Array, groups: int) -> None:
    require(
        groups >= 1 and x.shape[-1] % groups == 0,
        f"groups={groups} does not divide the last axis of x, whose shape is {x.shape}.",
    )


def _inverse_rms(x: Array, axes: Sequence[int] | int, epsilon: float) -> Array:
    return jax.lax.rsqrt(jnp.mean(jnp.square(x), axes, keepdims=True) + epsilon)


@op("epsilon")
def layer_norm(
    x: Float[Array, "*B D"],
    scale: Float[Array, "D"] | None = None,
    bias: Float[Array, "D"] | None = None,
    *,
    epsilon: float = 1e-6,
) -> Float[Array, "*B D"]:
    """Layer normalisation over the last axis.

    y = (x - mean(x)) / sqrt(var(x) + epsilon) * scale + bias, with the biased variance, taken
    after the mean is subtracted (mean(x^2) - mean(x)^2 cancels when the mean is large).

    Args:
      x: [*B, D] activations.
      scale: [D] gain; None is one.
      bias: [D] offset; None is zero.
      epsilon: added to the variance.

    Returns:
      [*B, D] in the dtype of x; statistics are carried in at least float32.

    Raises:
      ValueError: when scale or bias is not [D].

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> ops.layer_norm(jnp.array([[1.0, 3.0]])).round(3)
      Array([[-1.,  1.]], dtype=float32)

    Reference: deit
    """
    check_channels(x, scale=scale, bias=bias)

    def normalised(x, scale, bias):
        y = x.astype(accumulator_dtype(x))
        y = y - checkpoint_name(jnp.mean(y, -1, keepdims=True), "mean")
        factor = checkpoint_name(_inverse_rms(y, -1, epsilon), "inverse_rms")
        return scaled_and_shifted(y * factor, scale, bias, x.dtype)

    return recomputed(normalised, "mean", "inverse_rms")(x, scale, bias)


@op("epsilon")
def masked_layer_norm(
    x: Float[Array, "*B D"],
    active: Int[Array, "..."],
    scale: Float[Array, "D"] | None = None,
    bias: Float[Array, "D"] | None = None,
    *,
    epsilon: float = 1e-6,
) -> Float[Array, "*B D"]:
    """Layer normalisation over the first channels alone, as many as each example has.

        y_d = (x_d - m) / sqrt(v + epsilon) scale_d + bias_d for d < active, else 0

    with the mean m and the variance v of those channels: the norm of a narrower network that is a
    part of a wider one. Examples of a batch may be of several widths.

    Args:
      x: the activations.
      active: channels that count, from 1 to D; broadcasts to *B. It may be traced.
      scale: gain; None is one.
      bias: offset; None is zero.
      epsilon: added to the variance.

    Returns:
      [*B, D] in the dtype of x; what lies behind the active channels is neither read nor kept.

    Raises:
      ValueError: when scale or bias is not [D], or active does not broadcast to *B.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> ops.masked_layer_norm(jnp.array([[1.0, 3.0, 9.0]]), jnp.array([2])).round(3)
      Array([[-1.,  1.,  0.]], dtype=float32)

    Reference: vit-resnas
    """
    check_channels(x, scale=scale, bias=bias)
    batch = x.shape[:-1]
    fits = active.ndim <= len(batch) and all(
        size in (1, whole) for size, whole in zip(active.shape[::-1], batch[::-1])
    )
    require(fits, f"active has shape {active.shape}; expected one that broadcasts to {batch}.")
    dtype = accumulator_dtype(x)
    counts = jnp.broadcast_to(active, batch)[..., None]
    places = jnp.arange(x.shape[-1], dtype=counts.dtype).reshape((1,) * len(batch) + (-1,))
    inside, number = places < counts, counts.astype(dtype)

    def mean(y):
        return jnp.sum(y, -1, keepdims=True) / number

    y = jnp.where(inside, x.astype(dtype), 0)
    y = jnp.where(inside, y - mean(y), 0)
    y = y * jax.lax.rsqrt(mean(jnp.square(y)) + epsilon)
    return jnp.where(inside, scaled_and_shifted(y, scale, bias, x.dtype), 0)


@op("epsilon")
def rms_norm(
    x: Float[Array, "*B D"],
    scale: Float[Array, "D"] | None = None,
    *,
    epsilon: float = 1e-6,
) -> Float[Array, "*B D"]:
    """Root-mean-square normalisation over the last axis.

    y = x / sqrt(mean(x^2) + epsilon) * scale

    Args:
      x: [*B, D] activations.
      scale: [D] gain; None is one.
      epsilon: added to the mean square.

    Returns:
      [*B, D] in the dtype of x; statistics are carried in at least float32.

    Raises:
      ValueError: when scale is not [D].

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> ops.rms_norm(jnp.array([[2.0, -2.0]])).round(3)
      Array([[ 1., -1.]], dtype=float32)

    Reference: illama
    """
    check_channels(x, scale=scale)

    def normalised(x, scale):
        y = x.astype(accumulator_dtype(x))
        factor = checkpoint_name(_inverse_rms(y, -1, epsilon), "inverse_rms")
        return scaled_and_shifted(y * factor, scale, None, x.dtype)

    return recomputed(normalised, "inverse_rms")(x, scale)


@op("epsilon", "groups", "norm_before_gate")
def gated_rms_norm(
    x: Float[Array, "*B D"],
    gate: Float[Array, "*B D"],
    scale: Float[Array, "D"] | None = None,
    *,
    epsilon: float = 1e-6,
    groups: int = 1,
    norm_before_gate: bool = False,
) -> Float[Array, "*B D"]:
    """Root-mean-square normalisation with a SiLU gate, as in Mamba-2.

    y = rms(x * silu(gate)) * scale, or rms(x) * scale * silu(gate) with `norm_before_gate`;
    rms runs over each of `groups` equal slices of the last axis.

    Args:
      x: [*B, D] activations.
      gate: [*B, D] gate before its SiLU.
      scale: [D] gain; None is one.
      epsilon: added to the mean square.
      groups: slices of D normalised apart; divides D.
      norm_before_gate: gate the normalised values instead of normalising the gated ones.

    Returns:
      [*B, D] in the dtype of x; statistics are carried in at least float32.

    Raises:
      ValueError: when gate is not shaped like x, scale is not [D] or groups does not divide D.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> x = jnp.array([[3.0, 4.0]])
      >>> ops.gated_rms_norm(x, jnp.full((1, 2), 20.0), groups=2).round(3)
      Array([[1., 1.]], dtype=float32)

    Reference: mamba2-ssd
    """
    check_channels(x, scale=scale)
    check_shape("gate", gate, x.shape, "the shape of x")
    check_groups(x, groups)
    dtype = accumulator_dtype(x, gate)
    y, gate = x.astype(dtype), jax.nn.silu(gate.astype(dtype))
    if not norm_before_gate:
        y = y * gate
    y = y.reshape(*x.shape[:-1], groups, x.shape[-1] // groups)
    y = (y * _inverse_rms(y, -1, epsilon)).reshape(x.shape)
    y = scaled_and_shifted(y, scale, None, dtype)
    return (y * gate if norm_before_gate else y).astype(x.dtype)


@op("groups", "axes", "epsilon")
def group_norm(
    x: Float[Array, "*B Y X C"],
    scale: Float[Array, "C"] | None = None,
    bias: Float[Array, "C"] | None = None,
    *,
    groups: int,
    axes: tuple[int, ...] = (-3, -2),
    epsilon: float = 1e-5,
) -> Float[Array, "*B Y X C"]:
    """Group normalisation: statistics over space and over each group of channels.

    y = (x - mean_g) / sqrt(var_g + epsilon) * scale + bias; groups=1 normalises all channels
    together, groups=C is instance normalisation.

    Args:
      x: [*B, Y, X, C] map, or any array whose `axes` are its spatial ones.
      scale: [C] gain; None is one.
      bias: [C] offset; None is zero.
      groups: number of channel groups; divides C.
      axes: spatial axes, negative; (-2,) for sequences [*B, T, C].
      epsilon: added to the variance.

    Returns:
      An array like x, in its dtype; statistics are carried in at least float32.

    Raises:
      ValueError: when scale or bias is not [C], groups does not divide C, or an axis of `axes`
        is not a negative axis of x other than the last.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> ops.group_norm(jnp.array([[[1.0, 5.0], [3.0, 5.0]]]), groups=2)[0].round(3)
      Array([[-1.,  0.],
             [ 1.,  0.]], dtype=float32)

    Reference: evonorm
    """
    check_channels(x, scale=scale, bias=bias)
    check_groups(x, groups)
    require(
        all(-x.ndim <= axis < -1 for axis in axes),
        f"axes={axes} must be negative, other than -1, and within x of shape {x.shape}.",
    )
    y = x.astype(accumulator_dtype(x)).reshape(*x.shape[:-1], groups, x.shape[-1] // groups)
    # Splitting the channels moves every axis before them one place further from the end.
    reduced = (*(axis - 1 for axis in axes), -1)
    y = y - jnp.mean(y, reduced, keepdims=True)
    y = (y * _inverse_rms(y, reduced, epsilon)).reshape(x.shape)
    return scaled_and_shifted(y, scale, bias, x.dtype)


@op()
def batch_statistics(
    x: Float[Array, "*B C"], where: Bool[Array, "*B"] | None = None
) -> tuple[Float[Array, "C"], Float[Array, "C"]]:
    """Mean and biased variance of each channel over every other axis, for `batch_norm`.

    mean = sum(x) / n, variance = sum((x - mean)^2) / n. A running variance usually stores the
    unbiased estimate, variance * n / (n - 1). Under a batch sharded by jit the sums are global.

    Args:
      x: [*B, C] activations.
      where: [*B] positions that count; None counts all. With none that count both are zero.

    Returns:
      (mean [C], variance [C]) in at least float32.

    Raises:
      ValueError: when where does not have the shape of x without its last axis.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> ops.batch_statistics(jnp.array([[1.0], [3.0]]))
      (Array([2.], dtype=float32), Array([1.], dtype=float32))

    Reference: inception-v3
    """
    check_rank(1, x=x)
    axes = tuple(range(x.ndim - 1))
    y = x.astype(accumulator_dtype(x))
    if where is None:
        mean = jnp.mean(y, axes)
        return mean, jnp.mean(jnp.square(y - mean.reshape((1,) * len(axes) + (-1,))), axes)
    check_shape("where", where, x.shape[:-1], "the shape of x without its last axis")
    where = where[..., None]
    count = jnp.maximum(jnp.sum(where, dtype=y.dtype), 1)
    mean = jnp.sum(jnp.where(where, y, 0), axes) / count
    centred = jnp.where(where, y - mean.reshape((1,) * len(axes) + (-1,)), 0)
    return mean, jnp.sum(jnp.square(centred), axes) / count


@op("epsilon")
def batch_norm(
    x: Float[Array, "*B C"],
    mean: Float[Array, "C"],
    variance: Float[Array, "C"],
    scale: Float[Array, "C"] | None = None,
    bias: Float[Array, "C"] | None = None,
    *,
    epsilon: float = 1e-5,
) -> Float[Array, "*B C"]:
    """Batch normalisation by given statistics.

    y = (x - mean) / sqrt(variance + epsilon) * scale + bias. In training the statistics come
    from `batch_statistics(x)` and gradients flow through them; in evaluation from running means.

    Args:
      x: [*B, C] activations.
      mean: [C] channel means.
      variance: [C] channel variances.
      scale: [C] gain; None is one.
      bias: [C] offset; None is zero.
      epsilon: added to the variance.

    Returns:
      [*B, C] in the dtype of x, computed in at least float32.

    Raises:
      ValueError: when mean, variance, scale or bias is not [C].

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> x = jnp.array([[1.0], [3.0]])
      >>> ops.batch_norm(x, *ops.batch_statistics(x)).round(3)
      Array([[-1.],
             [ 1.]], dtype=float32)

    Reference: inception-v3
    """
    check_channels(x, mean=mean, variance=variance, scale=scale, bias=bias)
    dtype = accumulator_dtype(x, mean, variance)
    gain = jax.lax.rsqrt(variance.astype(dtype) + epsilon)
    if scale is not None:
        gain = gain * scale.astype(dtype)
    y = x.astype(dtype) - mean.astype(dtype).reshape((1,) * (x.ndim - 1) + (-1,))
    return scaled_and_shifted(y, gain, bias, x.dtype)


@op("groups", "epsilon")
def instance_batch_norm(
    x: Float[Array, "*B Y X C"],
    mean: Float[Array, "rest"],
    variance: Float[Array, "rest"],
    scale: Float[Array, "C"] | None = None,
    bias: Float[Array, "C"] | None = None,
    *,
    groups: int | None = None,
    epsilon: float = 1e-5,
) -> Float[Array, "*B Y X C"]:
    """Instance norm of some channels beside batch norm of the others, as in IBN-Net.

    y = (x - m) / sqrt(v + epsilon) * scale + bias, where m and v are those of the image itself in
    the first I channels, and the given statistics in the rest: `batch_statistics(x[..., I:])` in
    training, their running averages in evaluation. I is C less the size of `mean`; half of C in
    the paper. With `groups` the two take turns group by group, the batch's first: G-IBS.

    Args:
      x: [*B, Y, X, C] map.
      mean: means over the batch of the channels that are not the image's own.
      variance: their variances.
      scale: [C] gain; None is one.
      bias: [C] offset; None is zero.
      groups: equal groups of channels that take turns; None has two parts, the image's first.
      epsilon: added to the variances.

    Returns:
      [*B, Y, X, C] in the dtype of x, computed in at least float32.

    Raises:
      ValueError: when mean and variance differ in shape or do not fit the channels of x, or scale
        or bias is not [C].

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> x = jnp.array([[[1.0, 5.0], [3.0, 7.0]]])
      >>> ops.instance_batch_norm(x, jnp.array([5.0]), jnp.array([4.0]))[0].round(3)
      Array([[-1.,  0.],
             [ 1.,  1.]], dtype=float32)

    Reference: ibn-net, hyperzzw-terminator
    """
    check_rank(3, x=x)
    check_channels(x, scale=scale, bias=bias)
    channels = x.shape[-1]
    require(
        mean.ndim == 1 and mean.shape[0] <= channels,
        f"mean has shape {mean.shape}; expected one axis of at most {channels}, the channels of x.",
    )
    check_shape("variance", variance, mean.shape, "the shape of mean")
    dtype = accumulator_dtype(x, mean, variance)
    y = x.astype(dtype)
    if groups is None:
        own = channels - mean.shape[0]
        alone, rest = y[..., :own], y[..., own:]
    else:
        check_groups(x, groups)
        parts = jnp.split(y, groups, axis=-1)
        alone = jnp.concatenate([y[..., :0], *parts[1::2]], -1)
        rest = jnp.concatenate(parts[::2], -1)
        check_shape("mean", mean, rest.shape[-1:], "a number a channel of every second group")
    alone = alone - jnp.mean(alone, (-3, -2), keepdims=True)
    alone = alone * _inverse_rms(alone, (-3, -2), epsilon)
    rest = batch_norm(rest, mean, variance, epsilon=epsilon)
    pieces = [alone, rest]
    if groups is not None:
        pieces = [rest] * groups
        pieces[::2] = jnp.split(rest, len(parts[::2]), axis=-1)
        pieces[1::2] = jnp.split(alone, len(parts[1::2]), axis=-1) if groups > 1 else []
    return scaled_and_shifted(jnp.concatenate(pieces, -1), scale, bias, x.dtype)


@op("epsilon")
def global_response_norm(
    x: Float[Array, "*B Y X C"],
    scale: Float[Array, "C"] | None = None,
    bias: Float[Array, "C"] | None = None,
    *,
    epsilon: float = 1e-6,
) -> Float[Array, "*B Y X C"]:
    """Global response normalisation: channels compete by their norm over the map.

    y = x + scale * x * n + bias, n_c = g_c / (mean_c(g) + epsilon), g_c = sqrt(sum_yx x_c^2).
    Scale and bias start at zero, where the layer is the identity.

    Args:
      x: [*B, Y, X, C] map.
      scale: [C] gain; None is one.
      bias: [C] offset; None is zero.
      epsilon: added to the mean of the norms.

    Returns:
      [*B, Y, X, C] in the dtype of x, computed in at least float32; a map of zeros has finite
      gradients.

    Raises:
      ValueError: when scale or bias is not [C].

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> ops.global_response_norm(jnp.array([[[3.0, 0.0], [4.0, 5.0]]]))[0].round()
      Array([[ 6.,  0.],
             [ 8., 10.]], dtype=float32)

    Reference: unireplknet
    """
    check_rank(3, x=x)
    check_channels(x, scale=scale, bias=bias)
    y = x.astype(accumulator_dtype(x))
    squares = jnp.sum(jnp.square(y), (-3, -2), keepdims=True)
    some = squares > 0
    norms = jnp.where(some, jnp.sqrt(jnp.where(some, squares, 1)), 0)
    share = norms / (jnp.mean(norms, -1, keepdims=True) + epsilon)
    return (y + scaled_and_shifted(y * share, scale, bias, y.dtype)).astype(x.dtype)
