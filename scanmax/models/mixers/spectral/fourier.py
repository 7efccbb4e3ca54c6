"""The layer of Fourier neural operators, dense or in factors, as a mixer of maps."""

import math
from collections.abc import Sequence
from typing import ClassVar

import flax.linen as nn
from jaxtyping import Array, Float

from scanmax.models.mixers.base import MapMixer
from scanmax.models.parts.fourier import check_factorization, fourier_product


class Fourier(MapMixer):
    """The Fourier layer of FNO and TFNO: low frequencies times matrices, beside a linear map.

    The weights are of frequencies, not of pixels, so that they serve maps of any resolution.
    In factors (Tucker's or those of CP) they are a share of the dense ones.

    Attributes:
      modes: frequencies that are kept along Y, half of them negative, and along X, from 0 on.
      factorization: None, "tucker" or "cp".
      share: of the dense weights, how many numbers the factors have.
    """

    formula: ClassVar[str] = "y = irfft2(R rfft2(x)) + W x + b,  R_f = 0 for high frequencies f"
    cost: ClassVar[str] = "T log T"
    papers: ClassVar[tuple[str, ...]] = ("mg-tfno",)

    modes: tuple[int, int] = (12, 7)
    factorization: str | None = None
    share: float = 0.1

    @nn.nowrap
    def mixed(self, maps: Float[Array, "B Y X D"], train: bool) -> Float[Array, "B Y X D"]:
        check_factorization(self.factorization)
        dim = maps.shape[-1]
        sizes = (*self.modes, dim, dim)
        ranks = tucker_ranks(sizes, self.share)
        if self.factorization == "cp":
            ranks = (max(1, int(self.share * math.prod(sizes) / sum(sizes))),) * 4
        y = fourier_product(self, maps, sizes, self.factorization, ranks)
        return y + self.dense(dim, ("embed", "embed"), "skip")(maps)


def tucker_ranks(sizes: Sequence[int], share: float) -> tuple[int, ...]:
    """Ranks in proportion to the sizes, with about a share of their product in numbers.

    >>> tucker_ranks((12, 7, 64, 64), 0.1)
    (6, 4, 35, 35)
    """
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        ranks = [max(1, round(middle * size)) for size in sizes]
        count = math.prod(ranks) + sum(size * rank for size, rank in zip(sizes, ranks))
        low, high = (low, middle) if count > share * math.prod(sizes) else (middle, high)
    return tuple(max(1, round(low * size)) for size in sizes)
