"""Checkpoints: one wrapper over orbax, so that its interface is met in this file only.

A checkpoint is a folder named by its step: `state` (arrays), `meta` (JSON: config, data position,
metrics, a checksum per array). Orbax writes under a temporary name and renames at the end: an
interrupted save leaves no folder.
"""

import contextlib
import dataclasses
import errno
import json
import logging
import math
import os
import pathlib
import re
import sys
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from scanmax.checksum import checksums, damaged_arrays, describe_damage
from scanmax.errors import UserError
from scanmax.files import write_whole
from scanmax.train.config import CheckpointConfig, best_mode
from scanmax.train.state import TrainState

# Orbax has each device that holds an array write a part of it. A part is a program and a copy on
# the device; one of fewer bytes is not worth them, and the first device writes the array whole.
LEAST_PART = 2**20


class Checkpointer:
    """Saves in the background, keeps what the config says, restores onto any mesh."""

    def __init__(self, directory: pathlib.Path, config: CheckpointConfig, keep_every: int = 0):
        """Opens a folder of checkpoints, making it where it is missing.

        Args:
          directory: the folder; every process names the same.
          config: how many are kept.
          keep_every: checkpoints this many steps apart are never removed; 0 is none.
        """
        # Orbax logs a traceback of what it then raises, asyncio those of writes that nobody waits
        # for after the first has failed; the raised error is told in one line.
        for logger in ("absl", "asyncio"):
            logging.getLogger(logger).setLevel(logging.CRITICAL)
        _hush_storage_threads()
        self.directory = pathlib.Path(directory).absolute()
        self._config = config
        self._damaged: list[int] = []
        self._saving: int | None = None
        kept = [policies.LatestN(config.keep)]
        if config.keep_best:
            kept.append(BestFinite(config.metric, best_mode(config), config.keep_best))
        if keep_every:
            kept.append(policies.EveryNSteps(keep_every))
        self._mend_metrics()
        try:
            self._manager = ocp.CheckpointManager(
                self.directory,
                options=ocp.CheckpointManagerOptions(
                    preservation_policy=policies.AnyPreservationPolicy(kept),
                    # Metrics are only kept where there is one; what is best, BestFinite says.
                    best_fn=lambda metrics: metrics.get(config.metric, math.nan),
                    cleanup_tmp_directories=True,
                    enable_async_checkpointing=True,
                ),
                item_names=("state", "meta"),
            )
        except OSError as error:
            raise UserError(f"cannot write checkpoints under {self.directory}: {error}") from error

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, oldest first."""
        return sorted(self._manager.all_steps(read=True))

    def save(
        self, state: TrainState, meta: dict[str, Any], metrics: dict[str, float] | None = None
    ) -> None:
        """Starts to save; returns once the arrays are copied, before they are written.

        Args:
          state: the state; the caller may donate it afterwards.
          meta: config, data position and whatever else JSON holds; the metrics and a checksum of
            every array are added.
          metrics: the held-out metrics at this step, for "best".

        Raises:
          UserError: this save or the one before failed, for instance on a full disk.
        """
        step = meta["step"]
        if step in self._manager.all_steps():
            return
        # One save at a time; what went wrong with the one before is told as its own.
        self.wait()
        self._saving = step
        meta = sealed({**meta, "metrics": metrics, "checksums": checksums(state)})
        try:
            with _whole_unless_large():
                self._manager.save(
                    step,
                    args=ocp.args.Composite(
                        state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta)
                    ),
                    metrics=metrics,
                )
        except Exception as error:
            raise self._failed(error) from error

    def wait(self) -> None:
        """Waits until everything is on disk.

        Raises:
          UserError: the last save failed.
        """
        try:
            self._manager.wait_until_finished()
            self._manager.check_for_errors()
        except Exception as error:
            raise self._failed(error) from error

    def __enter__(self) -> "Checkpointer":
        return self

    def __exit__(self, kind, error, trace) -> None:
        """Lets the save under way finish, whatever ended the run, and ends orbax's threads."""
        try:
            self.wait()
        except UserError as late:
            # The first error is what ended the run; one about saving is told beside it.
            if kind is None:
                raise
            print(f"warning: {late}", file=sys.stderr)
        finally:
            with contextlib.suppress(Exception):
                self._manager.close()

    def meta(self, step: int) -> dict[str, Any]:
        """What was saved beside the arrays of a step."""
        return read_meta(self.directory / str(step))

    def restore(self, shapes: TrainState, shardings: TrainState) -> tuple[TrainState, dict] | None:
        """Restores the newest checkpoint that can be read, onto the shardings given.

        A damaged one, which a checksum may tell, is reported, moved to `damaged` beside, and the
        one before is taken.

        Args:
          shapes: tree of ShapeDtypeStruct, as created by create_state.
          shardings: the same tree of shardings; any mesh, not only the one it was saved from.

        Returns:
          (state, meta), or None where there is no checkpoint.

        Raises:
          UserError: there are checkpoints, and none can be read.
        """
        abstract = jax.tree.map(
            lambda leaf, lying: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=lying),
            shapes,
            shardings,
        )
        steps = self.steps()
        for step in reversed(steps):
            state, meta, reason = None, {}, ""
            try:
                meta = self.meta(step)
                restored = self._manager.restore(
                    step, args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
                )
                state = jax.block_until_ready(restored["state"])
            except Exception as error:
                reason = " ".join(str(error).split())[:160] or type(error).__name__
            # Checksums are made together: where one process has nothing to sum, none begins.
            if _all_processes(not reason):
                reason = damage_of(state, meta)
            else:
                reason = reason or "another process cannot read it"
            if reason:
                print(
                    f"warning: checkpoint {step} is damaged ({reason}); trying the one before",
                    file=sys.stderr,
                )
                self._damaged.append(step)
                continue
            self._set_aside()
            return state, meta
        if steps:
            raise UserError(
                f"none of the checkpoints {steps} under {self.directory} can be read; "
                "take another --workdir, or remove that folder to start over"
            )
        return None

    def _mend_metrics(self) -> None:
        """Writes damaged metrics anew, as meta has them: orbax reads all of them when it opens.

        Where meta has none they are forgotten, and the checkpoint is one that was never evaluated;
        its arrays are as good as before.
        """
        if jax.process_index() == 0:
            for path in self.directory.glob("*/metrics/metrics"):
                folder = path.parent.parent
                try:
                    known = read_meta(folder).get("metrics")
                except (OSError, ValueError):
                    known = None
                try:
                    found = json.loads(path.read_text())
                    if isinstance(found, dict) and (
                        not known or _as_text(found) == _as_text(known)
                    ):
                        continue
                except ValueError:
                    pass
                print(
                    f"warning: the metrics of checkpoint {folder.name} are damaged", file=sys.stderr
                )
                if known:
                    write_whole(path, json.dumps(known))
                else:
                    path.unlink()
        if jax.process_count() > 1:
            from jax.experimental import multihost_utils

            multihost_utils.sync_global_devices("metrics of checkpoints")

    def _set_aside(self) -> None:
        """Moves damaged checkpoints away: their steps will be saved again."""
        if jax.process_index() == 0:
            for step in self._damaged:
                folder = self.directory.parent / "damaged"
                folder.mkdir(exist_ok=True)
                number = len(list(folder.iterdir()))
                (self.directory / str(step)).rename(folder / f"{step}.{number}")
        if self._damaged:
            self._damaged.clear()
            self._manager.reload()

    def _failed(self, error: Exception) -> UserError:
        reason = " ".join(str(error).split())
        # Storage errors name every layer they passed; the operating system's words are what counts.
        words = [os.strerror(code) for code in (errno.ENOSPC, errno.EDQUOT, errno.EACCES)]
        system = re.search(r"([^:]+) \[os_error_code", reason)
        known = next((said for said in words if said in reason), None)
        reason = known or (system[1].strip() if system else reason[:200])
        if reason.startswith("NOT_FOUND") or not self.directory.is_dir():
            reason = "the folder was removed under the run"
        try:
            kept = self.steps()
        except Exception:
            kept = []
        last = f"the last complete one is step {kept[-1]}" if kept else "no complete one exists"
        return UserError(
            f"could not save checkpoint {self._saving} under {self.directory} ({reason}); {last}"
        )


@dataclasses.dataclass(frozen=True)
class BestFinite:
    """Preserves the `count` best checkpoints by a metric; one that is not finite is never best."""

    metric: str
    mode: str
    count: int

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """Whether each checkpoint, oldest first, is preserved; of equals the newest are."""
        sign = 1 if self.mode == "max" else -1
        values = {}
        for index, checkpoint in enumerate(checkpoints):
            value = (checkpoint.metrics or {}).get(self.metric, math.nan)
            if math.isfinite(value):
                values[index] = sign * value
        best = sorted(values, key=values.get)[-self.count :]
        return [index in best for index in range(len(checkpoints))]


def sealed(meta: dict[str, Any]) -> dict[str, Any]:
    """A meta with a checksum of itself."""
    return {**meta, "seal": _seal(meta)}


def read_meta(folder: pathlib.Path) -> dict[str, Any]:
    """What was saved beside the arrays of a checkpoint.

    Raises:
      OSError: it is not there.
      ValueError: it is damaged, or is that of another step than the folder's name says.
    """
    meta = json.loads((folder / "meta" / "metadata").read_text())
    if not isinstance(meta, dict) or not isinstance(meta.get("step"), int):
        raise ValueError("its meta is damaged")
    # Checkpoints from before checksums have no seal.
    is_sealed = "checksums" in meta or "seal" in meta
    if is_sealed and meta.pop("seal", None) != _seal(meta):
        raise ValueError("its meta is damaged")
    if str(meta["step"]) != folder.name:
        raise ValueError(f"the folder is named {folder.name} and holds step {meta['step']}")
    return meta


def damage_of(arrays: Any, meta: dict[str, Any]) -> str:
    """What is wrong with restored arrays, the state or a part of it; "" where nothing is.

    Every process calls it together.
    """
    sums = meta.get("checksums")
    if sums is None:
        if jax.process_index() == 0:
            print(
                f"checkpoint {meta['step']} has no checksums, from before there were any: what it "
                "holds is not verified",
                file=sys.stderr,
            )
    else:
        damaged = damaged_arrays(arrays, sums)
        if damaged:
            return describe_damage(damaged)
    counted = arrays.get("step") if isinstance(arrays, dict) else getattr(arrays, "step", None)
    if counted is not None and int(counted) != meta["step"]:
        return f"its meta says step {meta['step']}, its state step {int(counted)}"
    return ""


def _seal(meta: dict[str, Any]) -> int:
    return zlib.crc32(_as_text(meta).encode())


def _as_text(tree: Any) -> str:
    # Through JSON and back: tuples become lists, as they will be when they are read.
    return json.dumps(json.loads(json.dumps(tree)), sort_keys=True)


def _all_processes(is_well: bool) -> bool:
    if jax.process_count() == 1:
        return is_well
    from jax.experimental import multihost_utils

    return bool(multihost_utils.process_allgather(np.asarray(is_well)).all())


@contextlib.contextmanager
def _whole_unless_large() -> Iterator[None]:
    """Lets orbax write an array in parts only where each has LEAST_PART bytes."""
    handler = ocp.type_handlers.get_type_handler(jax.Array)
    # Its constructor takes the bound, but no public way hands a handler to StandardSave alone.
    name = "_min_slice_bytes_for_replica_parallel"
    before = getattr(handler, name, None)
    setattr(handler, name, LEAST_PART)
    try:
        yield
    finally:
        setattr(handler, name, before)


def _hush_storage_threads() -> None:
    """Keeps the storage library's threads from printing tracebacks about a save that failed.

    Orbax closes its event loop at the first error; the writes still under way then report to a
    loop that is gone, one traceback each, by way of sys.unraisablehook.
    """
    previous = sys.unraisablehook
    if getattr(previous, "hushes_closed_loops", False):
        return

    def hook(unraisable):
        error = unraisable.exc_value
        if not (isinstance(error, RuntimeError) and str(error) == "Event loop is closed"):
            previous(unraisable)

    hook.hushes_closed_loops = True
    sys.unraisablehook = hook
