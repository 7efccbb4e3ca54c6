"""The whole matrix of similarities between the images and texts of a batch, as teachers have it."""

from collections.abc import Mapping
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float

from scanmax.models.towers import Pairs, similarities
from scanmax.train.teachers import Told
from scanmax.train.terms.pairs import OfPairs


class SimilarityMatrix(OfPairs):
    """mean_j huber(cos_s(i, j) - mean_k cos_k(i, j)) over the texts j, and teachers k.

    huber is the smooth L1 loss. Teachers may have spaces of any width; of several, (0, 1, 2), the
    mean of their matrices counts, by `shares` where they do not count alike.

    Reference: teachtext
    """

    hears_several: ClassVar[bool] = True

    @nn.nowrap
    def hear(self, told: Mapping[int, Told]) -> Told:
        """What each teacher says."""
        heard = [told[index] for index in self.teachers]
        return heard[0]._replace(logits=tuple(each.logits for each in heard))

    def between(
        self, own: Pairs, told: tuple[Pairs, ...], mask: Bool[Array, "B"]
    ) -> Float[Array, "B"]:
        """[B]"""
        shares = self.shares or (1.0,) * len(told)
        means = sum(
            share * similarities(each.image, each.text) for share, each in zip(shares, told)
        ) / sum(shares)
        losses = optax.losses.huber_loss(similarities(own.image, own.text), means)
        return jnp.sum(jnp.where(mask[None], losses, 0), axis=1) / jnp.maximum(jnp.sum(mask), 1)
