"""Progressive attention labels of MixPro: the better the model, the more its attention counts."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.train.relabels.base import Mixed, Relabel


@dataclasses.dataclass(frozen=True)
class MixPro(Relabel):
    """alpha * A + (1 - alpha) * area, alpha = cos(softmax(logits), the label of the area).

    A is the share of the class token's attention on one's own patches. Where the model says nothing
    of the label, alpha is 0 and the label that of the area.

    Reference: mixpro
    """

    def share(self, mixed: Mixed) -> Float[Array, " B"]:
        """[B]"""
        said = jax.nn.softmax(mixed.logits.astype(jnp.float32))
        sizes = jnp.linalg.norm(said, axis=-1) * jnp.linalg.norm(mixed.label, axis=-1)
        trust = jnp.sum(said * mixed.label, axis=-1) / jnp.maximum(sizes, 1e-12)
        return trust * mixed.seen() + (1 - trust) * mixed.weight
