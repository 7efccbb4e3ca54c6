"""What attention does to a row of logits: a positive score, divided by its row sum or not.

The streaming evaluation in `attention_streaming` and the matrix form in `attention` are written
once, against this interface. A new normalizer is a subclass of a few lines:

    @dataclasses.dataclass(frozen=True)
    class Softplus(Normalizer):
        '''log(1 + exp(x)) / sum.'''

        def score(self, logits, level, num_keys):
            return jax.nn.softplus(logits)

It is static under jit, so it is a frozen dataclass: equal fields make equal normalizers.
"""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.ops.contract import check_choice
from scanmax.ops.softmax import extexp, power_of_two, stable_score


@dataclasses.dataclass(frozen=True)
class Normalizer:
    """The weights P of a row of logits l over n keys.

        P_s = score(l_s) / (sum_r score(l_r) + null),   or  P_s = score(l_s) when not normalized

    `score` must be 0 with slope 0 at -inf, which is what a masked logit becomes; its gradient is
    taken automatically.

    A score that would overflow is shifted: `level` maps each logit to a number whose maximum over
    a row is the row's level, `score(l, level, n)` is the score divided by a factor that depends on
    the level alone, and `rescale(old, new)` is the quotient of two such factors, by which sums
    taken at level `old` turn into sums at level `new`. The division by the row sum cancels the
    factor; so only normalized rows may be shifted.

    Attributes:
      normalized: whether rows are divided by their sum; if not, sums over key blocks just add.
      shifted: whether `level` and `rescale` are used.
      null_logit: the logit of one more key, whose value is zero; None for no such key.
    """

    normalized: ClassVar[bool] = True
    shifted: ClassVar[bool] = False
    null_logit: ClassVar[float | None] = None

    def score(
        self, logits: Float[Array, "..."], level: Float[Array, "..."] | None, num_keys
    ) -> Float[Array, "..."]:
        """The positive score of each logit; level and num_keys broadcast to logits."""
        raise NotImplementedError

    def level(self, logits: Float[Array, "..."]) -> Float[Array, "..."]:
        """What the row maximum is taken of; -inf for a logit of -inf."""
        raise NotImplementedError

    def rescale(self, old: Float[Array, "..."], new: Float[Array, "..."]) -> Float[Array, "..."]:
        """score(l, new) / score(l, old) for every l; new >= old, new is finite, old may be -inf."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Softmax(Normalizer):
    """exp(l) / sum exp(l), shifted by the row maximum."""

    shifted: ClassVar[bool] = True

    def score(self, logits, level, num_keys):
        return jnp.exp(logits - level)

    def level(self, logits):
        return logits

    def rescale(self, old, new):
        return jnp.exp(old - new)


@dataclasses.dataclass(frozen=True)
class TwoPassSoftmax(Normalizer):
    """Softmax on (mantissa, exponent) pairs: shifts are powers of two, so rescaling is exact."""

    shifted: ClassVar[bool] = True

    def score(self, logits, level, num_keys):
        m, n = extexp(logits)
        return m * power_of_two(n - level)

    def level(self, logits):
        return extexp(logits)[1]

    def rescale(self, old, new):
        return power_of_two(old - new)


@dataclasses.dataclass(frozen=True)
class Stablemax(Normalizer):
    """s(l) / sum s(l), s(l) = l + 1 for l >= 0, 1 / (1 - l) below."""

    def score(self, logits, level, num_keys):
        return stable_score(logits)


@dataclasses.dataclass(frozen=True)
class Sigmoid(Normalizer):
    """sigmoid(l + bias) without normalisation.

    Attributes:
      bias: None is -log n, n the number of keys: the key length where one is given, else S, masked
        keys included. Fix it where n differs between training and use.
    """

    bias: float | None = None
    normalized: ClassVar[bool] = False

    def score(self, logits, level, num_keys):
        if self.bias is not None:
            return jax.nn.sigmoid(logits + self.bias)
        if isinstance(num_keys, int):
            return jax.nn.sigmoid(logits - math.log(max(num_keys, 1)))
        return jax.nn.sigmoid(logits - jnp.log(jnp.maximum(num_keys, 1)))


NORMALIZERS: dict[str, Normalizer] = {
    "softmax": Softmax(),
    "softmax_two_pass": TwoPassSoftmax(),
    "stablemax": Stablemax(),
    "sigmoid": Sigmoid(),
}


def get_normalizer(normalizer: str | Normalizer) -> Normalizer:
    """The normalizer of that name, or the one given."""
    if isinstance(normalizer, Normalizer):
        return normalizer
    check_choice("normalizer", normalizer, tuple(NORMALIZERS))
    return NORMALIZERS[normalizer]
