"""Statistics of batches, and their running averages."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax import ops


def at_least_float32(dtype: Any) -> Any:
    """float64 for float64, float32 for all else: what statistics and states are kept in."""
    return jnp.float64 if jnp.dtype(dtype) == jnp.float64 else jnp.float32


def averaging(module: Any, *names: str) -> dict[str, Any]:
    """How a module's batch norms keep their averages, and fields of these names besides.

    Returns:
      The fields `norm_momentum` and `frozen_statistics`, for the layers within the module.
    """
    return {name: getattr(module, name) for name in (*names, "norm_momentum", "frozen_statistics")}


def running_statistics(
    module: Any, x: Float[Array, "... C"], train: bool, mean: bool = True
) -> tuple[Float[Array, "C"] | None, Float[Array, "C"]]:
    """Mean and variance of a batch in training, which move the running averages, or these.

    Args:
      module: whose compact method calls; its "batch_stats" keep the averages, its fields momentum,
        frozen_statistics and param_dtype say how.
      x: the batch.
      train: whether it is one to learn from.
      mean: whether its average is kept too.
    """
    shape, dtype = x.shape[-1:], at_least_float32(module.param_dtype)
    starts = {"mean": jnp.zeros, "variance": jnp.ones} if mean else {"variance": jnp.ones}
    running = {
        name: module.variable("batch_stats", name, start, shape, dtype)
        for name, start in starts.items()
    }
    found = {name: variable.value for name, variable in running.items()}
    if train and not module.frozen_statistics:
        found = dict(zip(("mean", "variance"), ops.batch_statistics(x)))
        if not module.is_initializing():
            keep, count = module.momentum, x.size // shape[0]
            moved = {**found, "variance": found["variance"] * (count / max(count - 1, 1))}
            for name, variable in running.items():
                variable.value = keep * variable.value + (1 - keep) * moved[name]
    return found.get("mean"), found["variance"]
