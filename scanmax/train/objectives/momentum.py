"""Momentum teachers: moving averages of what learns, carried in the collection "momentum"."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def begun(params: Any, names: Sequence[str]) -> dict[str, Any]:
    """The averages at the start: copies of the parts of those names.

    Args:
      params: of an objective.
      names: of its parts.
    """
    return jax.tree.map(jnp.copy, {name: params[name] for name in names})


def moved(teacher: dict[str, Any], params: Any, rate: Float[Array, ""]) -> dict[str, Any]:
    """The averages a step towards what learns.

    Args:
      teacher: the averages.
      params: behind the update.
      rate: share that is not kept.
    """
    own = {name: params[name] for name in teacher}
    return jax.tree.map(lambda old, new: (old + rate * (new - old)).astype(old.dtype), teacher, own)


def asked(
    objective: nn.Module,
    name: str,
    module: nn.Module,
    x: Array,
    train: bool,
    mutable: Sequence[str] = (),
) -> tuple[Any, dict[str, Any]]:
    """What an average says, and the collections that are asked for; gradients flow to x alone.

    In training it normalises by its own batch, as what learns does; elsewhere by the running
    averages of what learns.

    Args:
      objective: who carries it.
      name: of the part.
      module: that part, unbound.
      x: what it reads.
      train: whether dropout and batch statistics work as in training.
      mutable: further collections.
    """
    variables = {"params": objective.get_variable("momentum", name)}
    if name in objective.variables.get("batch_stats", {}):
        variables["batch_stats"] = objective.variables["batch_stats"][name]
    variables = jax.lax.stop_gradient(variables)
    if not train:
        return module.apply(variables, x, mutable=list(mutable))
    rngs = {"dropout": objective.make_rng("dropout")} if objective.has_rng("dropout") else {}
    return module.apply(variables, x, train=True, rngs=rngs, mutable=["batch_stats", *mutable])
