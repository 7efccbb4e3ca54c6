"""Affinity mimicking: each image weighs the texts of the batch as the teacher does, and back."""

from jaxtyping import Array, Bool, Float

from scanmax.models.towers import Pairs
from scanmax.train.losses.contrast import softmax_contrast
from scanmax.train.terms.pairs import OfPairs


class Affinity(OfPairs):
    """(H(A_t, A_s) + H(B_t, B_s)) / 2, A and B the softmax of the similarities by rows and columns.

    Each side has its own scale, the inverse of a temperature; H is the cross-entropy. Of a teacher
    that is sure of all pairs it is CLIP's own loss.

    Reference: tinyclip
    """

    def between(self, own: Pairs, told: Pairs, mask: Bool[Array, "B"]) -> Float[Array, "B"]:
        """[B]"""
        return softmax_contrast(own.logits, mask, told.logits)
