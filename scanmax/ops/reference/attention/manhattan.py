"""Manhattan self-attention, as its equations."""

import jax.numpy as jnp
import numpy as np

from scanmax.ops.reference.attention.distance import distance_attention_matrix
from scanmax.ops.reference.attention.dot_product import attention_matrix


def manhattan_log_decay(num_heads, *, initial=2.0, span=4.0, dtype=jnp.float32):
    """log(1 - 2^(-initial - span h / H))."""
    decays = [1 - 2 ** (-initial - span * h / num_heads) for h in range(num_heads)]
    return jnp.asarray(np.log(decays), dtype)


def manhattan_attention_matrix(
    query,
    key,
    log_decay,
    *,
    grid,
    decomposed=False,
    placement="logits",
    prefix_tokens=0,
    scale=None,
    normalizer="softmax",
    precision=None,
):
    """Full: softmax(l + log D). Decomposed: two masked matrices over all tokens, A_Y A_X."""
    P = prefix_tokens
    rows, columns = (np.pad(axis.ravel(), (P, 0), constant_values=-1) for axis in np.indices(grid))
    options = {
        "placement": placement,
        "prefix_tokens": P,
        "scale": scale,
        "normalizer": normalizer,
        "precision": precision,
    }
    if not decomposed:
        places = jnp.asarray(np.stack([rows, columns], -1))
        return distance_attention_matrix(query, key, log_decay, places, **options)
    steps = []
    for line, place in ((rows, columns), (columns, rows)):
        # pixels read the pixels of their line and the prefix
        seen = jnp.asarray((line[:, None] == line[None]) | (line[None] < 0))
        step = distance_attention_matrix(
            query, key, log_decay, jnp.asarray(place), None, None, seen, **options
        )
        # the prefix stands still
        step = step.at[..., :P, :].set(jnp.eye(P, len(line), dtype=step.dtype))
        steps.append(step)
    along_rows, along_columns = steps
    mixed = jnp.einsum("...ts,...su->...tu", along_columns, along_rows, precision=precision)
    whole = attention_matrix(query, key, scale=scale, normalizer=normalizer, precision=precision)
    return mixed.at[..., :P, :].set(whole[..., :P, :])


def manhattan_attention(
    query,
    key,
    value,
    log_decay,
    *,
    grid,
    decomposed=False,
    placement="logits",
    prefix_tokens=0,
    scale=None,
    normalizer="softmax",
    precision=None,
):
    """y = P v."""
    weights = manhattan_attention_matrix(
        query,
        key,
        log_decay,
        grid=grid,
        decomposed=decomposed,
        placement=placement,
        prefix_tokens=prefix_tokens,
        scale=scale,
        normalizer=normalizer,
        precision=precision,
    )
    value = jnp.repeat(value, query.shape[-2] // value.shape[-2], axis=-2)
    return jnp.einsum("...hts,...shv->...thv", weights, value, precision=precision)
