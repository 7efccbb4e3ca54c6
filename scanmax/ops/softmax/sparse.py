"""Softmax with exact zeros: sparsemax and 1.5-entmax, each the solution of a threshold equation.

Both are y = g(x - tau) for the tau at which y sums to 1, found exactly by sorting; their gradients
are written out, so that nothing is differentiated through the sort.
"""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from scanmax.ops.contract import op
from scanmax.ops.softmax.softmax import _finite, _prepare, divide


def sparsemax_score(x: Array) -> Array:
    """relu(x), x the logit less the threshold."""
    return jax.nn.relu(x)


def entmax15_score(x: Array) -> Array:
    """relu(x / 2)^2, x the logit less the threshold."""
    return jnp.square(jax.nn.relu(x / 2))


def _sorted(x, span):
    """Falling along the last axis, less the maximum; what is out of reach is put at -2 span.

    Also the ranks 1, 2, ... and the logits before sorting, treated alike.
    """
    x = jnp.maximum(x - _finite(jnp.max(x, -1, keepdims=True)), -2 * span)
    ranks = jnp.arange(1, x.shape[-1] + 1, dtype=x.dtype).reshape((1,) * (x.ndim - 1) + (-1,))
    return -jnp.sort(-x, axis=-1), ranks, x


def _sparsemax_rows(x):
    """Sparsemax over the last axis."""
    z, ranks, shifted = _sorted(x, 1.0)
    inside = 1 + ranks * z > jnp.cumsum(z, -1)
    size = jnp.sum(inside, -1, keepdims=True, dtype=z.dtype)
    total = jnp.sum(jnp.where(inside, z, jnp.zeros_like(z)), -1, keepdims=True)
    return sparsemax_score(shifted - (total - 1) / size)


def _entmax15_rows(x):
    """1.5-entmax over the last axis."""
    z, ranks, shifted = _sorted(x, 2.0)
    z = z / 2
    mean = jnp.cumsum(z, -1) / ranks
    spread = jnp.cumsum(jnp.square(z), -1) - ranks * jnp.square(mean)
    threshold = mean - jnp.sqrt(jnp.maximum((1 - spread) / ranks, 0))
    size = jnp.sum(threshold <= z, -1, keepdims=True, dtype=jnp.int32)
    threshold = jnp.take_along_axis(threshold, size - 1, -1)
    # One Newton step, from the sums over the support alone: long axes keep their digits.
    root = jax.nn.relu(shifted / 2 - threshold)
    excess = jnp.sum(jnp.square(root), -1, keepdims=True) - 1
    threshold = threshold + excess / (2 * jnp.sum(root, -1, keepdims=True))
    return entmax15_score(shifted - 2 * threshold)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _sparsemax(x, axes):
    return _over(_sparsemax_rows, x, axes)


@_sparsemax.defjvp
def _sparsemax_jvp(axes, primals, tangents):
    y = _sparsemax(*primals, axes)
    support = (y > 0).astype(y.dtype)
    mean = divide(
        jnp.sum(support * tangents[0], axes, keepdims=True), jnp.sum(support, axes, keepdims=True)
    )
    return y, support * (tangents[0] - mean)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _entmax15(x, axes):
    return _over(_entmax15_rows, x, axes)


@_entmax15.defjvp
def _entmax15_jvp(axes, primals, tangents):
    y = _entmax15(*primals, axes)
    inside = y > 0
    slopes = jnp.where(inside, jnp.sqrt(jnp.where(inside, y, jnp.ones_like(y))), jnp.zeros_like(y))
    mean = divide(
        jnp.sum(slopes * tangents[0], axes, keepdims=True), jnp.sum(slopes, axes, keepdims=True)
    )
    return y, slopes * (tangents[0] - mean)


def _over(rows, x, axes):
    """Applies a function of the last axis to several axes together; empty slices give 0."""
    if not math.prod(x.shape[i] for i in axes):
        return x
    others = [i for i in range(x.ndim) if i not in axes]
    order = (*others, *axes)
    moved = x.transpose(order)
    y = rows(lax.collapse(moved, len(others))).reshape(moved.shape)
    y = y.transpose(sorted(range(x.ndim), key=lambda i: order[i]))
    return jnp.where(x == -jnp.inf, jnp.zeros_like(y), y)


@op("axis")
def sparsemax(
    logits: Float[Array, "..."],
    axis: int | Sequence[int] = -1,
    where: Bool[Array, "..."] | None = None,
) -> Float[Array, "..."]:
    """Sparsemax: the point of the simplex nearest to the logits.

        y_i = relu(x_i - tau),   tau such that sum_i y_i = 1

    Logits further than 1 below the largest weigh exactly 0. Gradient, S the support of y:
    dx_i = dy_i - mean_S(dy) for i in S, else 0.

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
      >>> ops.sparsemax(jnp.array([1.0, 0.5, -1.0]))
      Array([0.75, 0.25, 0.  ], dtype=float32)

    Reference: mpcvit
    """
    x, axes = _prepare(logits, axis, where)
    return _sparsemax(x, axes).astype(logits.dtype)


@op("axis")
def entmax15(
    logits: Float[Array, "..."],
    axis: int | Sequence[int] = -1,
    where: Bool[Array, "..."] | None = None,
) -> Float[Array, "..."]:
    """1.5-entmax: half way between softmax and sparsemax, exact.

        y_i = relu(x_i / 2 - tau)^2,   tau such that sum_i y_i = 1

    Logits further than 2 below the largest weigh exactly 0. Gradient, g = sqrt(y):
    dx_i = g_i (dy_i - sum_j g_j dy_j / sum_j g_j).

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
      >>> ops.entmax15(jnp.array([2.0, 2.0, -1.0])).round(4)
      Array([0.5, 0.5, 0. ], dtype=float32)

    Reference: mpcvit
    """
    x, axes = _prepare(logits, axis, where)
    return _entmax15(x, axes).astype(logits.dtype)
