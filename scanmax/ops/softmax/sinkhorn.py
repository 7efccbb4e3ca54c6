"""Entropic optimal transport: weights whose rows and columns both have given sums."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.ops.contract import accumulator_dtype, check_rank, check_shape, op, require, vary_like


@op("epsilon", "iterations")
def sinkhorn(
    cost: Float[Array, "*B T S"],
    row_weights: Float[Array, "*B T"] | None = None,
    column_weights: Float[Array, "*B S"] | None = None,
    *,
    epsilon: float = 0.05,
    iterations: int = 100,
) -> Float[Array, "*B T S"]:
    """The transport plan of least cost under an entropy, by Sinkhorn's iterations in logarithms.

        P = argmin sum_ts P_ts (C_ts + epsilon log P_ts)   with row sums a and column sums b
        P = exp((f_t + g_s - C_ts) / epsilon)
        f_t <- epsilon (log a_t - log sum_s exp((g_s - C_ts) / epsilon)), and g likewise

    Nothing overflows, however small epsilon is; as it falls the plan becomes that of the assignment
    problem. Gradients flow through the iterations. The last update is of the columns: their sums
    are exact, those of the rows as far as the iterations have come.

    Args:
      cost: C.
      row_weights: a, not negative, of the same total as b; None is 1 / T each. A row of weight 0
        takes no part, and a column neither.
      column_weights: b; None is 1 / S each.
      epsilon: weight of the entropy, in units of the cost.
      iterations: updates of both.

    Returns:
      P, in the dtype of the cost.

    Raises:
      ValueError: a cost of fewer than two axes, weights of other shapes, epsilon or iterations not
        above 0.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> plan = ops.sinkhorn(jnp.array([[0.0, 1.0], [1.0, 0.0]]), epsilon=0.01)
      >>> plan.round(3).tolist()
      [[0.5, 0.0], [0.0, 0.5]]

    Reference: wcord
    """
    check_rank(2, cost=cost)
    *batch, T, S = cost.shape
    check_shape("row_weights", row_weights, (*batch, T), "[*B, T]")
    check_shape("column_weights", column_weights, (*batch, S), "[*B, S]")
    require(epsilon > 0, f"epsilon={epsilon}; expected above 0.")
    require(iterations >= 1, f"iterations={iterations}; expected at least 1.")
    dtype = accumulator_dtype(cost)
    scaled = -cost.astype(dtype) / epsilon
    rows, columns = (
        _logs(weights, size, (*batch, size), dtype)
        for weights, size in ((row_weights, T), (column_weights, S))
    )

    def update(potentials, _):
        _, g = potentials
        f = rows - jax.nn.logsumexp(scaled + g[..., None, :], axis=-1)
        g = columns - jax.nn.logsumexp(scaled + f[..., :, None], axis=-2)
        return (f, g), None

    start = jnp.zeros_like(rows), jnp.where(jnp.isneginf(columns), -jnp.inf, 0).astype(dtype)
    start = tuple(vary_like(part, scaled, rows, columns) for part in start)
    (f, g), _ = jax.lax.scan(update, start, length=iterations)
    return jnp.exp(scaled + f[..., :, None] + g[..., None, :]).astype(cost.dtype)


def _logs(weights, size, shape, dtype):
    """log of the weights, -inf of 0, without a gradient that is not finite."""
    if weights is None:
        return jnp.full(shape, -jnp.log(jnp.asarray(size, dtype)))
    weights = weights.astype(dtype)
    return jnp.where(weights > 0, jnp.log(jnp.where(weights > 0, weights, 1)), -jnp.inf)
