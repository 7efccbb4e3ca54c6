"""Two levels: some parameters learn from what a step of the others does to examples held out."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from scanmax.errors import UserError
from scanmax.train.gradients.base import GradientRule, StepLoss
from scanmax.train.optim import check_pattern, matches, param_path


@dataclasses.dataclass(frozen=True)
class Unrolled(GradientRule):
    """The gradient; of parameters w that `match` names, that of a held-out loss behind one step.

        inner:   p'(w) = p - rate d/dp loss(p, w; train)
        outer:   d/dw loss(p'(w), w; held out)

    Every `parts`-th example of the batch is held out, the others are the step's; all other
    parameters p take the plain gradient of the whole batch. A batch that is held out is marked by
    "held_out", where terms that learn this way say what is asked of them, and other terms say
    nothing. Loss, metrics and statistics are those of the plain pass; norms over the batch see all
    of it in each. A step costs about five gradients.

    Attributes:
      match: patterns of the parameters of the outer level.
      rate: of the inner step, plain descent whatever the optimizer is.
      parts: one in so many examples is held out.

    Reference: tgeo-kd
    """

    match: tuple[str, ...] = ("^tgeo_kd/",)
    rate: float = 0.1
    parts: int = 2

    def __post_init__(self) -> None:
        if not self.rate > 0:
            raise ValueError(f"rate={self.rate} must be above 0")
        if self.parts < 2:
            raise ValueError(f"parts={self.parts} must be at least 2: one is held out")

    def check(self, objective: Any, params: Any, batch_size: int) -> None:
        """Refuses patterns that name none or not all of what learns so, and uneven batches."""
        paths = [param_path(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
        for pattern in self.match:
            check_pattern("config.optim.gradient_kwargs: match", pattern, paths)
        outer = [path for path in paths if matches(self.match, path)]
        if len(outer) == len(paths) or any(path.startswith("model/") for path in outer):
            raise UserError(
                f"config.optim.gradient_kwargs: match={self.match} names parameters of the model, "
                "whose step is the inner one"
            )
        for term in objective.terms:
            own = [path for path in paths if path.startswith(f"{term.name}/")]
            if term.learns_held_out and not set(own) <= set(outer):
                raise UserError(
                    f"config.optim.gradient_kwargs: match={self.match} must name "
                    f"'^{term.name}/', which learns from what is held out"
                )
        if batch_size % self.parts:
            raise UserError(
                f"config.optim.gradient_kwargs: parts={self.parts} must divide "
                f"config.batch_size={batch_size}"
            )

    def __call__(self, loss: StepLoss, params: Any, key: Array) -> tuple[tuple[Array, Any], Any]:
        """((loss, aux), gradients of both levels)"""
        del key
        found, gradient = loss.gradient(params)
        slope = jax.grad(self.held_out_loss)(params, params, loss)
        chosen = jax.tree_util.tree_map_with_path(
            lambda path, plain, outer: outer if self.is_outer(path) else plain, gradient, slope
        )
        return found, chosen

    def is_outer(self, path: Any) -> bool:
        """Whether a parameter is of the outer level."""
        return matches(self.match, param_path(path))

    def held_out_loss(self, outer: Any, params: Any, loss: StepLoss) -> Array:
        """The mean held-out loss behind a step, as a function of the outer parameters.

        Args:
          outer: parameters, of which those of the outer level are read.
          params: parameters, of which all others are read.
          loss: of the step.
        """
        rows = len(jax.tree.leaves(loss.batch)[0])
        mask = loss.batch.get("mask", jnp.ones(rows, bool))
        is_held = jnp.arange(rows) % self.parts == 0
        whole = jnp.maximum(mask.sum(), 1)

        def of(params, which, **marks):
            # Rows of the other part count no more than padding.
            part = {**loss.batch, **marks, "mask": mask & which}
            return loss(params, part)[0] * whole / jnp.maximum((mask & which).sum(), 1)

        def merge(inner):
            return jax.tree_util.tree_map_with_path(
                lambda path, own, other: other if self.is_outer(path) else own, inner, outer
            )

        slope = jax.grad(lambda inner: of(merge(inner), ~is_held))(params)
        stepped = jax.tree.map(lambda p, g: p - self.rate * g, params, slope)
        return of(merge(stepped), is_held, held_out=is_held)
