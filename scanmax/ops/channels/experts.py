"""Mixtures of experts: which tokens an expert takes, and the way there and back.

Shapes are static: every expert of a sequence has room for `capacity` tokens, and choices beyond it
are dropped in the order of the sequence, so that no token's fate depends on a later one. Both ways
are gathers; what lies between is a batched product over experts, which a mesh may split.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from scanmax.ops.contract import (
    accumulator_dtype,
    check_choice,
    check_rank,
    check_shape,
    op,
    require,
)


def _check_gates(gates: Array, **sizes: int) -> None:
    check_rank(2, gates=gates)
    for name, size in sizes.items():
        require(size >= 1, f"{name}={size}: expected 1 or more.")
    experts = gates.shape[-1]
    top_k = sizes.get("top_k", 1)
    require(
        top_k <= experts,
        f"top_k={top_k} with gates of shape {gates.shape}: expected 1 to {experts}.",
    )


def _rank(gates: Array) -> Array:
    """How many tokens up to and including each one an expert has taken, [*B, T, E]."""
    return jnp.cumsum((gates != 0).astype(jnp.int32), axis=-2, dtype=jnp.int32)


@op("top_k", "capacity", "normalize", "scores")
def expert_gates(
    logits: Float[Array, "*B T E"],
    selection: Float[Array, "*B T E"] | None = None,
    *,
    top_k: int,
    capacity: int | None = None,
    normalize: bool = True,
    scores: str = "softmax",
) -> Float[Array, "*B T E"]:
    """The gate of every expert for each token: its top_k probabilities, while experts have room.

        p = softmax(logits) where among the token's top_k, else 0
        p = p / sum_e p_e with `normalize`
        gates_te = p_te where fewer than `capacity` tokens before t have chosen e, else 0

    Args:
      logits: [*B, T, E].
      selection: what tokens choose by, where it is not the logits: a Sinkhorn plan of them, or
        these with some experts at -inf. It has no gradient.
      top_k: experts that a token chooses; of equal ones the first.
      capacity: tokens of a sequence that an expert takes; None takes all.
      normalize: whether a token's chosen gates sum to one before any is dropped. With one expert
        the gate is then constant, and a router learns nothing from it.
      scores: "softmax", or "sigmoid" of each logit alone, as in sigma-MoE.

    Returns:
      [*B, T, E] in the dtype of logits; what is not chosen, or dropped, is exactly 0.

    Raises:
      ValueError: top_k is not in 1..E, capacity is below 1, selection is not shaped as logits, or
        scores has no such value.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> logits = jnp.array([[9.0, 0.0], [9.0, 0.0]])  # both tokens choose the first expert
      >>> ops.expert_gates(logits, top_k=1, capacity=1)
      Array([[1., 0.],
             [0., 0.]], dtype=float32)

    Reference: sparsely-gated-moe
    """
    _check_gates(logits, top_k=top_k, capacity=1 if capacity is None else capacity)
    check_choice("scores", scores, ("softmax", "sigmoid"))
    check_shape("selection", selection, logits.shape, "[*B, T, E]")
    score = jax.nn.softmax if scores == "softmax" else jax.nn.sigmoid
    p = score(logits.astype(accumulator_dtype(logits)))
    places = lax.top_k(p if selection is None else lax.stop_gradient(selection), top_k)[1]
    numbers = jnp.arange(p.shape[-1], dtype=places.dtype).reshape((1,) * places.ndim + (-1,))
    p = jnp.where(jnp.any(places[..., None] == numbers, -2), p, jnp.zeros_like(p))
    if normalize:
        p = p / jnp.sum(p, -1, keepdims=True)
    if capacity is not None and capacity < p.shape[-2]:
        p = jnp.where(_rank(p) <= capacity, p, jnp.zeros_like(p))
    return p.astype(logits.dtype)


@op("capacity")
def dispatch_to_experts(
    x: Float[Array, "*B T D"], gates: Float[Array, "*B T E"], *, capacity: int
) -> Float[Array, "*B E C D"]:
    """The tokens of every expert, in their order; empty places are 0.

        y_ec = x_t where t is the c-th token with gates_te != 0

    Args:
      x: [*B, T, D].
      gates: [*B, T, E]; an expert takes the first `capacity` tokens whose gate is not 0.
      capacity: places of an expert, C.

    Returns:
      [*B, E, C, D] in the dtype of x.

    Raises:
      ValueError: capacity is below 1, or a shape does not fit.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> x = jnp.array([[1.0], [2.0], [3.0]])
      >>> gates = jnp.array([[0.5, 0.0], [0.0, 1.0], [0.5, 0.0]])
      >>> ops.dispatch_to_experts(x, gates, capacity=2)[..., 0]
      Array([[1., 3.],
             [2., 0.]], dtype=float32)

    Reference: sparsely-gated-moe
    """
    check_rank(2, x=x)
    *batch, T, D = x.shape
    _check_gates(gates, capacity=capacity)
    check_shape("gates", gates, (*batch, T, gates.shape[-1]), "[*B, T, E]")
    if not T:
        return jnp.zeros((*batch, gates.shape[-1], capacity, D), x.dtype)

    def one(x, rank):  # [T, D], [T, E]
        # The c-th token is where the count first reaches c.
        counts = jnp.arange(1, capacity + 1, dtype=rank.dtype)
        token = jax.vmap(lambda column: jnp.searchsorted(column, counts), 1)(rank)  # [E, C]
        taken = jnp.take(x, jnp.minimum(token, T - 1), axis=0)
        return jnp.where((token < T)[..., None], taken, jnp.zeros_like(taken))

    for _ in batch:
        one = jax.vmap(one)
    return one(x, _rank(gates))


@op("top_k")
def combine_experts(
    y: Float[Array, "*B E C V"], gates: Float[Array, "*B T E"], *, top_k: int
) -> Float[Array, "*B T V"]:
    """What experts made of a token, weighed by its gates.

        z_t = sum_e gates_te y_ec where t is the c-th token with gates_te != 0

    Args:
      y: [*B, E, C, V], one row for each place that `dispatch_to_experts` filled.
      gates: [*B, T, E] with at most top_k gates of a token that are not 0.
      top_k: experts that a token chose.

    Returns:
      [*B, T, V] in the dtype of y; a token that was dropped everywhere gets 0.

    Raises:
      ValueError: top_k is not in 1..E, or a shape does not fit.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> gates = jnp.array([[0.5, 0.5], [0.0, 1.0], [1.0, 0.0]])
      >>> y = ops.dispatch_to_experts(jnp.array([[1.0], [2.0], [3.0]]), gates, capacity=2)
      >>> ops.combine_experts(y, gates, top_k=2)[..., 0]
      Array([1., 2., 3.], dtype=float32)

    Reference: sparsely-gated-moe
    """
    check_rank(3, y=y)
    _check_gates(gates, top_k=top_k)
    *batch, experts, capacity, width = y.shape
    check_shape("gates", gates, (*batch, gates.shape[-2], experts), "[*B, T, E]")
    dtype = accumulator_dtype(y, gates)

    def one(y, gates, rank):  # [E, C, V], [T, E], [T, E]
        chosen = lax.top_k((gates != 0).astype(jnp.float32), top_k)[1]  # [T, k]
        weight = jnp.take_along_axis(gates, chosen, axis=-1).astype(dtype)
        place = jnp.take_along_axis(rank, chosen, axis=-1) - 1
        # Places beyond the room belong to gates that the caller did not set to 0.
        weight = jnp.where(place < capacity, weight, jnp.zeros_like(weight))
        place = chosen.astype(place.dtype) * capacity + jnp.clip(place, 0, capacity - 1)
        taken = jnp.take(y.reshape(experts * capacity, width), place, axis=0)  # [T, k, V]
        taken = jnp.where((weight != 0)[..., None], taken, jnp.zeros_like(taken))
        return jnp.einsum("tk,tkv->tv", weight, taken.astype(dtype)).astype(y.dtype)

    for _ in batch:
        one = jax.vmap(one)
    return one(y, gates, _rank(gates))
