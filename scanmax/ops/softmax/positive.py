"""Softmax with another positive score than exp: rectified, squared, shifted, softplus, one more 0.

Each is also a normalizer of attention under the same name (`normalizer.NORMALIZERS`). What `where`
leaves out, or a logit of -inf, scores 0; a slice of zeros stays 0, with finite gradients.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from scanmax.ops.contract import op, require
from scanmax.ops.softmax.softmax import _count, _finite, _prepare, divide


def masked_score(score, x: Array) -> Array:
    """score(x), and 0 with slope 0 where x is -inf."""
    left_out = x == -jnp.inf
    return jnp.where(left_out, jnp.zeros_like(x), score(jnp.where(left_out, jnp.zeros_like(x), x)))


def squared_relu_score(x: Array) -> Array:
    """relu(x)^2."""
    return jnp.square(jax.nn.relu(x))


def two_quad_score(x: Array, shift: float) -> Array:
    """(x + shift)^2."""
    return masked_score(lambda x: jnp.square(x + shift), x)


def softplus_score(x: Array, factor: Array) -> Array:
    """log(1 + exp(factor x))."""
    return masked_score(lambda x: jax.nn.softplus(factor * x), x)


def length_factor(dim: int | None, count: Array, length_scale: bool) -> Array:
    """log d log n; a factor that is not asked for is 1."""
    factor = jnp.ones_like(count) if dim is None else jnp.full_like(count, math.log(dim))
    return factor * jnp.log(jnp.maximum(count, 1)) if length_scale else factor


def reweighting_score(weights: Array, peak: Array, count: Array, power: float, offset: float):
    """relu(n a - offset)^power, divided by its value at a = peak: no power can overflow.

    Of a single weight, n = 1, nothing is taken off: it is its row.
    """
    power = int(power) if power == int(power) else power
    floor = jnp.where(count > 1, offset / jnp.maximum(count, 1), jnp.zeros_like(count))
    range_ = peak - floor
    above = jax.nn.relu(weights - floor)
    return divide_where_positive(above, range_) ** power


def divide_where_positive(x: Array, total: Array) -> Array:
    """x / total, and 0 where the total is not positive."""
    return divide(x, jnp.maximum(total, 0))


def _positive(name: str, value: float) -> None:
    require(value >= 0, f"{name}={value}; expected at least 0.")


@op("axis", "eps")
def relu_softmax(
    logits: Float[Array, "..."],
    axis: int | Sequence[int] = -1,
    where: Bool[Array, "..."] | None = None,
    *,
    eps: float = 1e-5,
) -> Float[Array, "..."]:
    """Rectified logits over their sum: a softmax without an exponential or a maximum.

        y_i = relu(x_i) / (sum_j relu(x_j) + eps)

    Args:
      logits: any shape.
      axis: one axis or several, summed over together.
      where: bool, broadcasts to logits; False is left out.
      eps: added to the sum, as in the released code; weights sum to a little less than 1.

    Returns:
      The weights, in the shape and dtype of logits; 0 where no logit is positive.

    Raises:
      ValueError: an axis out of range, a mask that does not broadcast, eps below 0.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> ops.relu_softmax(jnp.array([3.0, 1.0, -2.0]), eps=0.0)
      Array([0.75, 0.25, 0.  ], dtype=float32)

    Reference: mpcvit
    """
    _positive("eps", eps)
    x, axes = _prepare(logits, axis, where)
    scores = jax.nn.relu(x)
    return divide(scores, jnp.sum(scores, axes, keepdims=True) + eps).astype(logits.dtype)


@op("axis", "eps")
def squared_relu_softmax(
    logits: Float[Array, "..."],
    axis: int | Sequence[int] = -1,
    where: Bool[Array, "..."] | None = None,
    *,
    eps: float = 1e-5,
) -> Float[Array, "..."]:
    """Squares of the rectified logits over their sum.

        y_i = relu(x_i)^2 / (sum_j relu(x_j)^2 + eps)

    Args:
      logits: any shape.
      axis: one axis or several, summed over together.
      where: bool, broadcasts to logits; False is left out.
      eps: added to the sum.

    Returns:
      The weights, in the shape and dtype of logits; 0 where no logit is positive.

    Raises:
      ValueError: an axis out of range, a mask that does not broadcast, eps below 0.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> ops.squared_relu_softmax(jnp.array([2.0, 2.0, -2.0]), eps=0.0)
      Array([0.5, 0.5, 0. ], dtype=float32)

    Reference: mpcvit
    """
    _positive("eps", eps)
    x, axes = _prepare(logits, axis, where)
    scores = squared_relu_score(x)
    return divide(scores, jnp.sum(scores, axes, keepdims=True) + eps).astype(logits.dtype)


@op("axis", "shift", "eps")
def two_quad(
    logits: Float[Array, "..."],
    axis: int | Sequence[int] = -1,
    where: Bool[Array, "..."] | None = None,
    *,
    shift: float = 5.0,
    eps: float = 0.0,
) -> Float[Array, "..."]:
    """2Quad of MPCFormer: exp(x) replaced by a square, in numerator and denominator.

        y_i = (x_i + c)^2 / (sum_j (x_j + c)^2 + eps)

    It follows softmax in order only for logits above -c. MPCViT's own code compares with the
    square norm, c = 0 and eps = 1e-5.

    Args:
      logits: any shape.
      axis: one axis or several, summed over together.
      where: bool, broadcasts to logits; False is left out.
      shift: c.
      eps: added to the sum.

    Returns:
      The weights, in the shape and dtype of logits; a slice that is left out whole is 0.

    Raises:
      ValueError: an axis out of range, a mask that does not broadcast, eps below 0.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> ops.two_quad(jnp.array([-3.0, -7.0]))  # as far above -5 as below
      Array([0.5, 0.5], dtype=float32)

    Reference: mpcvit
    """
    _positive("eps", eps)
    x, axes = _prepare(logits, axis, where)
    scores = two_quad_score(x, shift)
    return divide(scores, jnp.sum(scores, axes, keepdims=True) + eps).astype(logits.dtype)


@op("axis", "dim", "length_scale")
def softplus_softmax(
    logits: Float[Array, "..."],
    axis: int | Sequence[int] = -1,
    where: Bool[Array, "..."] | None = None,
    *,
    dim: int | None = None,
    length_scale: bool = True,
) -> Float[Array, "..."]:
    """The weights of length-scaled softplus attention (LSSA).

        y_i = softplus(f x_i) / sum_j softplus(f x_j),   f = log d log n

    n counts the logits that take part, per slice: under a causal mask it is the row's number. The
    factor keeps the entropy from growing with n. Where every f x is below about -100 (float32)
    all scores are 0, and so is the slice.

    Args:
      logits: any shape; in attention q k^T / sqrt(d).
      axis: one axis or several, summed over together.
      where: bool, broadcasts to logits; False is left out, and not counted.
      dim: d, the width of the heads that the logits come from; None leaves log d out.
      length_scale: whether f holds log n. Logarithms are natural (the paper names no base).

    Returns:
      The weights, in the shape and dtype of logits; a slice that is left out whole is 0.

    Raises:
      ValueError: an axis out of range, a mask that does not broadcast, dim below 1.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> ops.softplus_softmax(jnp.array([0.0, 0.0, -1e4, -jnp.inf]))
      Array([0.5, 0.5, 0. , 0. ], dtype=float32)

    Reference: lssar-softplus-attention
    """
    require(dim is None or dim >= 1, f"dim={dim}; expected at least 1.")
    x, axes = _prepare(logits, axis, where)
    count = _count(where, x, axes)
    scores = softplus_score(x, length_factor(dim, count, length_scale))
    return divide(scores, jnp.sum(scores, axes, keepdims=True)).astype(logits.dtype)


@op("axis", "power", "offset")
def reweight_power(
    weights: Float[Array, "..."],
    axis: int | Sequence[int] = -1,
    where: Bool[Array, "..."] | None = None,
    *,
    power: float = 3.0,
    offset: float = 1.0,
) -> Float[Array, "..."]:
    """The re-weighting of LSSAR: weights below uniform are cut, those above raised to a power.

        y_i = r_i / sum_j r_j,   r_i = relu(n a_i - offset)^power

    n counts the weights that take part. The paper's versions differ in offset and power (about 1,
    and from 3 up); which it trains with is not settled, so both are options. A single weight,
    n = 1, stays 1, where the formula would give 0 / 0.

    Args:
      weights: non-negative, any shape; each slice sums to 1.
      axis: one axis or several, summed over together.
      where: bool, broadcasts to weights; False is left out, and not counted.
      power: at least 1; larger is sharper. No power overflows.
      offset: what is taken off n times the weight; 1 is the uniform weight.

    Returns:
      The new weights, in the shape and dtype of weights; 0 where none is above offset / n.

    Raises:
      ValueError: an axis out of range, a mask that does not broadcast, power below 1, offset
        below 0.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> ops.reweight_power(jnp.array([0.5, 0.375, 0.0625, 0.0625])).round(4)
      Array([0.8889, 0.1111, 0.    , 0.    ], dtype=float32)

    Reference: lssar-softplus-attention
    """
    check_reweighting(power, offset)
    x, axes = _prepare(weights, axis, where)
    a = jnp.where(x == -jnp.inf, jnp.zeros_like(x), x)
    peak = jax.lax.stop_gradient(jnp.max(a, axes, keepdims=True, initial=0))
    scores = reweighting_score(a, peak, _count(where, x, axes), power, offset)
    return divide(scores, jnp.sum(scores, axes, keepdims=True)).astype(weights.dtype)


def check_reweighting(power: float, offset: float) -> None:
    """Refuses options that would make no weights."""
    require(power >= 1, f"power={power}; expected at least 1.")
    require(offset >= 0, f"offset={offset}; expected at least 0.")


@op("axis", "null")
def softmax_one(
    logits: Float[Array, "..."],
    axis: int | Sequence[int] = -1,
    where: Bool[Array, "..."] | None = None,
    *,
    null: float = 0.0,
) -> Float[Array, "..."]:
    """Softmax with one more logit that takes weight and gives nothing: a row may choose nothing.

        y_i = exp(x_i) / (exp(null) + sum_j exp(x_j))

    Args:
      logits: any shape.
      axis: one axis or several, summed over together.
      where: bool, broadcasts to logits; False is left out.
      null: the further logit.

    Returns:
      The weights, in the shape and dtype of logits; they sum to less than 1.

    Raises:
      ValueError: an axis out of range, a mask that does not broadcast.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> ops.softmax_one(jnp.array([0.0, -1e4]))
      Array([0.5, 0. ], dtype=float32)

    Reference: lssar-softplus-attention
    """
    x, axes = _prepare(logits, axis, where)
    level = jnp.maximum(_finite(jnp.max(x, axes, keepdims=True, initial=-jnp.inf)), null)
    level = jax.lax.stop_gradient(level)
    scores = jnp.exp(x - level)
    total = jnp.sum(scores, axes, keepdims=True) + jnp.exp(null - level)
    return (scores / total).astype(logits.dtype)
