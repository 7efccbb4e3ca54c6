"""What a new run starts from: fresh parameters, or the weights that its config names."""

import pathlib
from typing import Any

import flax.linen as nn
import jax

from scanmax.errors import UserError
from scanmax.models.weights import Fit, fit_weights
from scanmax.train import sharding
from scanmax.train.build import Run
from scanmax.train.inference import read_run

# Paths that a line names of those that started afresh.
NAMED = 4


def starting_weights(run: Run) -> tuple[dict[str, Any] | None, list[str]]:
    """The model's variables of `config.model.weights`, on the mesh, and lines that say from what.

    Args:
      run: the run; its model is what they are fitted to, by `config.model.adapt`.

    Returns:
      (variables, lines) for `run.init`; (None, []) where the config names no weights.

    Raises:
      UserError: they cannot be read, or do not fit.
    """
    own = run.config.model
    if not own.weights:
        return None, []
    try:
        source, told = read_source(own.weights, own.weights_from)
        variables, fit = fit_weights(
            run.model,
            source,
            run.example.shape[1:],
            adapt=own.adapt,
            key=jax.random.key(run.config.seed),
        )
    except UserError as error:
        raise UserError(f"config.model.weights: {error}") from error
    variables = nn.meta.unbox(variables)
    whole = sharding.replicated(run.mesh)
    lying = dict.fromkeys(variables, whole) | {"params": run.shardings.params["model"]}
    placed = {name: jax.device_put(tree, lying[name]) for name, tree in variables.items()}
    return placed, describe(told, fit)


def read_source(weights: str, weights_from: str) -> tuple[Any, str]:
    """What `fit_weights` takes for a name, and how a line names it."""
    path = pathlib.Path(weights).expanduser()
    workdir, step = path, "last"
    if path.parent.name == "checkpoints" and path.name.isdigit():
        workdir, step = path.parent.parent, path.name
    if (workdir / "checkpoints").is_dir():
        found = read_run(workdir, step, weights_from)
        kept = {"ema": "the moving average", "params": "the parameters"}[found.kept]
        return found.variables, f"{workdir}, step {found.step} ({kept})"
    if weights_from != "auto":
        raise UserError(
            f"weights_from={weights_from!r} is of runs, and {weights!r} is none: it has no "
            "checkpoints/"
        )
    return weights, weights


def describe(told: str, fit: Fit) -> list[str]:
    """Lines that say from what a run starts, and what of it starts afresh."""
    fresh, parts = fit.fresh, [f"{len(fit.taken)} arrays"]
    if fit.adapted:
        parts.append(f"adapted {', '.join(fit.adapted)}")
    if fresh:
        more = f" and {len(fresh) - NAMED} more" if len(fresh) > NAMED else ""
        parts.append(f"afresh {', '.join(fresh[:NAMED])}{more}")
    if fit.dropped:
        parts.append(f"left out {', '.join(fit.dropped)}")
    return [f"weights      {told}: {'; '.join(parts)}"]
