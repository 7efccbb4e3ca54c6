"""What a new run starts from: fresh parameters, or the weights that its config names."""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from scanmax.checksum import name_of
from scanmax.errors import UserError
from scanmax.models.weights import Fit, fit_weights
from scanmax.train import sharding
from scanmax.train.build import Run
from scanmax.train.config import Config, resolve_durations
from scanmax.train.inference import from_dict, read_optimizer, read_run
from scanmax.train.remote import fetched, is_remote
from scanmax.train.schedules import make_schedule
from scanmax.train.state import TrainState

# Paths that a line names of those that started afresh.
NAMED = 4


def start_state(run: Run) -> tuple[TrainState, list[str]]:
    """The state before the first step, and lines that say from what it starts.

    Raises:
      UserError: what its config names cannot be read, or does not fit.
    """
    if not run.config.model.weights:
        return run.init(None), []
    variables, lines, fit = _fitted(run)
    state = run.init(variables)
    if not run.config.optim.carry:
        return state, lines
    workdir, step = run_of(run.config.model.weights)
    if workdir is None:
        raise UserError(
            f"config.optim.carry is of runs, and {run.config.model.weights!r} is none: a file of "
            "weights holds no optimizer"
        )
    changed = [*fit.adapted, *fit.fresh]
    if changed:
        carried, why = None, f"{changed[0]} is not as it was there"
    else:
        carried, why = fitting_optimizer(run, state.opt_state, read_optimizer(workdir, step))
    if carried is None:
        return state, [*lines, f"optimizer    afresh: {why}"]
    told = f"optimizer    {workdir}: its moments; the schedule begins anew"
    return dataclasses.replace(state, opt_state=carried), [*lines, told]


def continuation(
    run: Run, before: Mapping[str, Any], changed: Sequence[str], start: int
) -> list[str]:
    """Lines of a run that goes on: what is another setting now, and what that does to the rate.

    Args:
      run: as it is now.
      before: the config of its workdir, as nested dicts.
      changed: "path: old -> new" of the fields that differ.
      start: its step.
    """
    if not start or not changed:
        return []
    lines = [f"from here on {', '.join(changed)}"]
    config, total = run.config, run.durations.total
    old = from_dict(Config, before)
    durations = resolve_durations(old, run.pipeline.num_train)
    if start > total:
        told = f"the run has taken {start} steps, and {config.duration!r} are {total}"
        return [*lines, f"{told}: nothing is trained, and its config stays"]
    if start == total or (durations, old.optim.lr) == (run.durations, config.optim.lr):
        return lines
    rate = make_schedule(config.schedule, config.optim.lr, run.durations)(start)
    last = make_schedule(old.schedule, old.optim.lr, durations)(start - 1)
    over = f"{config.schedule.name} over {total} steps"
    if durations.total != total:
        over += f", not {durations.total}"
    told = f"step {start + 1} is at {float(rate):.3g}, step {start} was at {float(last):.3g}"
    return [*lines, f"schedule     {over}: {told}"]


def fitting_optimizer(run: Run, own: Any, found: dict[str, Any]) -> tuple[Any, str]:
    """The optimizer's state of another run in the place of one's own.

    Moments and their counts are taken all or none: those of half a network would be corrected by
    a count that is not theirs. The schedule's own count is not taken: it begins anew.

    Args:
      run: the run.
      own: its fresh optimizer's state.
      found: the other's arrays by their paths.

    Returns:
      (state, ""), or (None, why it does not fit).
    """
    is_schedule = lambda node: isinstance(node, optax.ScaleByScheduleState)  # noqa: E731
    entries = jax.tree_util.tree_leaves_with_path(own, is_leaf=is_schedule)
    begins = tuple(f"{name_of(path)}/" for path, node in entries if is_schedule(node))
    known = {name_of(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(own)}
    kept = {name for name in known if not name.startswith(begins)}
    odd = sorted(kept ^ {name for name in found if not name.startswith(begins)})
    if odd:
        return None, f"the optimizer there is another one ({odd[0]})"
    for name in sorted(kept):
        if found[name].shape != known[name].shape or found[name].dtype != known[name].dtype:
            return None, f"{name} is of another shape or type there"

    def place(path, leaf, lying):
        name = name_of(path)
        # A copy: what the step is given to reuse must not lie in the host's memory.
        return jnp.copy(jax.device_put(found[name], lying)) if name in kept else leaf

    lying = run.shardings.opt_state
    return jax.tree_util.tree_map_with_path(place, own, lying), ""


def starting_weights(run: Run) -> tuple[dict[str, Any] | None, list[str]]:
    """The model's variables of `config.model.weights`, on the mesh, and lines that say from what.

    Args:
      run: the run; its model is what they are fitted to, by `config.model.adapt`.

    Returns:
      (variables, lines) for `run.init`; (None, []) where the config names no weights.

    Raises:
      UserError: they cannot be read, or do not fit.
    """
    if not run.config.model.weights:
        return None, []
    return _fitted(run)[:2]


def _fitted(run: Run) -> tuple[dict[str, Any], list[str], Fit]:
    own = run.config.model
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
    return placed, describe(told, fit), fit


def read_source(weights: str, weights_from: str) -> tuple[Any, str]:
    """What `fit_weights` takes for a name, and how a line names it."""
    workdir, step = run_of(weights)
    if workdir is not None:
        found = read_run(workdir, step, weights_from)
        kept = {"ema": "the moving average", "params": "the parameters"}[found.kept]
        return found.variables, f"{workdir}, step {found.step} ({kept})"
    if weights_from != "auto":
        raise UserError(
            f"weights_from={weights_from!r} is of runs, and {weights!r} is none: it has no "
            "checkpoints/"
        )
    return weights, weights


def run_of(weights: str) -> tuple[pathlib.Path | None, str]:
    """The workdir and the step that a name means; None where it is no run."""
    if is_remote(weights):
        run, slash, number = weights.partition("/checkpoints/")
        weights = f"{_fetched_once(run)}{slash}{number}"
    path = pathlib.Path(weights).expanduser()
    workdir, step = path, "last"
    if path.parent.name == "checkpoints" and path.name.isdigit():
        workdir, step = path.parent.parent, path.name
    return (workdir, step) if (workdir / "checkpoints").is_dir() else (None, step)


@functools.cache
def _fetched_once(url: str) -> pathlib.Path:
    return fetched(url)


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
