"""Terms of attention that depend on where query and key stand, made block by block.

A term is added to the logits, or multiplies the weights after they are normalized:

    y = normalizer(l + term) v      or      y = (normalizer(l) * term) v

It is a function of one array (its parameter) and of two places, so the streaming evaluation makes
it for one block at a time, and its gradient too: no [H, T, S] array, in either pass.
"""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Num

from scanmax.ops.attention.dot_product import (
    FORMS,
    check_arrays,
    chunks_of,
    clear_hidden,
    evaluate,
    scale_of,
    window_of,
)
from scanmax.ops.attention.normalizer import get_normalizer
from scanmax.ops.attention.parallel import weights_of
from scanmax.ops.contract import check_choice

PLACEMENTS = ("logits", "weights")


@dataclasses.dataclass(frozen=True)
class Distance:
    """log_decay_h |p_t - p_s|_1 on the logits, or its exponential on the weights.

    Attributes:
      placement: "logits" or "weights".
      prefix: how many of the first queries and keys have no place: their distances are 0.
    """

    placement: str
    prefix: tuple[int, int] = (0, 0)

    def block(
        self,
        log_decay: Float[Array, "H"],
        query_places: Num[Array, "T A"],
        key_places: Num[Array, "S A"],
        rows: Int[Array, "R"],
        columns: Int[Array, "C"],
    ) -> Float[Array, "H R C"]:
        """The term of these queries and keys; places beyond the last are as the last."""
        at_rows = jnp.take(query_places, rows, axis=0, mode="clip").astype(log_decay.dtype)
        at_columns = jnp.take(key_places, columns, axis=0, mode="clip").astype(log_decay.dtype)
        distance = sum(
            jnp.abs(at_rows[:, None, axis] - at_columns[None, :, axis])
            for axis in range(query_places.shape[1])
        )
        if self.prefix != (0, 0):
            placed = (rows >= self.prefix[0])[:, None] & (columns >= self.prefix[1])[None]
            distance = jnp.where(placed, distance, jnp.zeros_like(distance))
        term = log_decay[:, None, None] * distance[None]
        return term if self.placement == "logits" else jnp.exp(term)


@dataclasses.dataclass(frozen=True)
class SoftCausal:
    """1 for keys up to the query, r for later ones; on the logits, its logarithm."""

    placement: str

    def block(self, strength, query_places, key_places, rows, columns) -> Float[Array, "1 R C"]:
        """The term of these queries and keys; it reads no places but their order."""
        future = (columns[None] > rows[:, None])[None]
        if self.placement == "weights":
            return jnp.where(future, strength, jnp.ones_like(strength))
        some = strength > 0
        log = jnp.where(some, jnp.log(jnp.where(some, strength, jnp.ones_like(strength))), -jnp.inf)
        return jnp.where(future, log, jnp.zeros_like(log))


def relative_attention(
    relative,
    terms,
    query,
    key,
    value,
    bias,
    mask,
    *,
    scale,
    is_causal,
    normalizer,
    form,
    chunk_size,
    precision,
):
    """Attention with a term; `terms` is (parameter, query places, key places), None if unused."""
    check_choice("placement", relative.placement, PLACEMENTS)
    check_choice("form", form, FORMS)
    query, key, bias, mask = check_arrays(query, key, value, bias, mask)
    key, value = clear_hidden(key, value, mask, None)
    return evaluate(
        get_normalizer(normalizer, query.shape[-1]),
        query,
        key,
        value,
        bias,
        mask,
        scale_of(scale, query),
        window_of(None, is_causal),
        None,
        None,
        precision,
        form,
        chunks_of(chunk_size, query, key),
        relative,
        terms,
    )


def relative_matrix(
    relative, terms, query, key, bias, mask, *, scale, is_causal, normalizer, precision
):
    """The weights of `relative_attention`, [*B, H, T, S] in the dtype of query."""
    check_choice("placement", relative.placement, PLACEMENTS)
    dtype = query.dtype
    query, key, bias, mask = check_arrays(query, key, None, bias, mask)
    key, _ = clear_hidden(key, None, mask, None)
    weights = weights_of(
        get_normalizer(normalizer, query.shape[-1]),
        query,
        key,
        bias,
        mask,
        scale_of(scale, query),
        window_of(None, is_causal),
        None,
        None,
        precision,
        relative,
        terms,
    )
    return weights.astype(dtype)
