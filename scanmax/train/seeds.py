"""Several seeds of one config in one compiled step: the training step, mapped over seeds.

For models so small that a step alone does not fill the machine. Every seed has its own parameters,
data order and workdir, and ends where a run of its own would.
"""

import contextlib
import copy
import dataclasses
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from scanmax.errors import UserError
from scanmax.train import sharding
from scanmax.train.build import build
from scanmax.train.checkpoint import Checkpointer
from scanmax.train.config import Config
from scanmax.train.evaluation import evaluate, save_outcome, teacher_report
from scanmax.train.feed import Feed
from scanmax.train.log import Log, open_log
from scanmax.train.loggers.outcome import tell_outcome
from scanmax.train.loop import Skips, Window, checkpoint_meta, is_due, load_teachers
from scanmax.train.pipelines import Pipeline, sent_batches
from scanmax.train.record import write_record
from scanmax.train.remote import mirrored
from scanmax.train.report import write_report
from scanmax.train.starting import start_state
from scanmax.train.workdir import open_workdir


def train_seeds(
    config: Config,
    workdirs: Mapping[int, str | pathlib.Path],
    *,
    pipelines: Mapping[int, Pipeline] | None = None,
    model: nn.Module | None = None,
) -> dict[int, dict[str, float]]:
    """Trains the config once per seed, all of them together.

    Checkpoints are written at the end only: a call that is interrupted starts over. Where all
    workdirs hold the final checkpoint already, it is read and evaluated.

    Args:
      config: the config; its own seed does not count.
      workdirs: seed -> folder of that seed's run, as `train` would leave it, here or remote.
      pipelines: seed -> data of one's own; None loads config.data.
      model: a module of one's own; None makes config.model.

    Returns:
      seed -> held-out metrics at the end.

    Raises:
      UserError: as `train` does; a loss that is not finite names its seed.
    """
    configs = {seed: copy.deepcopy(config) for seed in workdirs}
    for seed, own in configs.items():
        own.seed = seed
    with contextlib.ExitStack() as stack:
        here = {seed: stack.enter_context(mirrored(workdirs[seed])) for seed in configs}
        held = [stack.enter_context(open_workdir(here[seed], configs[seed])) for seed in configs]
        folders = [workdir.path for workdir in held]
        runs = [
            build(own, pipeline=None if pipelines is None else pipelines[seed], model=model)
            for seed, own in configs.items()
        ]
        # All evaluate and predict by the first one's compiled steps.
        compiled = {
            name: getattr(runs[0], name) for name in ("eval_step", "predict_step", "features_step")
        }
        runs = [dataclasses.replace(run, **compiled) for run in runs]
        first, total = runs[0], runs[0].durations.total
        multiply_adds = first.multiply_adds()
        checkpointers = [
            stack.enter_context(
                Checkpointer(folder / "checkpoints", config.checkpoint, first.durations.keep_every)
            )
            for folder in folders
        ]
        if all(found.steps()[-1:] == [total] for found in checkpointers):
            states = [
                found.restore(run.shapes, run.shardings)[0]
                for found, run in zip(checkpointers, runs)
            ]
            return {
                seed: evaluate(run, s, is_last=True) for seed, run, s in zip(configs, runs, states)
            }
        if any(found.steps() for found in checkpointers):
            raise UserError(
                f"{folders[0].parent} holds checkpoints of runs that have not ended; seeds that "
                "train together start together: take another --workdir, or train them one by one"
            )
        logs = [
            stack.enter_context(closing(open_log(f, c, 0, total)))
            for f, c in zip(folders, configs.values())
        ]
        # Only one of them shows its progress.
        for log in logs[1:]:
            log.be_quiet()
        logs[0].say(f"{len(runs)} seeds in one step: {', '.join(map(str, configs))}")
        rows = sharding.batch_sharding(first.mesh)
        # Before the mesh is in use: a teacher's module is made on one device.
        teachers = load_teachers(first)
        begun = [start_state(run) for run in runs]
        for line in begun[0][1]:
            logs[0].say(line)
        feed = Feed(stacked_batches(runs), stacked(rows), config.prefetch)
        stack.callback(feed.close)
        stack.enter_context(sharding.use_mesh(first.mesh, config.sharding))
        for line in teacher_report(first, teachers):
            logs[0].say(line)
        step_all = jax.jit(jax.vmap(first.train_step, in_axes=(0, 0, None)), donate_argnums=0)
        state = jax.tree.map(
            lambda *leaves: jnp.stack(leaves),
            *(state for state, _ in begun),
        )
        del begun
        all_skips = {run.config.seed: _skips(run, log) for run, log in zip(runs, logs)}
        windows = [
            Window(config.batch_size, run.pipeline.num_train, {}, skips)
            for run, skips in zip(runs, all_skips.values())
        ]
        held_out: list[dict[str, float]] = [{} for _ in runs]
        for step in range(1, total + 1):
            state, metrics = step_all(state, next(feed), teachers)
            metrics = jax.device_get(metrics)
            if step == 1:
                for workdir, run in zip(held, runs):
                    workdir.record()
                    write_record(workdir.path, run, 0, multiply_adds)
            is_last = step == total
            for index, window in enumerate(windows):
                window.add(step, {name: values[index] for name, values in metrics.items()})
            logs[0].progress(step)
            if step % first.durations.log == 0 or is_last:
                for seed, window, log in zip(configs, windows, logs):
                    log.write(step, "train", _named(seed, window.summary, feed.waited))
            if is_due(step, first.durations.eval, is_last):
                for index, log in enumerate(logs):
                    own = part(state, index, first.shardings)
                    held_out[index] = evaluate(runs[index], own, is_last=is_last)
                    log.write(step, "eval", held_out[index])
                for window in windows:
                    window.restart_clock()
        for seed, skips in all_skips.items():
            if skips.in_a_row:
                raise UserError(
                    f"seed {seed}: the last {skips.in_a_row} steps were skipped: nothing is saved"
                )
        for index, (run, folder) in enumerate(zip(runs, folders)):
            own = part(state, index, run.shardings)
            best = held_out[index].get(config.checkpoint.metric, math.nan)
            meta = checkpoint_meta(run, total, best if math.isfinite(best) else None)
            checkpointers[index].save(own, meta, held_out[index])
            tell_outcome(logs[index], total, save_outcome(run, own, folder))
            if config.log.report and jax.process_index() == 0:
                write_report(folder)
        for checkpointer in checkpointers:
            checkpointer.wait()
        return dict(zip(configs, held_out))


def stacked_batches(runs: Sequence[Any]) -> Any:
    """Batches of all seeds with a leading axis of seeds."""
    for batches in zip(*(sent_batches(run.pipeline, 0) for run in runs)):
        for run, batch in zip(runs, batches):
            run.check(batch)
        yield {name: np.stack([batch[name] for batch in batches]) for name in batches[0]}


def stacked(rows: jax.sharding.NamedSharding) -> jax.sharding.NamedSharding:
    """The sharding of rows with a leading axis of seeds, which is whole everywhere."""
    return jax.sharding.NamedSharding(rows.mesh, jax.sharding.PartitionSpec(None, *rows.spec))


def part(state: Any, index: int, shardings: Any) -> Any:
    """One seed's state, lying as a run of its own would have it."""
    return jax.device_put(jax.tree.map(lambda leaf: leaf[index], state), shardings)


@contextlib.contextmanager
def closing(log: Log) -> Any:
    """Closes a log at the end."""
    try:
        yield log
    finally:
        log.close()


def _skips(run: Any, log: Log) -> Skips:
    return Skips(
        run.config.optim.max_skips, lambda line: log.say(f"seed {run.config.seed}: {line}")
    )


def _named(seed: int, function: Any, *args: Any) -> Any:
    try:
        return function(*args)
    except UserError as error:
        raise UserError(f"seed {seed}: {error}") from error
