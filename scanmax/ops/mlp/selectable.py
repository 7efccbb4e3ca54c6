"""Which of several kinds of functions a layer of Kolmogorov and Arnold is made of, node by node."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.ops.contract import (
    accumulator_dtype,
    check_choice,
    check_rank,
    check_shape,
    op,
    require,
)

SELECTIONS = ("free", "softmax", "gated", "hard")


@op("selection", "temperature", "threshold")
def selection_weights(
    scores: Float[Array, "*B M"],
    *,
    selection: str = "softmax",
    temperature: float = 1.0,
    threshold: float = 0.5,
) -> Float[Array, "*B M"]:
    """How much of each of M kinds of functions a node or an edge takes.

        p = softmax(scores / temperature)

        free      w = scores
        softmax   w = p
        gated     w_m = p_m where p_m >= threshold max p, else 0, over their sum
        hard      w_m = 1 where p_m is the first of the largest, else 0, with the gradient of p

    A temperature below 1 sharpens. What "hard" keeps is what the layer has after pruning, while all
    scores go on learning.

    Args:
      scores: of the kinds, the last axis.
      selection: how weights are made of them.
      temperature: of the softmax.
      threshold: share of the largest that "gated" asks for.

    Returns:
      [*B, M] in the dtype of scores.

    Raises:
      ValueError: an unknown selection, a temperature that is not positive, a threshold outside of 0
        to 1.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> ops.selection_weights(jnp.array([0.0, 2.0, 2.0]), selection="gated")
      Array([0. , 0.5, 0.5], dtype=float32)

    Reference: s-kan
    """
    check_rank(1, scores=scores)
    check_choice("selection", selection, SELECTIONS)
    require(temperature > 0, f"temperature={temperature}; expected a positive number.")
    require(0 <= threshold <= 1, f"threshold={threshold}; expected 0 to 1.")
    if selection == "free":
        return scores
    p = jax.nn.softmax(scores.astype(accumulator_dtype(scores)) / temperature)
    if selection == "gated":
        least = threshold * jax.lax.stop_gradient(jnp.max(p, -1, keepdims=True))
        p = jnp.where(p >= least, p, jnp.zeros_like(p))
        p = p / jnp.sum(p, -1, keepdims=True)
    elif selection == "hard":
        chosen = jax.nn.one_hot(jnp.argmax(p, -1), p.shape[-1], dtype=p.dtype)
        # The difference is exactly 0, so that what is not chosen is too.
        p = chosen + (p - jax.lax.stop_gradient(p))
    return p.astype(scores.dtype)


@op()
def select_functions(
    coefficients: Sequence[Float[Array, "*B D _ O"]], weights: Float[Array, "#D #O M"]
) -> Float[Array, "*B D N O"]:
    """Coefficients over several kinds of functions side by side, each weighed as its edge has it.

        phi_do(x) = sum_m w_dom sum_n c_mdno B_mn(x)

    Those of the functions B_m one after another, to be given with them to `kan_linear`, or with
    the axes of a kernel in front to `kan_conv2d`: w c is folded, so that all kinds are one product.

    Args:
      coefficients: c_m of each kind, with its own N.
      weights: w, of `selection_weights`; an axis of size 1 serves all inputs or outputs.

    Returns:
      [*B, D, N, O] with the N of all kinds together, in the dtype of the coefficients.

    Raises:
      ValueError: coefficients differ in an axis other than N, or weights are not of D or 1 inputs,
        O or 1 outputs and M kinds.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> two = [jnp.ones((1, 2, 1)), jnp.ones((1, 1, 1))]
      >>> ops.select_functions(two, jnp.array([[[0.25, 0.75]]]))[0, :, 0]
      Array([0.25, 0.25, 0.75], dtype=float32)

    Reference: s-kan
    """
    shapes = [c.shape for c in coefficients]
    require(len(shapes) > 0, "coefficients has none; expected those of one kind or more.")
    check_rank(3, **{f"coefficients[{m}]": c for m, c in enumerate(coefficients)})
    require(
        len({(shape[:-2], shape[-1]) for shape in shapes}) == 1,
        f"coefficients has shapes {shapes}; expected [*B, D, N_m, O], which differ in N alone.",
    )
    inputs, outputs = shapes[0][-3], shapes[0][-1]
    check_rank(3, weights=weights)
    nodes = (1 if n == 1 else own for n, own in zip(weights.shape, (inputs, outputs)))
    check_shape("weights", weights, (*nodes, len(shapes)), "[D or 1, O or 1, M]")
    dtype = accumulator_dtype(weights, *coefficients)
    parts = []
    for m, c in enumerate(coefficients):
        weight = weights[:, None, :, m].astype(dtype)
        weight = weight.reshape((1,) * (c.ndim - 3) + weight.shape)
        parts.append((c.astype(dtype) * weight).astype(c.dtype))
    return jnp.concatenate(parts, -2)
