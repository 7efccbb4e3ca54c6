"""The layer of Fourier neural operators, dense or in factors, as a mixer of maps."""

import math
from collections.abc import Sequence
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax import ops
from scanmax.errors import UserError
from scanmax.models.layers import partitioned
from scanmax.models.mixers.base import MapMixer
from scanmax.models.statistics import at_least_float32

FACTORIZATIONS = (None, "tucker", "cp")


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
        if self.factorization not in FACTORIZATIONS:
            listed = ", ".join(map(repr, FACTORIZATIONS))
            raise UserError(f"factorization={self.factorization!r} is not one of {listed}")
        dim = maps.shape[-1]
        y = self._spectral(maps, (*self.modes, dim, dim))
        return y + self.dense(dim, ("embed", "embed"), "skip")(maps)

    @nn.nowrap
    def _spectral(self, maps, sizes: Sequence[int]):
        dim = sizes[-1]
        # That of the released code, for a complex number of two parts.
        deviation = dim**-0.5
        if self.factorization is None:
            weight = self._weight("weights", sizes, (None, None, "embed", "mlp"), deviation)
            return ops.fourier_conv2d(maps, weight)
        names = ("row_kernel", "column_kernel", "input_kernel", "output_kernel")
        if self.factorization == "tucker":
            ranks = tucker_ranks(sizes, self.share)
            deviation = (deviation / math.sqrt(math.prod(ranks))) ** (1 / 5)
            first = self._weight("core_kernel", ranks, (None,) * 4, deviation)
            operator = ops.tucker_fourier_conv2d
        else:
            ranks = (max(1, int(self.share * math.prod(sizes) / sum(sizes))),) * 4
            deviation = (deviation / math.sqrt(ranks[0])) ** (1 / 4)
            init = partitioned(_one, (None, None))
            first = self.param("scale", init, (ranks[0], 2), self.param_dtype)
            operator = ops.cp_fourier_conv2d
        axes = (None, None, "embed", "embed")
        factors = [
            self._weight(name, (size, rank), (axis, None), deviation)
            for name, size, rank, axis in zip(names, sizes, ranks, axes)
        ]
        return operator(maps, first.astype(at_least_float32(self.dtype)), *factors)

    @nn.nowrap
    def _weight(self, name: str, shape: Sequence[int], axes, deviation: float) -> Array:
        """Real and imaginary parts, whose squares add up to the deviation's."""
        inputs, outputs = ((-3,), (-2,)) if len(shape) > 1 else ((), ())
        init = nn.initializers.normal(deviation / math.sqrt(2))
        init = partitioned(init, (*axes, None), inputs=inputs, outputs=outputs)
        value = self.param(name, init, (*shape, 2), self.param_dtype)
        return value.astype(at_least_float32(self.dtype))


def _one(key, shape, dtype):
    """Complex ones, by their two parts."""
    return jnp.zeros(shape, dtype).at[..., 0].set(1)


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
