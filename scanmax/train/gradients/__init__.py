"""How a step comes by its gradient, one file each; `config.optim.gradient` names one of GRADIENTS.

A rule is a frozen dataclass, its fields the options, called with
`(loss, params, key) -> ((value, aux), grads)`: `loss` is the `StepLoss` of this step, `aux` what
the step needs of the pass that counts, handed on from `loss`.
"""

from scanmax.public import shown
from scanmax.train.gradients.base import GradientRule, StepLoss
from scanmax.train.gradients.plain import Plain
from scanmax.train.gradients.sam import Sam
from scanmax.train.gradients.unrolled import Unrolled

GRADIENTS: dict[str, type[GradientRule]] = {"plain": Plain, "sam": Sam, "unrolled": Unrolled}

__all__ = shown(globals())


def __dir__() -> list[str]:
    return __all__
