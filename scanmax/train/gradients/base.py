"""What a gradient rule is given, and what it gives."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from scanmax.errors import UserError
from scanmax.train.objectives.base import Batch, Objective


@dataclasses.dataclass(frozen=True)
class StepLoss:
    """The loss of one step as a function of the parameters, whole or in accumulated parts.

    Each part's loss is already divided by the weight of the whole batch: losses, metrics and
    gradients of parts add up, whatever the mask.

    Attributes:
      of_part: (params, carried, batch, key) -> (loss, (carried, figures)).
      carried: collections at the start.
      batch: the whole batch.
      key: of this step; a part's is folded from it.
      parts: how many.
    """

    of_part: Callable[..., Any]
    carried: dict[str, Any]
    batch: Batch
    key: Array
    parts: int = 1

    def __call__(self, params: Any, batch: Batch | None = None) -> tuple[Array, Any]:
        """(loss, aux) of the whole batch, or of another in its place; differentiable in both."""
        return self._walk(self.of_part, params, self.batch if batch is None else batch)

    def gradient(self, params: Any, batch: Batch | None = None) -> tuple[tuple[Array, Any], Any]:
        """((loss, aux), gradient in the parameters), one part in memory at a time."""
        differentiated = jax.value_and_grad(self.of_part, has_aux=True)
        return self._walk(differentiated, params, self.batch if batch is None else batch)

    def _walk(self, function, params, batch):
        """The sum of `function` over the parts, with the carried collections passed along."""
        if self.parts == 1:
            return function(params, self.carried, batch, self.key)

        def call(carried, part, key):
            found = function(params, carried, part, key)
            has_gradient = isinstance(found[0], tuple)
            (loss, (carried, figures)), grads = found if has_gradient else (found, None)
            return carried, (loss, figures, grads)

        cut = split_batch(batch, self.parts)
        first = jax.tree.map(lambda rows: rows[0], cut)
        shapes = jax.eval_shape(call, self.carried, first, self.key)[1]

        def body(carry, indexed_part):
            carried, sums = carry
            index, part = indexed_part
            carried, found = call(carried, part, jax.random.fold_in(self.key, index))
            return (carried, jax.tree.map(jnp.add, sums, found)), None

        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        (carried, (loss, figures, grads)), _ = jax.lax.scan(
            body, (self.carried, zeros), (jnp.arange(self.parts), cut)
        )
        value = (loss, (carried, figures))
        return value if grads is None else (value, grads)


@dataclasses.dataclass(frozen=True)
class GradientRule:
    """How a step comes by its gradient. A subclass is one file, and one name of GRADIENTS."""

    def __call__(self, loss: StepLoss, params: Any, key: Array) -> tuple[tuple[Array, Any], Any]:
        """Loss, what the step takes from its pass, and the gradient.

        Args:
          loss: of this step; `loss(params)` is its value, `loss.gradient(params)` its gradient.
          params: where the parameters are.
          key: random numbers of this step, for the rule alone.

        Returns:
          ((loss, aux), gradient): aux is that of the pass whose metrics and statistics count.
        """
        raise NotImplementedError

    def check(self, objective: Objective, params: Any, batch_size: int) -> None:
        """Refuses a run whose gradient it is not.

        Args:
          objective: with its terms.
          params: shapes of all parameters.
          batch_size: of training.

        Raises:
          UserError: a term that learns from what is held out, of which this rule holds nothing.
        """
        for term in objective.terms:
            if term.learns_held_out:
                raise UserError(
                    f"config.objective.terms: {term.name!r} learns from what is held out of each "
                    "batch: set config.optim.gradient='unrolled'"
                )


def split_batch(batch: Batch, parts: int) -> Batch:
    """Cuts [B, ...] into [parts, B / parts, ...] such that every device keeps its rows."""
    return jax.tree.map(
        lambda x: jnp.moveaxis(x.reshape(x.shape[0] // parts, parts, *x.shape[1:]), 1, 0), batch
    )
