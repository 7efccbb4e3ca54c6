"""The plain gradient."""

import dataclasses
from typing import Any

from jaxtyping import Array

from scanmax.train.gradients.base import GradientRule, StepLoss


@dataclasses.dataclass(frozen=True)
class Plain(GradientRule):
    """The gradient of the loss where the parameters are."""

    def __call__(self, loss: StepLoss, params: Any, key: Array) -> tuple[tuple[Array, Any], Any]:
        """((loss, aux), gradient)"""
        del key
        return loss.gradient(params)
