"""Lives of one run, each ended by SIGKILL at a random point: python kills.py FOLDER KILLS [SEED]

A server process imports everything once and forks a child per life, so that a life costs a second.
Every life trains in the same workdir; when a run has ended it is compared, bit for bit, with one
that was never disturbed, and the next run begins. Prints a JSON line:
{"kills": .., "runs": .., "restarts": .., "died": {where: how often}}
"""

import importlib
import json
import os
import pathlib
import random
import select
import shutil
import signal
import sys
import time
import warnings

STEPS, EVERY = 40, 2


def live(workdir: pathlib.Path, started: int) -> None:
    """A life: trains from wherever the workdir stands, to the end if it is let."""
    from toy_run import ToyData, ToyModel, toy_config

    from scanmax.train.loop import train

    class Told(ToyData):
        def train_iterator(self, start_step=0):
            os.write(started, b"x")
            yield from super().train_iterator(start_step)

    config = toy_config(duration=f"{STEPS} steps", eval_every="")
    config.checkpoint.every = f"{EVERY} steps"
    train(config, workdir, pipeline=Told(), model=ToyModel(batch_norm=True, dropout_rate=0.2))


def fork(workdir: pathlib.Path) -> tuple[int, int]:
    """Starts a life; gives its process and a pipe that says when its first batch is asked for."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        # No computation has run here, so no thread of jax holds a lock.
        warnings.simplefilter("ignore")
        child = os.fork()
    if child:
        os.close(writing)
        return child, reading
    os.close(reading)
    log = os.open(workdir.parent / f"{workdir.name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    status = 1
    try:
        live(workdir, writing)
        status = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def wait(child: int, seconds: float) -> bool:
    """Whether a life ended by itself, well, within so many seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            if status:
                raise SystemExit(f"a life ended with status {status}; see its log")
            return True
        time.sleep(0.002)
    return False


def end_state(workdir: pathlib.Path) -> dict[str, bytes]:
    """Every tensor of the last checkpoint, in a process of its own: the server must not compute."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        import hashlib

        import jax
        import numpy as np
        import orbax.checkpoint as ocp

        warnings.simplefilter("ignore")
        with ocp.PyTreeCheckpointer() as reader:
            tree = reader.restore(workdir / "checkpoints" / str(STEPS) / "state")
        found = {
            jax.tree_util.keystr(path): hashlib.sha256(np.asarray(leaf).tobytes()).hexdigest()
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        }
        os.write(writing, json.dumps(found).encode())
        os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with os.fdopen(reading, "rb") as pipe:
        return json.loads(pipe.read())


def unfinished(workdir: pathlib.Path) -> set[tuple[str, int]]:
    """Checkpoints half written, each with what tells it from another of its name."""
    found = (workdir / "checkpoints").glob("*.orbax-checkpoint-tmp*")
    return {(path.name, path.stat().st_ino) for path in found}


def where(has_started: bool, is_saving: bool) -> str:
    """What the life that has just died was doing."""
    if is_saving:
        return "while a checkpoint was written"
    return "while training" if has_started else "while starting or restoring"


def campaign(folder: pathlib.Path, kills: int, seed: int) -> dict:
    """Kills so many lives, letting each run reach its end in between."""
    rng = random.Random(seed)
    # Imported once, for all lives.
    for name in ("orbax.checkpoint", "tensorboardX", "toy_run", "scanmax.train.loop"):
        importlib.import_module(name)
    undisturbed = folder / "undisturbed"
    began = time.monotonic()
    child, pipe = fork(undisturbed)
    os.read(pipe, 1)
    startup = time.monotonic() - began
    if not wait(child, 120):
        os.kill(child, signal.SIGKILL)
        raise SystemExit("the undisturbed run does not end")
    training = time.monotonic() - began - startup
    os.close(pipe)
    expected = end_state(undisturbed)
    died: dict[str, int] = {}
    done, runs, restarts = 0, 0, 0
    while done < kills or restarts:
        workdir = folder / f"run_{runs}"
        left = unfinished(workdir)
        child, pipe = fork(workdir)
        if done >= kills:
            # Enough: the run under way is let go to its end.
            ended = wait(child, 120)
        elif rng.random() < 0.2:
            ended = wait(child, rng.uniform(0, startup))
        else:
            # A life that is let train gets a part of the run done.
            select.select([pipe], [], [], 60)
            ended = wait(child, rng.uniform(0, training / 3))
        if ended:
            state = end_state(workdir)
            differs = sorted(name for name in expected if state.get(name) != expected[name])
            if differs or set(state) != set(expected):
                raise SystemExit(f"{workdir} after {restarts} restarts differs in {differs[:5]}")
            shutil.rmtree(workdir)
            runs, restarts = runs + 1, 0
        else:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            has_started = bool(select.select([pipe], [], [], 0)[0]) and os.read(pipe, 1) == b"x"
            place = where(has_started, bool(unfinished(workdir) - left))
            died[place] = died.get(place, 0) + 1
            done, restarts = done + 1, restarts + 1
        os.close(pipe)
    return {"kills": done, "runs": runs, "died": died}


if __name__ == "__main__":
    sys.path.insert(0, str(pathlib.Path(__file__).parent))
    target = pathlib.Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    rest = [int(word) for word in sys.argv[2:]]
    print(json.dumps(campaign(target, rest[0], rest[1] if len(rest) > 1 else 0)))
