"""The Fourier transform over all tokens as a mixer."""

from typing import ClassVar

import flax.linen as nn
from jaxtyping import Array, Float

from scanmax import ops
from scanmax.models.mixers.base import Mixer


class FourierTokens(Mixer):
    """The real part of the Fourier transform over tokens and channels, and a linear map.

    Tokens lie on a line, prefix tokens first: the transform is FNet's, which has no weights; the
    map behind it is ours.

    Attributes:
      scale: of the transform; None is 1 / sqrt(T D), FNet's is 1.
    """

    formula: ClassVar[str] = "y = W Re(F x),  F over tokens and channels"
    cost: ClassVar[str] = "T log T"
    papers: ClassVar[tuple[str, ...]] = ("fft-conv-scaling",)

    scale: float | None = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        grid: tuple[int, int] | None = None,
        train: bool = False,
    ) -> Float[Array, "B T D"]:
        if self.is_causal:
            raise ValueError("FourierTokens has no causal form: it reads all tokens.")
        x = ops.fourier_token_mixing(x.astype(self.dtype), scale=self.scale)
        return self.dense(x.shape[-1], ("embed", "embed"), "out")(x)
