"""What attention does to a row of logits: a positive score, divided by its row sum or not.

The evaluation by blocks in `attention.streaming` and the one by the matrix in `attention.parallel`
are written once, against this interface. A new normalizer is a subclass of a few lines:

    @dataclasses.dataclass(frozen=True)
    class Exponential(Normalizer):
        '''2^x / sum.'''

        counts_keys = False

        def score(self, logits, level, num_keys):
            return jnp.exp2(logits)

It is static under jit, so it is a frozen dataclass: equal fields make equal normalizers.

Two kinds need more than one pass over the keys (`attention.passes` streams them): a
`Reweighted` one scores its weights again, a `Threshold` one first finds the row's threshold.
"""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from scanmax.ops.contract import check_choice, require
from scanmax.ops.softmax.positive import (
    check_reweighting,
    length_factor,
    reweighting_score,
    softplus_score,
    squared_relu_score,
    two_quad_score,
)
from scanmax.ops.softmax.softmax import divide, extexp, power_of_two, stable_score
from scanmax.ops.softmax.sparse import entmax15, entmax15_score, sparsemax, sparsemax_score


@dataclasses.dataclass(frozen=True)
class Normalizer:
    """The weights P of a row of logits l over n keys.

        P_s = score(l_s) / (sum_r score(l_r) + null),   or  P_s = score(l_s) when not normalized

    n, one per row, is the number of keys that the row may attend to: by masks, causality, window,
    pattern, segments and lengths (a bias of -inf still counts). The same token therefore has the
    same n in a whole pass, in any block, and in a step over a cache. A row without keys has n = 1.

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
      counts_keys: whether the scores read num_keys; where they do not, False saves the counting,
        and num_keys is None.
    """

    normalized: ClassVar[bool] = True
    shifted: ClassVar[bool] = False
    null_logit: ClassVar[float | None] = None
    counts_keys: ClassVar[bool] = True

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

    def for_width(self, key_dim: int) -> "Normalizer":
        """The normalizer for keys of this width, where that matters."""
        return self


@dataclasses.dataclass(frozen=True)
class Reweighted(Normalizer):
    """A normalizer whose weights a are scored once more, and divided by their sum again.

    P_s = reweight(a_s) / sum_r reweight(a_r),   a_s = score(l_s) / sum_r score(l_r)
    """

    def reweight(
        self, weights: Float[Array, "..."], peak: Float[Array, "..."], num_keys
    ) -> Float[Array, "..."]:
        """The second score, 0 at 0; it may be divided by a factor that depends on peak alone.

        Args:
          weights: the first weights, between 0 and 1.
          peak: the largest of each row, a constant to the gradient.
          num_keys: as in `score`.
        """
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Threshold(Normalizer):
    """Weights score(l, tau) for the tau, one per row, at which they sum to 1.

    `score` is convex in l - tau, 0 below 0, and 1 at `span`; so Newton's method started at
    max(l) - span rises to tau. `weights` does the same for whole rows.
    """

    normalized: ClassVar[bool] = False
    counts_keys: ClassVar[bool] = False
    span: ClassVar[float]

    def weights(self, logits: Float[Array, "*R S"]) -> Float[Array, "*R S"]:
        """The weights of whole rows, with their gradient; 0 for a row of -inf."""
        raise NotImplementedError


def needs_passes(normalizer: Normalizer) -> bool:
    """Whether one pass over the keys is not enough."""
    return isinstance(normalizer, Reweighted | Threshold)


def row_scores(normalizer: Normalizer, logits: Float[Array, "*R S"], num_keys):
    """Whole rows: the scores [*R, S], and their sums [*R, 1] or None where they are the weights."""
    if isinstance(normalizer, Threshold):
        return normalizer.weights(logits), None
    scores, total = _first_scores(normalizer, logits, num_keys)
    if isinstance(normalizer, Reweighted):
        weights = divide(scores, total)
        peak = lax.stop_gradient(jnp.max(weights, -1, keepdims=True, initial=0))
        scores = normalizer.reweight(weights, peak, num_keys)
        total = jnp.sum(scores, -1, keepdims=True)
    return scores, total


def _first_scores(normalizer, logits, num_keys):
    null = normalizer.null_logit
    if null is not None:
        null = jnp.full((*logits.shape[:-1], 1), null, logits.dtype)
    level = None
    if normalizer.shifted:
        # A finite floor instead of a choice afterwards: rows that attend to nothing stay at 0, and
        # XLA on CPU keeps the maximum and the scores in one fusion.
        floor = jnp.finfo(logits.dtype).min
        level = jnp.max(normalizer.level(logits), -1, keepdims=True, initial=floor)
        if null is not None:
            level = jnp.maximum(level, normalizer.level(null))
        level = lax.stop_gradient(level)
    scores = normalizer.score(logits, level, num_keys)
    if not normalizer.normalized:
        return scores, None
    total = jnp.sum(scores, -1, keepdims=True)
    return scores, total if null is None else total + normalizer.score(null, level, num_keys)


@dataclasses.dataclass(frozen=True)
class Softmax(Normalizer):
    """exp(l) / sum exp(l), shifted by the row maximum."""

    shifted: ClassVar[bool] = True
    counts_keys: ClassVar[bool] = False

    def score(self, logits, level, num_keys):
        return jnp.exp(logits - level)

    def level(self, logits):
        return logits

    def rescale(self, old, new):
        return jnp.exp(old - new)


@dataclasses.dataclass(frozen=True)
class SoftmaxOne(Softmax):
    """exp(l) / (exp(null) + sum exp(l)): a query may attend to nothing.

    Attributes:
      null: the logit of the further key, whose value is zero.
    """

    null: float = 0.0

    @property
    def null_logit(self):
        return self.null


@dataclasses.dataclass(frozen=True)
class TwoPassSoftmax(Normalizer):
    """Softmax on (mantissa, exponent) pairs: shifts are powers of two, so rescaling is exact."""

    shifted: ClassVar[bool] = True
    counts_keys: ClassVar[bool] = False

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

    counts_keys: ClassVar[bool] = False

    def score(self, logits, level, num_keys):
        return stable_score(logits)


@dataclasses.dataclass(frozen=True)
class Sigmoid(Normalizer):
    """sigmoid(l + bias) without normalisation.

    Attributes:
      bias: None is -log n, n the number of keys that the row may attend to: t + 1 for query t of a
        causal mask. The paper's n is the sequence length; give -log of it for one bias of all rows.
    """

    bias: float | None = None
    normalized: ClassVar[bool] = False

    @property
    def counts_keys(self):
        return self.bias is None

    def score(self, logits, level, num_keys):
        bias = -jnp.log(num_keys) if self.bias is None else self.bias
        return jax.nn.sigmoid(logits + bias)


@dataclasses.dataclass(frozen=True)
class ReluSoftmax(Normalizer):
    """relu(l) / (sum relu(l) + eps).

    Attributes:
      eps: 1e-5 in MPCViT's released code.
    """

    eps: float = 1e-5
    counts_keys: ClassVar[bool] = False

    @property
    def null_logit(self):
        return self.eps

    def score(self, logits, level, num_keys):
        return jax.nn.relu(logits)


@dataclasses.dataclass(frozen=True)
class SquaredRelu(Normalizer):
    """relu(l)^2 / (sum relu(l)^2 + eps)."""

    eps: float = 1e-5
    counts_keys: ClassVar[bool] = False

    @property
    def null_logit(self):
        return math.sqrt(self.eps)

    def score(self, logits, level, num_keys):
        return squared_relu_score(logits)


@dataclasses.dataclass(frozen=True)
class TwoQuad(Normalizer):
    """(l + shift)^2 / (sum (l + shift)^2 + eps): MPCFormer's 2Quad; shift 0 is the square norm.

    Attributes:
      shift: c; logits below -c gain weight as they fall.
      eps: added to the sum.
    """

    shift: float = 5.0
    eps: float = 0.0
    counts_keys: ClassVar[bool] = False

    @property
    def null_logit(self):
        return math.sqrt(self.eps) - self.shift if self.eps else None

    def score(self, logits, level, num_keys):
        return two_quad_score(logits, self.shift)


@dataclasses.dataclass(frozen=True)
class Softplus(Normalizer):
    """softplus(f l) / sum softplus(f l), f = log d log n: length-scaled softplus attention, LSSA.

    n is the number of keys that the row may attend to: t + 1 for query t of a causal mask.

    Attributes:
      dim: d; None is the width of the keys, filled in by the op.
      length_scale: whether f holds log n.
    """

    dim: int | None = None
    length_scale: bool = True

    def for_width(self, key_dim):
        return self if self.dim is not None else dataclasses.replace(self, dim=key_dim)

    def score(self, logits, level, num_keys):
        require(self.dim is not None, f"{self} was not given the width of the keys as dim.")
        return softplus_score(logits, length_factor(self.dim, num_keys, self.length_scale))


@dataclasses.dataclass(frozen=True)
class SoftplusReweighted(Softplus, Reweighted):
    """LSSA, its weights a re-weighted as relu(n a - offset)^power and normalized again: LSSAR.

    A row that sees one key keeps it whole. See `ops.reweight_power` for what is not settled.

    Attributes:
      power: at least 1.
      offset: at least 0; 1 cuts what is below the uniform weight.
    """

    power: float = 3.0
    offset: float = 1.0

    def __post_init__(self):
        check_reweighting(self.power, self.offset)

    def reweight(self, weights, peak, num_keys):
        return reweighting_score(weights, peak, num_keys, self.power, self.offset)


@dataclasses.dataclass(frozen=True)
class Sparsemax(Threshold):
    """relu(l - tau), tau such that the row sums to 1."""

    span: ClassVar[float] = 1.0

    def score(self, logits, level, num_keys):
        return sparsemax_score(logits - level)

    def weights(self, logits):
        return sparsemax(logits)


@dataclasses.dataclass(frozen=True)
class Entmax15(Threshold):
    """relu((l - tau) / 2)^2, tau such that the row sums to 1."""

    span: ClassVar[float] = 2.0

    def score(self, logits, level, num_keys):
        return entmax15_score(logits - level)

    def weights(self, logits):
        return entmax15(logits)


NORMALIZERS: dict[str, Normalizer] = {
    "softmax": Softmax(),
    "softmax_two_pass": TwoPassSoftmax(),
    "softmax_one": SoftmaxOne(),
    "stablemax": Stablemax(),
    "sigmoid": Sigmoid(),
    "relu_softmax": ReluSoftmax(),
    "squared_relu": SquaredRelu(),
    "two_quad": TwoQuad(),
    "square_norm": TwoQuad(shift=0.0, eps=1e-5),
    "softplus": Softplus(),
    "lssar": SoftplusReweighted(),
    "sparsemax": Sparsemax(),
    "entmax15": Entmax15(),
}


def get_normalizer(normalizer: str | Normalizer, key_dim: int | None = None) -> Normalizer:
    """The normalizer of that name, or the one given; for keys of width key_dim where known."""
    if not isinstance(normalizer, Normalizer):
        check_choice("normalizer", normalizer, tuple(NORMALIZERS))
        normalizer = NORMALIZERS[normalizer]
    return normalizer if key_dim is None else normalizer.for_width(key_dim)
