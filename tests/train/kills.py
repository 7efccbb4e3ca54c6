"""Lives of one run, each ended by SIGKILL at a random point: python kills.py FOLDER KILLS SEED LIFE

A server process imports everything once and forks a child per life, so that a life costs a second.
Every life trains in the same workdir; when a run has ended it is compared, bit for bit, with one
that was never disturbed, and the next run begins. Prints a JSON line:
{"kills": .., "runs": .., "died": {where: how often}}

LIFE is "plain" (labels, batch statistics, dropout), "momentum" (BYOL's second network and views,
under SAM, with weights of four bits) or "taught" (a hint and its projector, images cut from each
other, parts of a batch).
"""

import contextlib
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
from unittest import mock

EVERY = 2


def plain():
    """A config, data and a model that everything about them is carried on from."""
    from toy_run import ToyData, ToyModel, toy_config

    return toy_config(), ToyData(), ToyModel(batch_norm=True, dropout_rate=0.2)


def momentum():
    """As `plain`, with a second network that follows the first."""
    from scanmax.testing import SmallImages, SmallNet
    from scanmax.train.config import CheckpointConfig, ObjectiveConfig

    config, _, _ = plain()
    widths = {"projector_widths": (8, 6), "predictor_widths": (8,)}
    config.objective = ObjectiveConfig(name="byol", kwargs={"momentum": 0.9, **widths})
    config.checkpoint = CheckpointConfig(metric="", keep_best=0)
    config.optim.gradient, config.optim.gradient_kwargs = "sam", {"rho": 0.1}
    config.transforms = (("fake_quantize", {"match": ("model/.*kernel",), "bits": 4}),)
    return config, SmallImages(16, views=2), SmallNet(num_classes=0)


def taught():
    """As `plain`, with a teacher of fixed weights."""
    from scanmax.testing import SmallImages, SmallNet
    from scanmax.train.config import ObjectiveConfig

    config, _, _ = plain()
    hint = ("hint", {"student_tap": "output", "teacher_tap": "output"})
    config.objective = ObjectiveConfig(terms=(hint,))
    config.mix = (("cutmix", {"per": "element"}),)
    config.optim.accumulate = 2
    return config, SmallImages(16), SmallNet()


LIVES = {"plain": plain, "momentum": momentum, "taught": taught}


@contextlib.contextmanager
def teacher():
    """Lets the teacher be a network of fixed weights, which is not what is tried here."""
    import flax.linen as nn
    import jax
    import jax.numpy as jnp

    from scanmax.testing import SmallNet
    from scanmax.train.teachers import Teacher

    net = SmallNet(width=6)
    weights = nn.meta.unbox(net.init(jax.random.key(7), jnp.zeros((1, 4, 4, 1))))
    given = (Teacher("small", net, reads_taps=True),)
    with (
        mock.patch("scanmax.train.build.make_teachers", return_value=given),
        mock.patch("scanmax.train.stored.load_teacher", return_value=weights),
    ):
        yield


def live(life: str, workdir: pathlib.Path, steps: int, started: int) -> None:
    """A life: trains from wherever the workdir stands, to the end if it is let."""
    from scanmax.train.loop import train

    config, data, model = LIVES[life]()
    config.duration, config.eval_every = f"{steps} steps", ""
    config.checkpoint.every = f"{EVERY} steps"
    batches = data.train_iterator

    def told(start_step=0):
        os.write(started, b"x")
        yield from batches(start_step)

    data.train_iterator = told
    with teacher() if life == "taught" else contextlib.nullcontext():
        train(config, workdir, pipeline=data, model=model)


def fork(life: str, workdir: pathlib.Path, steps: int) -> tuple[int, int]:
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
        live(life, workdir, steps, writing)
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


def end_state(workdir: pathlib.Path, steps: int) -> dict[str, bytes]:
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
            tree = reader.restore(workdir / "checkpoints" / str(steps) / "state")
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


def campaign(folder: pathlib.Path, kills: int, seed: int, life: str) -> dict:
    """Kills so many lives, letting each run reach its end in between."""
    rng = random.Random(seed)
    # Imported once, for all lives.
    for name in (
        "orbax.checkpoint",
        "tensorboardX",
        "toy_run",
        "scanmax.train.loop",
        "scanmax.testing",
    ):
        importlib.import_module(name)
    # Few kills are spread over a short run, many over a long one.
    steps = 40 if kills > 10 else 16
    undisturbed = folder / "undisturbed"
    began = time.monotonic()
    child, pipe = fork(life, undisturbed, steps)
    os.read(pipe, 1)
    startup = time.monotonic() - began
    if not wait(child, 120):
        os.kill(child, signal.SIGKILL)
        raise SystemExit("the undisturbed run does not end")
    training = time.monotonic() - began - startup
    os.close(pipe)
    expected = end_state(undisturbed, steps)
    died: dict[str, int] = {}
    done, runs, restarts = 0, 0, 0
    while done < kills or restarts:
        workdir = folder / f"run_{runs}"
        left = unfinished(workdir)
        child, pipe = fork(life, workdir, steps)
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
            state = end_state(workdir, steps)
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
    print(json.dumps(campaign(target, int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])))
