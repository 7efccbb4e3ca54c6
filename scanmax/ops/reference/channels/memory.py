"""Few of many channels, by sorting all of them."""

import jax
import jax.numpy as jnp


def top_k_activation(x, *, top_k):
    """y_d = x_d where among the top_k, else 0."""
    rank = jnp.argsort(jnp.argsort(-x, axis=-1, stable=True), axis=-1)
    return jnp.where(rank < top_k, x, 0.0)


def product_key_top_k(first, second, *, top_k):
    """The largest of all s_(m N + n) = first_m + second_n, and where they are."""
    sums = first[..., :, None] + second[..., None, :]
    sums = sums.reshape(*first.shape[:-1], first.shape[-1] * second.shape[-1])
    places = jnp.argsort(-sums, axis=-1, stable=True)[..., :top_k].astype(jnp.int32)
    return jnp.take_along_axis(sums, places, -1), places


def product_key_memory(first, second, values, *, top_k, weights="relu"):
    """y = sum_(r in top_k) f(s)_r values_r."""
    scores, places = product_key_top_k(first, second, top_k=top_k)
    weight = jnp.maximum(scores, 0) if weights == "relu" else jax.nn.softmax(scores, -1)
    rows = jnp.arange(len(values), dtype=jnp.int32).reshape((1,) * places.ndim + (-1,))
    chosen = (places[..., None] == rows).astype(values.dtype)
    return jnp.einsum("...k,...kr,rv->...v", weight, chosen, values)
