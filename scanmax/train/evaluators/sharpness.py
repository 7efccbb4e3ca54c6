"""Sharpness: how much the loss grows at a step uphill."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from scanmax.errors import UserError
from scanmax.train import sharding
from scanmax.train.evaluators.base import Evaluator
from scanmax.train.feed import to_device
from scanmax.train.step import eval_step


@dataclasses.dataclass(frozen=True)
class Sharpness(Evaluator):
    """L(w + rho g / |g|) - L(w) over the training part as it is evaluated, g the gradient of L.

    The first-order guess at the largest loss within rho, which is what `optim.gradient="sam"`
    lowers; of objectives whose evaluation has a loss of single examples.

    Attributes:
      rho: length of the step.
    """

    rho: float = 0.05

    metric_names: ClassVar[tuple[str, ...]] = ("sharpness",)

    def check(self, run: Any, field: str) -> None:
        if "loss" not in run.objective.metric_names:
            raise UserError(
                f"{field} asks for the loss of single examples; "
                f"{run.config.objective.name!r} has none"
            )

    def __call__(self, run: Any, state: Any) -> dict[str, float]:
        """{"sharpness": ...}"""
        params = run.eval_params(state)
        rows = sharding.batch_sharding(run.mesh)

        def sum_of(params, carried, batch):
            sums = eval_step(params, carried, batch, recipe=run.recipe)
            return sums["loss" if "loss" in sums else "token_loss"]

        def mean_of(function, params):
            total = None
            for batch in run.pipeline.train_eval_batches():
                found = function(params, state.carried, to_device(batch, rows))
                total = found if total is None else jax.tree.map(jnp.add, total, found)
            return total

        slope = jax.jit(jax.value_and_grad(sum_of, has_aux=True))
        (loss, weight), gradient = mean_of(slope, params)
        norm = jnp.sqrt(sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(gradient)))
        length = self.rho / jnp.where(norm > 0, norm, 1)
        uphill = jax.tree.map(lambda w, g: w + length * g, params, gradient)
        higher, _ = mean_of(jax.jit(sum_of), uphill)
        return {"sharpness": float((higher - loss) / weight)}
