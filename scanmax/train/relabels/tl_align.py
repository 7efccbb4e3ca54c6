"""TL-Align: every token has a label, which attention carries along."""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.train.relabels.base import Mixed, Relabel


@dataclasses.dataclass(frozen=True)
class TlAlign(Relabel):
    """s <- (A s + s) / 2 over the blocks; the label is that of the token that the head reads.

    A patch begins with the label of what it shows, a class token with that of the area. What a
    token has of the two labels sums to one, so that one share stands for both.

    Reference: tl-align
    """

    def share(self, mixed: Mixed) -> Float[Array, " B"]:
        """[B]"""
        own = mixed.own
        for attention in mixed.attention:
            own = (jnp.einsum("bts,bs->bt", attention, own) + own) / 2
        return own[:, 0] if mixed.reads_first else jnp.mean(own[:, mixed.prefix :], axis=1)
