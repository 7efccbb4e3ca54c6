"""Gates of maps: by channel from what a map holds on the whole, by pixel from its channels.

All are elementwise beyond one pooling and cost linear in the map. Weights come without a module's
layout: `ops` know neither reductions nor initial values.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.ops.contract import (
    accumulator_dtype,
    align,
    check_choice,
    check_rank,
    check_shape,
    op,
    require,
)
from scanmax.ops.conv.conv2d import conv2d

GATES = ("sigmoid", "hard_sigmoid")


def _gate(logits: Array, gate: str) -> Array:
    return jax.nn.sigmoid(logits) if gate == "sigmoid" else jax.nn.relu6(logits + 3) / 6


def _scaled(x: Array, gate: Array) -> Array:
    """x [*B, Y, X, C] times gate [*B, C]; the gate is rounded to the dtype of x first."""
    return x * gate.astype(x.dtype)[..., None, None, :]


def _check_mlp(x, squeeze, excite, squeeze_bias, excite_bias):
    check_rank(3, x=x)
    channels = x.shape[-1]
    require(
        squeeze.ndim == 2 and squeeze.shape[0] == channels,
        f"squeeze has shape {squeeze.shape}; expected [C, R] with C = {channels}.",
    )
    reduced = squeeze.shape[1]
    check_shape("excite", excite, (reduced, channels), "[R, C]")
    check_shape("squeeze_bias", squeeze_bias, (reduced,), "[R]")
    check_shape("excite_bias", excite_bias, (channels,), "[C]")


def _mlp(pooled, squeeze, excite, squeeze_bias, excite_bias, precision):
    dtype = pooled.dtype
    hidden = jnp.matmul(pooled, squeeze.astype(dtype), precision=precision)
    if squeeze_bias is not None:
        hidden = hidden + align(squeeze_bias.astype(dtype), hidden)
    y = jnp.matmul(jax.nn.relu(hidden), excite.astype(dtype), precision=precision)
    return y if excite_bias is None else y + align(excite_bias.astype(dtype), y)


def _mean(x: Array, *others) -> Array:
    """[*B, C]: the mean over the map, in accumulator precision."""
    return jnp.mean(x.astype(accumulator_dtype(x, *others)), (-3, -2))


@op("gate", "precision")
def squeeze_excite(
    x: Float[Array, "*B Y X C"],
    squeeze: Float[Array, "C R"],
    excite: Float[Array, "R C"],
    squeeze_bias: Float[Array, "R"] | None = None,
    excite_bias: Float[Array, "C"] | None = None,
    *,
    gate: str = "sigmoid",
    precision=None,
) -> Float[Array, "*B Y X C"]:
    """Squeeze-and-excitation: every channel times a gate that the mean of all channels sets.

        y = x gate(relu(mean_yx(x) W_1 + b_1) W_2 + b_2)

    Args:
      x: [*B, Y, X, C].
      squeeze: W_1, [C, R]; the paper takes R = C / 16.
      excite: W_2, [R, C].
      squeeze_bias: b_1, [R]; None leaves it out.
      excite_bias: b_2, [C]; None leaves it out.
      gate: "sigmoid", or "hard_sigmoid", relu6(z + 3) / 6.
      precision: of both matrix products.

    Returns:
      [*B, Y, X, C] in the dtype of x.

    Raises:
      ValueError: an unknown gate, or a shape that does not fit.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> ops.squeeze_excite(jnp.ones((1, 1, 2)), jnp.ones((2, 1)), jnp.array([[0.0, 99.0]]))
      Array([[[0.5, 1. ]]], dtype=float32)

    Reference: se-net
    """
    check_choice("gate", gate, GATES)
    _check_mlp(x, squeeze, excite, squeeze_bias, excite_bias)
    pooled = _mean(x, squeeze, excite)
    logits = _mlp(pooled, squeeze, excite, squeeze_bias, excite_bias, precision)
    return _scaled(x, _gate(logits, gate))


def _along_channels(z: Array, kernel: Array) -> Array:
    """Correlation of z [*B, C] with an odd kernel [k], zeros beyond the ends."""
    # A sum of shifts would be fused into the map's gradient, and computed for every pixel anew.
    y = jax.lax.conv_general_dilated(
        z.reshape(-1, 1, z.shape[-1]),
        kernel.reshape(1, 1, -1),
        window_strides=(1,),
        padding=[(kernel.shape[0] // 2,) * 2],
        precision=jax.lax.Precision.HIGHEST,
    )
    return y.reshape(z.shape)


def _check_odd(name, kernel):
    require(
        kernel.ndim == 1 and kernel.shape[0] % 2 == 1,
        f"{name} has shape {kernel.shape}; expected [k] with k odd.",
    )


@op()
def efficient_channel_attention(
    x: Float[Array, "*B Y X C"], kernel: Float[Array, "k"]
) -> Float[Array, "*B Y X C"]:
    """Every channel times a gate set by the means of the channels next to it (ECA).

        y = x sigmoid(kernel * mean_yx(x)),   a correlation along channels, zeros beyond the ends

    Args:
      x: [*B, Y, X, C].
      kernel: [k], k odd; ECA-Net takes |log2(C) + 1| / 2, made odd.

    Returns:
      [*B, Y, X, C] in the dtype of x.

    Raises:
      ValueError: the kernel is not [k] with k odd.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> x = jnp.array([[[0.0, 0.0, 8.0]]])
      >>> ops.efficient_channel_attention(x, jnp.array([0.0, 0.0, 9.0]))  # reads the next channel
      Array([[[0., 0., 4.]]], dtype=float32)

    Reference: pkcam
    """
    check_rank(3, x=x)
    _check_odd("kernel", kernel)
    pooled = _mean(x, kernel)
    return _scaled(x, jax.nn.sigmoid(_along_channels(pooled, kernel.astype(pooled.dtype))))


@op()
def pkcam(
    x: Float[Array, "*B Y X C"],
    previous: Sequence[Float[Array, "*B _"]],
    local_kernel: Float[Array, "k"],
    global_kernel: Float[Array, "k"],
    fusion: Float[Array, "S"],
    output_fusion: Float[Array, "2"],
) -> Float[Array, "*B Y X C"]:
    """Channel attention that knows what earlier stages held (PKCAM, over ECA).

        z = mean_yx(x),   local = sigmoid(local_kernel * z)
        u = relu(sum_i fusion_i previous_i + fusion_S z),   global = sigmoid(global_kernel * u)
        s = sigmoid(output_fusion . (local, global)),   y = x (1 + s)

    Means of earlier stages with fewer channels are repeated, whole, until they have C. The first
    block of a stage has no `previous` to read in the released code and is x (1 + local); both kinds
    of block multiply by 1 + s there, which settles what the paper leaves open.

    Args:
      x: [*B, Y, X, C], the residual branch before it is added.
      previous: the means [*B, C_i] of the last block of each earlier stage, earliest first, where
        C_i divides C.
      local_kernel: [k], k odd.
      global_kernel: [k], k odd.
      fusion: [S], a weight for each of `previous` and one for z.
      output_fusion: [2], of local and global.

    Returns:
      [*B, Y, X, C] in the dtype of x. What the next stages read is the mean of x.

    Raises:
      ValueError: a shape that does not fit, or nothing in previous.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> zero = jnp.zeros(3)
      >>> x = jnp.ones((1, 1, 4))
      >>> ops.pkcam(x, [jnp.ones(2)], zero, zero, jnp.ones(2), jnp.array([9.0, -9.0]))[0, 0]
      Array([1.5, 1.5, 1.5, 1.5], dtype=float32)

    Reference: pkcam
    """
    check_rank(3, x=x)
    *batch, _, _, channels = x.shape
    require(len(previous) > 0, "previous is empty; a first block is efficient_channel_attention.")
    _check_odd("local_kernel", local_kernel)
    _check_odd("global_kernel", global_kernel)
    check_shape("fusion", fusion, (len(previous) + 1,), "[len(previous) + 1]")
    check_shape("output_fusion", output_fusion, (2,), "[2]")
    dtype = accumulator_dtype(x, local_kernel, global_kernel, fusion, output_fusion, *previous)
    z = _mean(x, local_kernel, global_kernel, fusion, output_fusion, *previous)
    sources = []
    for i, source in enumerate(previous):
        check_rank(1, **{f"previous[{i}]": source})
        width = source.shape[-1]
        check_shape(f"previous[{i}]", source, (*batch, width), "[*B, C_i]")
        require(
            width > 0 and channels % width == 0,
            f"previous[{i}] has shape {source.shape}; its channels must divide {channels}.",
        )
        sources.append(jnp.tile(source.astype(dtype), channels // width))
    # One product: a sum would be fused into the map's gradient, and computed for every pixel anew.
    fused = jnp.tensordot(fusion.astype(dtype), jnp.stack([*sources, z]), 1, precision="highest")
    local = jax.nn.sigmoid(_along_channels(z, local_kernel.astype(dtype)))
    far = jax.nn.sigmoid(_along_channels(jax.nn.relu(fused), global_kernel.astype(dtype)))
    near_weight, far_weight = output_fusion.astype(dtype)
    return _scaled(x, 1 + jax.nn.sigmoid(near_weight * local + far_weight * far))


@op("precision")
def cbam_channel_gate(
    x: Float[Array, "*B Y X C"],
    squeeze: Float[Array, "C R"],
    excite: Float[Array, "R C"],
    squeeze_bias: Float[Array, "R"] | None = None,
    excite_bias: Float[Array, "C"] | None = None,
    *,
    precision=None,
) -> Float[Array, "*B Y X C"]:
    """CBAM's channel gate: one small MLP of the mean and of the maximum of each channel.

        y = x sigmoid(mlp(mean_yx(x)) + mlp(max_yx(x))),   mlp(z) = relu(z W_1 + b_1) W_2 + b_2

    Args:
      x: [*B, Y, X, C].
      squeeze: W_1, [C, R]; the paper takes R = C / 16.
      excite: W_2, [R, C].
      squeeze_bias: b_1, [R], which the released code has and timm has not.
      excite_bias: b_2, [C]; it counts twice.
      precision: of the matrix products.

    Returns:
      [*B, Y, X, C] in the dtype of x.

    Raises:
      ValueError: a shape that does not fit.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> x = jnp.array([[[1.0], [3.0]]])  # one channel: mean 2, maximum 3
      >>> ops.cbam_channel_gate(x, jnp.ones((1, 1)), jnp.array([[-9.0]])).round(3)
      Array([[[0.],
              [0.]]], dtype=float32)

    Reference: cbam
    """
    _check_mlp(x, squeeze, excite, squeeze_bias, excite_bias)
    dtype = accumulator_dtype(x, squeeze, excite)
    largest = jnp.max(x, (-3, -2)).astype(dtype)
    pooled = jnp.stack([_mean(x, squeeze, excite), largest])
    logits = jnp.sum(_mlp(pooled, squeeze, excite, squeeze_bias, excite_bias, precision), 0)
    return _scaled(x, jax.nn.sigmoid(logits))


@op()
def channel_summary(x: Float[Array, "*B Y X C"]) -> Float[Array, "*B Y X 2"]:
    """The mean and the maximum over the channels of every pixel, what a spatial gate reads.

        y = (mean_c x, max_c x)

    Args:
      x: [*B, Y, X, C].

    Returns:
      [*B, Y, X, 2] in the dtype of x.

    Raises:
      ValueError: x has fewer than three axes.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> ops.channel_summary(jnp.array([[[1.0, 5.0]]]))
      Array([[[3., 5.]]], dtype=float32)

    Reference: cbam
    """
    check_rank(3, x=x)
    mean = jnp.mean(x.astype(accumulator_dtype(x)), -1).astype(x.dtype)
    return jnp.stack([mean, jnp.max(x, -1)], -1)


@op("precision")
def cbam_spatial_gate(
    x: Float[Array, "*B Y X C"],
    kernel: Float[Array, "ky kx 2 1"],
    scale: Float[Array, "1"] | None = None,
    bias: Float[Array, "1"] | None = None,
    *,
    precision=None,
) -> Float[Array, "*B Y X C"]:
    """CBAM's spatial gate: one convolution of the mean and the maximum over channels.

        y = x sigmoid(scale (kernel * (mean_c x, max_c x)) + bias)

    Args:
      x: [*B, Y, X, C].
      kernel: [ky, kx, 2, 1]; the paper takes 7 x 7. Its inputs are (mean, maximum), as in the paper
        and in timm; the released code has them the other way round.
      scale: [1] of the batch norm that follows in the released code; None is 1.
      bias: [1] of that norm; None is 0.
      precision: of the convolution.

    Returns:
      [*B, Y, X, C] in the dtype of x.

    Raises:
      ValueError: a shape that does not fit.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> ops.cbam_spatial_gate(jnp.ones((1, 1, 3)), 9 * jnp.ones((1, 1, 2, 1))).round(3)
      Array([[[1., 1., 1.]]], dtype=float32)

    Reference: cbam
    """
    check_rank(3, x=x)
    check_shape("kernel", kernel, (*kernel.shape[:2], 2, 1), "[ky, kx, 2, 1]")
    check_shape("scale", scale, (1,), "[1]")
    check_shape("bias", bias, (1,), "[1]")
    dtype = accumulator_dtype(x, kernel, scale, bias)
    logits = conv2d(channel_summary(x).astype(dtype), kernel.astype(dtype), precision=precision)
    if scale is not None:
        logits = logits * align(scale.astype(dtype), logits)
    if bias is not None:
        logits = logits + align(bias.astype(dtype), logits)
    return x * jax.nn.sigmoid(logits).astype(x.dtype)
