"""Functions of several kinds, chosen by scores."""

import jax
import jax.numpy as jnp


def selection_weights(scores, *, selection="softmax", temperature=1.0, threshold=0.5):
    """Shares of the exponentials; those far below the largest, or all but it, are left out."""
    if selection == "free":
        return scores
    top = jnp.max(scores, -1, keepdims=True)
    shares = jnp.exp((scores - top) / temperature)  # of the largest
    if selection == "gated":
        shares = jnp.where(shares >= threshold, shares, 0)
    soft = shares / jnp.sum(shares, -1, keepdims=True)
    if selection != "hard":
        return soft
    largest = scores == top
    first = jnp.where(largest & (jnp.cumsum(largest, -1) == 1), 1, 0)
    return soft + jax.lax.stop_gradient(first.astype(soft.dtype) - soft)


def select_functions(coefficients, weights):
    """c_mdno times w_dom, kind after kind and function after function."""
    functions = []
    for m, c in enumerate(coefficients):
        for n in range(c.shape[-2]):
            weight = jnp.broadcast_to(weights[..., m], c[..., n, :].shape)
            functions.append(weight * c[..., n, :])
    return jnp.stack(functions, -2)
