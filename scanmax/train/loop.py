"""The training loop: restore, next batch, step, log, evaluate, save; one readable function."""

import contextlib
import dataclasses
import math
import pathlib
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax

from scanmax.cli import to_dict
from scanmax.errors import UserError
from scanmax.train import sharding
from scanmax.train.build import Run, build, reseeded
from scanmax.train.checkpoint import Checkpointer
from scanmax.train.config import CheckpointConfig, Config, best_mode
from scanmax.train.evaluation import evaluate, save_outcome, teacher_report
from scanmax.train.feed import Feed, Stopped, giving_up
from scanmax.train.log import Log, NoLog, open_log
from scanmax.train.loggers.outcome import tell_outcome
from scanmax.train.pipelines import Pipeline, sent_batches
from scanmax.train.processes import agree, is_preempted, telling_others
from scanmax.train.record import prepared, write_record
from scanmax.train.remote import mirrored
from scanmax.train.report import write_report
from scanmax.train.starting import continuation, start_state
from scanmax.train.stored import teacher_variables
from scanmax.train.throughput import (
    HostClock,
    Profile,
    peak_flops,
    peak_memory,
    step_flops,
    step_memory,
)
from scanmax.train.workdir import open_workdir

# What may be done about numbers that are not finite, and where.
REMEDY = (
    "continue in this --workdir with a lower config.optim.lr or config.optim.nonfinite=skip, or "
    "take another --workdir with config.optim.clip_norm"
)


@telling_others()
def train(
    config: Config,
    workdir: str | pathlib.Path,
    *,
    data: Any = None,
    pipeline: Pipeline | None = None,
    model: nn.Module | None = None,
    profile: tuple[int, int] | None = None,
    like: Run | None = None,
) -> dict[str, float]:
    """Trains to the end, or to a SIGTERM; run again, it continues where the workdir stands.

    Args:
      config: the config.
      workdir: where checkpoints, metrics and `report.html` go; a folder, or a place that fsspec
        writes to, such as "gs://bucket/run".
      data: images and labels of one's own, (images, labels) or arrays by the names that
        docs/own_data.md lists; None loads config.data.
      pipeline: batches of one's own.
      model: a module of one's own; None makes config.model.
      profile: first and last step of a trace, written to workdir/profile.
      like: a run that `build` made of the same config, whatever its seed: nothing that it has
        compiled is compiled again. Without data, pipeline and model of one's own.

    Returns:
      The last held-out metrics; {} when a signal ended the run early.

    Raises:
      UserError: a mistake in the config, a loss that is not finite, a disk that is full.
    """
    if data is not None:
        if pipeline is not None:
            raise UserError("train() takes data= or pipeline=, not both")
        own = dataclasses.replace(config.data, name="arrays", data_dir="")
        config = dataclasses.replace(config, data=own)
    agree(config, workdir)
    with (
        stop_signal() as stop,
        mirrored(workdir) as folder,
        open_workdir(folder, config) as held,
    ):
        workdir = held.path
        if like is None:
            run = build(config, data=data, pipeline=pipeline, model=model)
        else:
            run = reseeded(like, config.seed)
        durations, mesh = run.durations, run.mesh
        folder = workdir / "checkpoints"
        with (
            Checkpointer(folder, config.checkpoint, durations.keep_every) as checkpointer,
            contextlib.ExitStack() as stack,
        ):
            restored = checkpointer.restore(run.shapes, run.shardings)
            if restored:
                (state, meta), told = restored, []
            else:
                (state, told), meta = start_state(run), checkpoint_meta(run, 0)
            del restored
            start, best = meta["step"], best_so_far(meta, config.checkpoint)
            teachers = load_teachers(run)
            multiply_adds = run.multiply_adds()
            flops = step_flops(run, multiply_adds)
            peak = peak_flops(mesh.devices.ravel().tolist())
            is_first = jax.process_index() == 0
            log: Log | NoLog = NoLog()
            if is_first:
                log = open_log(workdir, config, start, durations.total)
            stack.callback(log.close)
            log.say(sharding.describe(run.shapes.params, run.shardings.params, mesh))
            for note in getattr(run.pipeline, "notes", ()):
                log.say(f"data         {note}")
            for line in told:
                log.say(line)
            log.say(f"{'resuming at step' if start else 'starting at step'} {start}")
            for line in continuation(run, held.before, held.changed, start):
                log.say(line)
            rows = sharding.batch_sharding(mesh)
            feed = Feed(sent_batches(run.pipeline, start), rows, config.prefetch, run.check)
            stack.callback(feed.close)
            stack.enter_context(giving_up(stop.gives_up))
            stack.enter_context(sharding.use_mesh(mesh, config.sharding))
            if not start:
                for line in teacher_report(run, teachers):
                    log.say(line)

            skips = Skips(config.optim.max_skips, log.say)
            window = Window(
                config.batch_size,
                run.pipeline.num_train,
                meta["window"],
                skips,
                flops=flops,
                peak=peak,
            )
            trace = Profile(workdir / "profile", *(profile or (0, 0)))
            stack.callback(trace.close)
            held_out: dict[str, float] = {}
            owes_save = False
            # Before this process clears up, which may wait for the others.
            stack.enter_context(telling_others())

            def leave(step: int) -> dict[str, float]:
                checkpointer.wait()
                log.say(f"stopped by a signal at step {step}; the same command continues")
                return {}

            stop.is_running = True
            for step in range(start + 1, durations.total + 1):
                try:
                    batch = next(feed)
                except Stopped:
                    # Data hang: what the steps before have made is kept.
                    window.check()
                    if step - 1 > start and not skips.in_a_row:
                        checkpointer.save(state, checkpoint_meta(run, step - 1, best, window.sums))
                    return leave(step - 1)
                trace.before(step)
                with window.clock.computing():
                    state, metrics = run.train_step(state, batch, teachers)
                feed.computing = metrics
                window.add(step, metrics)
                if step == start + 1:
                    held.record()
                    window.memory = step_memory(run.train_step, state, batch, teachers)
                    write_record(workdir, run, start, multiply_adds)
                if trace.after(step, metrics):
                    log.say(f"profile      {workdir / 'profile'}")
                    window.restart_clock()
                log.progress(step)
                is_last = step == durations.total
                stopping = stop.wanted(step) and not is_last

                if step % durations.log == 0 or is_last:
                    figures = window.summary(feed.waited)
                    log.write(step, "train", {**figures, "compiles": compiles(run)})
                evaluates = is_due(step, durations.eval, is_last) and not stopping
                saves = is_due(step, durations.checkpoint, is_last) or stopping or owes_save
                if evaluates or saves:
                    # Nothing is saved that a loss before it has spoilt.
                    window.check()
                if evaluates:
                    try:
                        held_out = evaluate(run, state, is_last=is_last)
                    except Stopped:
                        evaluates, saves, stopping = False, True, True
                if evaluates:
                    log.write(step, "eval", held_out)
                    if is_better(held_out, best, config.checkpoint) and not skips.in_a_row:
                        best = held_out[config.checkpoint.metric]
                        saves = saves or config.checkpoint.keep_best > 0
                # A state that only gives skipped steps may be why: one after a good step is saved.
                owes_save = saves and skips.in_a_row > 0
                if saves and not owes_save:
                    meta = checkpoint_meta(run, step, best, window.sums)
                    checkpointer.save(state, meta, held_out if evaluates else None)
                if evaluates or saves:
                    window.restart_clock()
                if owes_save and (stopping or is_last):
                    unsaved = f"step {step} is not saved: the last {skips.in_a_row} were skipped"
                    loss = held_out.get("loss", 0.0) if evaluates else 0.0
                    if is_last and not math.isfinite(loss):
                        raise UserError(f"{unsaved}, and the held-out loss is not finite; {REMEDY}")
                    log.say(f"warning: {unsaved}")
                if stopping:
                    return leave(step)

            end = max(start, durations.total)
            if start == durations.total:
                held.record()
            checkpointer.wait()
            try:
                if not held_out:
                    held_out = evaluate(run, state, is_last=True)
                tell_outcome(log, end, save_outcome(run, state, workdir))
            except Stopped:
                return leave(end)
            if is_first and config.log.report:
                write_report(workdir)
        return held_out
    # stop_signal has ended it.
    return {}


def compiles(run: Run) -> int:
    """How often the training step has been compiled: once, unless shapes change under way."""
    return run.train_step._cache_size()


def is_due(step: int, every: int, is_last: bool) -> bool:
    """Whether something that happens every so many steps, and at the end, happens now."""
    return is_last or (every > 0 and step % every == 0)


def is_better(held_out: dict[str, float], best: float | None, config: CheckpointConfig) -> bool:
    """Whether the metric that "best" means has improved; one not finite or named "" never has."""
    if not config.metric:
        return False
    value = held_out[config.metric]
    if best is None or not math.isfinite(value):
        return math.isfinite(value)
    return value > best if best_mode(config) == "max" else value < best


def best_so_far(meta: Mapping[str, Any], config: CheckpointConfig) -> float | None:
    """The best metric before a checkpoint; None where another metric was the measure then."""
    before = meta["config"]["checkpoint"]
    if not config.metric:
        return None
    is_same = before["metric"] == config.metric and before["mode"] in ("", best_mode(config))
    return meta["best"] if is_same else None


def checkpoint_meta(
    run: Run,
    step: int,
    best: float | None = None,
    window: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """What a checkpoint holds beside its arrays. Data are a pure function of (seed, step)."""
    config, example = run.config, run.example
    return {
        "step": step,
        "best": best,
        "window": dict(window or {}),
        "data": {
            "seed": config.seed,
            "next_step": step,
            "examples": step * config.batch_size,
            "kind": run.pipeline.kind,
            "input": {"shape": list(example.shape[1:]), "dtype": example.dtype.name},
            "num_classes": run.pipeline.num_classes,
            "vocab_size": getattr(run.pipeline, "vocab_size", 0),
            "text_length": getattr(run.pipeline, "text_length", 0),
            **prepared(run.pipeline),
        },
        "config": to_dict(config),
    }


def load_teachers(run: Run) -> tuple[Any, ...]:
    """The variables of each teacher, or what it has answered, on the mesh."""
    whole = sharding.replicated(run.mesh)
    found = (teacher_variables(run, teacher) for teacher in run.objective.teachers)
    return tuple(jax.device_put(variables, whole) for variables in found)


class Skips:
    """Counts the updates that were skipped because loss, gradient or what they gave was not finite.

    Attributes:
      in_a_row: how many the last steps skipped; nothing is saved while there are some.
    """

    def __init__(self, allowed: int, say: Callable[[str], None]):
        self.in_a_row = 0
        self._allowed, self._say = allowed, say

    def add(self, step: int, what: str) -> None:
        """Counts one, and says it.

        Raises:
          UserError: one more in a row than allowed.
        """
        self.in_a_row += 1
        if self.in_a_row > self._allowed:
            raise UserError(
                f"{what} at step {step}, as in the {self._allowed} steps before, "
                f"config.optim.max_skips: the run stops, its checkpoints are from before; {REMEDY}"
            )
        self._say(
            f"warning: {what} at step {step}: update skipped "
            f"({self.in_a_row} in a row, {self._allowed} may be)"
        )


class Window:
    """Means since the last log, fetched late, so that the devices never wait for the host.

    Attributes:
      sums: sum of each metric over the steps since the last log; checkpoints carry it, so that a
        resumed run writes the rows of an undisturbed one.
      clock: the loop's own work.
      memory: GiB that each device holds at the peak of a step.
    """

    def __init__(
        self,
        batch_size: int,
        num_train: int,
        sums: dict[str, float],
        skips: Skips,
        *,
        flops: float = 0.0,
        peak: float | None = None,
    ):
        self.sums, self._skips, self.clock = dict(sums), skips, HostClock()
        self._flops, self._peak = flops, peak
        self._batch_size, self._num_train = batch_size, num_train
        self.memory = 0.0
        self._pending: list[tuple[int, Any]] = []
        self._last_step, self._lr = 0, 0.0
        self._steps, self._waited, self._since = 0, 0.0, None

    def add(self, step: int, metrics: Any) -> None:
        """Takes the metrics of a step as device arrays."""
        self._pending.append((step, metrics))
        self._last_step = step
        if self._since is None:
            # The first step compiles; throughput starts after it.
            jax.block_until_ready(metrics)
            self.restart_clock()
        else:
            self._steps += 1

    def check(self) -> None:
        """Fetches what is pending.

        Raises:
          UserError: a loss, gradient or state is not finite, or too many in a row; names the
            step.
        """
        fetched = jax.device_get([metrics for _, metrics in self._pending])
        for (step, _), metrics in zip(self._pending, fetched):
            self._lr = float(metrics["lr"])
            bad = [
                f"{name} is {metrics[name]}"
                for name in ("loss", "grad_norm")
                if not math.isfinite(metrics[name])
            ]
            if not metrics.pop("finite"):
                bad.append("the new state is not finite")
            if bad and "skipped" not in metrics:
                raise UserError(
                    f"{bad[0]} at step {step}: the run stops, its checkpoints are from before; "
                    f"{REMEDY}"
                )
            if bad:
                # Its other figures mean nothing.
                self._skips.add(step, bad[0])
                metrics = {"skipped": 1.0}
            else:
                self._skips.in_a_row = 0
                metrics = {**metrics, "steps": 1}
            for name, value in metrics.items():
                self.sums[name] = self.sums.get(name, 0.0) + float(value)
        self._pending.clear()

    def summary(self, waited: float) -> dict[str, float]:
        """Means over the window, and its throughput.

        examples_per_second; data_wait, the share of time that steps waited for data; host_ms, what
        the loop itself works per step; gflops per second, and utilization, their share of the
        devices' peak; memory_gib, the most that a device has held, or where it does not say that
        what the compiler says of a step.
        """
        self.check()
        steps = self.sums.pop("steps", 0.0)
        counts = {"skipped": self.sums.pop("skipped")} if "skipped" in self.sums else {}
        means = {name: value / steps for name, value in self.sums.items()} | counts
        means["lr"] = self._lr
        means["epoch"] = self._last_step * self._batch_size / self._num_train
        memory = peak_memory(jax.local_devices()) or self.memory
        if memory:
            means["memory_gib"] = memory
        seconds = time.perf_counter() - self._since
        if self._steps and seconds > 0:
            means["examples_per_second"] = self._steps * self._batch_size / seconds
            means["host_ms"] = 1e3 * self.clock.seconds() / self._steps
            if self._flops:
                rate = self._steps * self._flops / seconds
                means["gflops"] = rate / 1e9
                if self._peak:
                    means["utilization"] = rate / self._peak
            means["data_wait"] = min(1.0, (waited - self._waited) / seconds)
        self._waited = waited
        self.sums.clear()
        self.restart_clock()
        return means

    def restart_clock(self) -> None:
        """Leaves out of the throughput what has just passed, such as an evaluation."""
        self._steps, self._since = 0, time.perf_counter()
        self.clock.restart()


class Stop:
    """Whether a signal asked to stop; with several processes, all agree on the step.

    Attributes:
      signalled: a signal has come.
      is_running: steps are being done, and one will be the last; before that, nothing waits.
    """

    # Data may be slow without hanging. A scheduler waits half a minute or so before it kills.
    PATIENCE, PATIENCE_OF_MANY = 3.0, 15.0

    def __init__(self) -> None:
        self.signalled = self.is_running = False

    def gives_up(self, waited: float) -> bool:
        """Asked while no batch comes, with the seconds waited.

        Raises:
          UserError: this is one of several processes; the others can neither save nor go on.
        """
        if jax.process_count() == 1:
            return self.signalled and waited > self.PATIENCE
        if waited > self.PATIENCE_OF_MANY and is_preempted():
            raise UserError(
                f"stopped by a signal, but process {jax.process_index()} has waited {waited:.0f} s "
                "for data: nothing is saved; started again, the run continues from its last "
                "checkpoint"
            )
        return False

    def wanted(self, step: int) -> bool:
        """Asked once per step, by every process."""
        if jax.process_count() == 1:
            return self.signalled
        from jax.experimental import multihost_utils

        return multihost_utils.reached_preemption_sync_point(step)


class StoppedEarly(KeyboardInterrupt):
    """A signal before the first step."""


@contextlib.contextmanager
def stop_signal() -> Iterator[Stop]:
    """SIGTERM and the first Ctrl-C end the run after the current step; a second Ctrl-C at once.

    Before the first step, the body is left at once, and what follows it goes on.
    """
    stop = Stop()

    def handle(number, frame):
        if stop.signalled and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.signalled = True
        if not stop.is_running:
            raise StoppedEarly

    # The distributed runtime listens for SIGTERM itself, and Python only lets the main thread.
    numbers = [signal.SIGTERM, signal.SIGINT] if jax.process_count() == 1 else []
    try:
        previous = {number: signal.signal(number, handle) for number in numbers}
    except ValueError:
        previous = {}
    try:
        yield stop
    except StoppedEarly:
        told = "stopped by a signal before the first step; the same command starts again"
        print(told, file=sys.stderr)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
