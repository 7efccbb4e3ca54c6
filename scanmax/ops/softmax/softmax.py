"""Softmax and its kin: positive scores of logits, divided by their sum over an axis.

Every function takes `where` (True = takes part) and gives 0 to what is left out, in a slice that is
left out whole too, with finite gradients. A logit of -inf counts as left out.
"""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from scanmax.ops.contract import accumulator_dtype, check_choice, op, require

FORMS = (None, "three_pass", "two_pass")

_LOG2_E = 1.4426950408889634
# ln 2 in two parts: the first has few enough digits that its product with any exponent is exact.
_LN2_HIGH = {24: 0.693359375, 53: 6.93145751953125e-1}
_LN2_LOW = {24: -2.12194440054690581e-4, 53: 1.42860682030941723212e-6}


def _axes(logits: Array, axis: int | Sequence[int]) -> tuple[int, ...]:
    axes = (axis,) if isinstance(axis, int) else tuple(axis)
    for one in axes:
        require(
            -logits.ndim <= one < logits.ndim,
            f"axis={axis} is out of range for logits of shape {logits.shape}.",
        )
    return tuple(one % logits.ndim for one in axes)


def _prepare(logits, axis, where):
    """Logits in accumulator precision with -inf where left out, and the axes as a tuple."""
    require(
        jnp.issubdtype(logits.dtype, jnp.floating),
        f"logits has dtype {logits.dtype}; expected a floating one.",
    )
    axes = _axes(logits, axis)
    x = logits.astype(accumulator_dtype(logits))
    if where is None:
        return x, axes
    try:
        shape = jnp.broadcast_shapes(where.shape, x.shape)
    except ValueError:
        shape = None
    require(
        where.dtype == bool and shape == x.shape,
        f"where has shape {where.shape} and dtype {where.dtype}; expected a bool mask that "
        f"broadcasts to logits, {x.shape}.",
    )
    return jnp.where(jnp.broadcast_to(where, x.shape), x, -jnp.inf), axes


def _count(where, x, axes):
    """How many entries take part, the axes kept with size 1."""
    where = jnp.ones(x.shape, bool) if where is None else jnp.broadcast_to(where, x.shape)
    return jnp.sum(where, axes, keepdims=True, dtype=x.dtype)


def _finite(level):
    """The level that a slice is shifted by: its own, or 0 where the slice is empty."""
    return jnp.where(level == -jnp.inf, jnp.zeros_like(level), level)


def _tempered(x, temperature):
    """x / temperature, -inf staying without a gradient."""
    if temperature is None:
        return x
    temperature = jnp.asarray(temperature)
    fits = temperature.ndim == 0 or (
        temperature.ndim == x.ndim and all(a in (1, b) for a, b in zip(temperature.shape, x.shape))
    )
    require(
        fits,
        f"temperature has shape {temperature.shape}; expected a scalar, or axes of 1 or of "
        f"logits, {x.shape}.",
    )
    left_out = x == -jnp.inf
    finite = jnp.where(left_out, jnp.zeros_like(x), x)
    return jnp.where(left_out, x, finite / temperature.astype(x.dtype))


def divide(x: Array, total: Array) -> Array:
    """x / total, and 0 where the total is 0 (or below the smallest normal number).

    A product with the inverse, of which there is one for many x: quotients and choices for each x
    would be kept for the backward pass.
    """
    empty = jnp.abs(total) < jnp.finfo(total.dtype).tiny
    inverse = 1 / jnp.where(empty, jnp.ones_like(total), total)
    return x * jnp.where(empty, jnp.zeros_like(total), inverse)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def _softmax(x, axes, form):
    if form == "two_pass":
        m, n = _split(x)
        m_sum, n_sum = _reduce_pairs(m, n, axes)
        return divide(m, m_sum) * power_of_two(_difference(n, n_sum))
    scores = jnp.exp(x - _finite(jnp.max(x, axes, keepdims=True)))
    return divide(scores, jnp.sum(scores, axes, keepdims=True))


@_softmax.defjvp
def _softmax_jvp(axes, form, primals, tangents):
    y = _softmax(*primals, axes, form)
    tangent = y * tangents[0]
    return y, tangent - y * jnp.sum(tangent, axes, keepdims=True)


@op("axis", "form")
def softmax(
    logits: Float[Array, "..."],
    axis: int | Sequence[int] = -1,
    where: Bool[Array, "..."] | None = None,
    *,
    temperature: Float[Array, "..."] | float | None = None,
    form: str | None = None,
) -> Float[Array, "..."]:
    """Softmax by three passes, or by the two-pass algorithm without a maximum.

        y_i = exp(x_i / t) / sum_j exp(x_j / t)

    Three passes read the logits for their maximum, for the sum and for the output. Two passes keep
    exp(x) as a pair (m, n) of value m 2^n whose exponent cannot overflow: one pass sums the
    pairs (`extexp_sum`), one writes. On CPU the three passes are faster, since XLA fuses them.

    Args:
      logits: any shape.
      axis: one axis or several, summed over together.
      where: bool, broadcasts to logits; False is left out.
      temperature: t, positive: a scalar or an array with axes of 1 or of logits, which may be
        traced and learned; None is 1.
      form: "three_pass" (the default) or "two_pass"; the results agree to rounding.

    Returns:
      The weights, in the shape and dtype of logits; a slice that is left out whole is 0.

    Raises:
      ValueError: an axis out of range, a mask or temperature that does not broadcast, an unknown
        form.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> ops.softmax(jnp.array([1e4, 1e4, -jnp.inf]), form="two_pass")
      Array([0.5, 0.5, 0. ], dtype=float32)

    Reference: two-pass-softmax
    """
    check_choice("form", form, FORMS)
    x, axes = _prepare(logits, axis, where)
    x = _tempered(x, temperature)
    return _softmax(x, axes, form or "three_pass").astype(logits.dtype)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _log_softmax(x, axes):
    shifted = x - _finite(jnp.max(x, axes, keepdims=True))
    total = jnp.sum(jnp.exp(shifted), axes, keepdims=True)
    return shifted - jnp.log(jnp.where(total == 0, jnp.ones_like(total), total))


@_log_softmax.defjvp
def _log_softmax_jvp(axes, primals, tangents):
    y = _log_softmax(*primals, axes)
    mean = jnp.sum(jnp.exp(y) * tangents[0], axes, keepdims=True)
    return y, jnp.where(y == -jnp.inf, jnp.zeros_like(y), tangents[0] - mean)


@op("axis")
def log_softmax(
    logits: Float[Array, "..."],
    axis: int | Sequence[int] = -1,
    where: Bool[Array, "..."] | None = None,
    *,
    temperature: Float[Array, "..."] | float | None = None,
) -> Float[Array, "..."]:
    """Logarithm of softmax, without the loss of digits of log(softmax(x)).

        y_i = x_i / t - log sum_j exp(x_j / t)

    Args:
      logits: any shape.
      axis: one axis or several, summed over together.
      where: bool, broadcasts to logits; False is left out.
      temperature: t, as in `softmax`.

    Returns:
      In the shape and dtype of logits; -inf, with gradient 0, where left out.

    Raises:
      ValueError: an axis out of range, a mask that does not broadcast.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> ops.log_softmax(jnp.array([0.0, 1000.0]))
      Array([-1000.,     0.], dtype=float32)

    Reference: two-pass-softmax
    """
    x, axes = _prepare(logits, axis, where)
    return _log_softmax(_tempered(x, temperature), axes).astype(logits.dtype)


@jax.custom_jvp
def stable_score(x: Array) -> Array:
    """x + 1 for x >= 0 and 1 / (1 - x) below: continuous, of slope 1 at 0."""
    return jnp.where(x >= 0, x + 1, 1 / (1 - jnp.minimum(x, 0)))


@stable_score.defjvp
def _stable_score_jvp(primals, tangents):
    (x,), (dx,) = primals, tangents
    score = stable_score(x)
    return score, jnp.where(x >= 0, jnp.ones_like(x), jnp.square(score)) * dx


@op("axis")
def stablemax(
    logits: Float[Array, "..."],
    axis: int | Sequence[int] = -1,
    where: Bool[Array, "..."] | None = None,
) -> Float[Array, "..."]:
    """StableMax: softmax with a score that grows linearly instead of exponentially.

        y_i = s(x_i) / sum_j s(x_j),   s(x) = x + 1 if x >= 0 else 1 / (1 - x)

    In a cross-entropy loss the gradient of the right class survives logit gaps at which softmax's
    is absorbed by rounding (17 in float32).

    Args:
      logits: any shape.
      axis: one axis or several, summed over together.
      where: bool, broadcasts to logits; False is left out.

    Returns:
      The weights, in the shape and dtype of logits; a slice that is left out whole is 0.

    Raises:
      ValueError: an axis out of range, a mask that does not broadcast.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> ops.stablemax(jnp.array([2.0, -1.0, -1.0]))
      Array([0.75 , 0.125, 0.125], dtype=float32)

    Reference: stablemax-perpgrad
    """
    x, axes = _prepare(logits, axis, where)
    scores = stable_score(x)
    return divide(scores, jnp.sum(scores, axes, keepdims=True)).astype(logits.dtype)


@op("axis")
def log_stablemax(
    logits: Float[Array, "..."],
    axis: int | Sequence[int] = -1,
    where: Bool[Array, "..."] | None = None,
) -> Float[Array, "..."]:
    """Logarithm of StableMax.

        y_i = log s(x_i) - log sum_j s(x_j),   log s(x) = sign(x) log(1 + |x|)

    Args:
      logits: any shape.
      axis: one axis or several, summed over together.
      where: bool, broadcasts to logits; False is left out.

    Returns:
      In the shape and dtype of logits; -inf, with gradient 0, where left out.

    Raises:
      ValueError: an axis out of range, a mask that does not broadcast.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> jnp.exp(ops.log_stablemax(jnp.array([2.0, -1.0, -1.0]))).round(4)
      Array([0.75 , 0.125, 0.125], dtype=float32)

    Reference: stablemax-perpgrad
    """
    x, axes = _prepare(logits, axis, where)
    total = jnp.sum(stable_score(x), axes, keepdims=True)
    log_total = jnp.log(jnp.where(total == 0, jnp.ones_like(total), total))
    # log(1 + |x|) with the sign of x, where |x| has gradient 1 at 0. XLA's log1p takes twice as
    # long, and its last digits go where the logarithm of the total is taken off.
    logs = jnp.log(1 + jnp.where(x >= 0, x, -x))
    y = jnp.where(x >= 0, logs, -logs) - log_total
    return jnp.where(x == -jnp.inf, -jnp.inf, y).astype(logits.dtype)


@op("axis")
def sigmoid_weights(
    logits: Float[Array, "..."],
    axis: int | Sequence[int] = -1,
    where: Bool[Array, "..."] | None = None,
    *,
    bias: Float[Array, ""] | float | None = None,
) -> Float[Array, "..."]:
    """Sigmoid of each logit on its own, biased so that n equal logits of 0 sum to about 1.

        y_i = sigmoid(x_i + bias),   bias = -log n

    Args:
      logits: any shape.
      axis: the axis or axes along which n counts.
      where: bool, broadcasts to logits; False is left out.
      bias: a scalar; None is -log n, where n counts the entries that are not left out. (The paper's
        n is the sequence length: give -log of it where left-out entries are to count.)

    Returns:
      The weights, in the shape and dtype of logits; they do not sum to 1.

    Raises:
      ValueError: an axis out of range, a mask that does not broadcast, a bias that is no scalar.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> ops.sigmoid_weights(jnp.zeros(4))
      Array([0.2, 0.2, 0.2, 0.2], dtype=float32)

    Reference: sigmoid-attention
    """
    x, axes = _prepare(logits, axis, where)
    if bias is None:
        bias = -jnp.log(jnp.maximum(_count(where, x, axes), 1))
    else:
        bias = jnp.asarray(bias)
        require(bias.ndim == 0, f"bias has shape {bias.shape}; expected a scalar.")
    return jax.nn.sigmoid(x + bias.astype(x.dtype)).astype(logits.dtype)


# The (mantissa, exponent) accumulator.


def power_of_two(n: Array) -> Array:
    """2^n for whole n <= 0, exactly; 0 below the normal range. jnp.exp2 is not exact."""
    info = jnp.finfo(n.dtype)
    smallest = info.minexp
    whole = jnp.clip(n, smallest - 1, 0).astype(jnp.int64 if info.bits == 64 else jnp.int32)
    return lax.bitcast_convert_type((whole - smallest + 1) << info.nmant, n.dtype)


def _difference(n, n_max):
    """n - n_max, with -inf - -inf = 0."""
    same = n == n_max
    return jnp.where(same, jnp.zeros_like(n), n - jnp.where(same, jnp.zeros_like(n_max), n_max))


def _split(x):
    """exp(x) as m 2^n: n whole, m between 0.7 and 1.42; (0, -inf) for x = -inf."""
    digits = jnp.finfo(x.dtype).nmant + 1
    n = jnp.round(lax.stop_gradient(x) * _LOG2_E)
    finite = _finite(n)
    rest = (_finite(x) - finite * _LN2_HIGH[digits]) - finite * _LN2_LOW[digits]
    return jnp.where(n == -jnp.inf, jnp.zeros_like(x), jnp.exp(rest)), n


def _add_pairs(left, right):
    (m, n), (other_m, other_n) = left, right
    n_max = jnp.maximum(n, other_n)
    m = m * power_of_two(_difference(n, n_max))
    return m + other_m * power_of_two(_difference(other_n, n_max)), n_max


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def _reduce_pairs(m, n, axes):
    """The sum of the pairs over axes, which stay with size 1; one pass over the operands."""
    kept = tuple(1 if i in axes else size for i, size in enumerate(m.shape))
    others = [i for i in range(m.ndim) if i not in axes]

    def flat(x):
        return lax.collapse(x.transpose(*others, *axes), len(others))

    m, n = flat(m), flat(n)
    # in two levels, so that the rounding error grows with the square root of the length
    size = m.shape[-1]
    row = max(math.isqrt(size), 1)
    pad = [(0, 0)] * (m.ndim - 1) + [(0, -size % row)]
    m, n = jnp.pad(m, pad), jnp.pad(n, pad, constant_values=-jnp.inf)
    pair = tuple(x.reshape(*x.shape[:-1], x.shape[-1] // row, row) for x in (m, n))
    zero = (jnp.zeros((), m.dtype), jnp.full((), -jnp.inf, n.dtype))
    for _ in range(2):
        pair = lax.reduce(pair, zero, _add_pairs, (pair[0].ndim - 1,))
    return tuple(x.reshape(kept) for x in pair)


@_reduce_pairs.defjvp
def _reduce_pairs_jvp(axes, primals, tangents):
    m, n = primals
    m_sum, n_sum = _reduce_pairs(m, n, axes)
    tangent = jnp.sum(tangents[0] * power_of_two(_difference(n, n_sum)), axes, keepdims=True)
    return (m_sum, n_sum), (tangent, jnp.zeros_like(n_sum))


@op()
def extexp(x: Float[Array, "..."]) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """Extended exponential: exp(x) as a pair of mantissa and exponent that cannot overflow.

        exp(x) = m 2^n,   n = round(x log2 e),   m = exp(x - n ln 2)

    Args:
      x: any shape.

    Returns:
      (m, n), both in accumulator precision and the shape of x: m between 0.7 and 1.42, n whole,
      kept as a float so that no logit is too large for it. x = -inf gives (0, -inf).

    Raises:
      ValueError: when x is not floating.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> m, n = ops.extexp(jnp.array([0.0, 1e4]))
      >>> n
      Array([    0., 14427.], dtype=float32)

    Reference: two-pass-softmax
    """
    require(jnp.issubdtype(x.dtype, jnp.floating), f"x has dtype {x.dtype}; expected floating.")
    return _split(x.astype(accumulator_dtype(x)))


@op()
def extexp_add(
    left: tuple[Float[Array, "..."], Float[Array, "..."]],
    right: tuple[Float[Array, "..."], Float[Array, "..."]],
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """Adds two numbers kept as (m, n): the monoid under the two-pass softmax.

        (m, n) + (m', n') = (m 2^(n - N) + m' 2^(n' - N), N),   N = max(n, n')

    Associative and commutative to rounding, with identity (0, -inf): partial sums over blocks or
    devices merge in any order.

    Args:
      left: a pair from `extexp`, `extexp_sum` or this function.
      right: another, of the same shape.

    Returns:
      Their sum as such a pair.

    Raises:
      ValueError: when the four arrays differ in shape.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> m, n = ops.extexp_add(ops.extexp(jnp.float32(1000.0)), ops.extexp(jnp.float32(1000.0)))
      >>> round(float(jnp.log(m) + n * jnp.log(2.0)), 2)  # 1000 + log 2
      1000.69

    Reference: two-pass-softmax
    """
    shapes = [x.shape for x in (*left, *right)]
    require(
        len(set(shapes)) == 1,
        f"left and right hold shapes {shapes}; expected four arrays of one shape.",
    )
    return _add_pairs(left, right)


@op("axis")
def extexp_sum(
    logits: Float[Array, "..."],
    axis: int | Sequence[int] = -1,
    where: Bool[Array, "..."] | None = None,
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """Sum of exponentials over an axis as (mantissa, exponent): pass 1 of the two-pass softmax.

        m 2^n = sum_j exp(x_j);   log-sum-exp = log m + n ln 2

    Args:
      logits: any shape.
      axis: one axis or several, summed over together.
      where: bool, broadcasts to logits; False is left out.

    Returns:
      (m, n) in accumulator precision, without the axes; (0, -inf) for an empty sum.

    Raises:
      ValueError: an axis out of range, a mask that does not broadcast.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> m, n = ops.extexp_sum(jnp.array([-2e4, -2e4]))
      >>> (jnp.log(m) + n * jnp.log(2.0)).round(1)  # -20000 + log 2
      Array(-19999.3, dtype=float32)

    Reference: two-pass-softmax
    """
    x, axes = _prepare(logits, axis, where)
    return tuple(part.squeeze(axes) for part in _reduce_pairs(*_split(x), axes))
