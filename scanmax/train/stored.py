"""A teacher's answers on disk: it is asked once of each training example, and never again.

The file holds the k largest logarithms of its distribution of each example, in the order of the
training part; batches carry the index of their examples. What is stored is what it says of an
example unchanged, as it is evaluated.
"""

import dataclasses
import io
import json
import pathlib
import zipfile
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from scanmax.errors import UserError
from scanmax.files import write_whole
from scanmax.train import sharding
from scanmax.train.build import Run
from scanmax.train.feed import to_device
from scanmax.train.inference import load_teacher
from scanmax.train.metrics import is_correct
from scanmax.train.teachers import StoredTeacher, Teacher


def teacher_variables(run: Run, teacher: Teacher) -> Any:
    """What a step is given of a teacher: its variables, or its stored answers.

    A file of answers that is not there yet is written first.

    Raises:
      UserError: neither can be had.
    """
    if not isinstance(teacher, StoredTeacher):
        return teacher.settle(load_teacher(teacher, run.example))
    path = pathlib.Path(teacher.stored)
    try:
        if not first_says(path.exists()):
            content = answers(run, teacher)
            if jax.process_index() == 0:
                path.parent.mkdir(parents=True, exist_ok=True)
                write_whole(path, content)
        else:
            content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error
    return read(content, path, run, teacher)


def first_says(value: bool) -> bool:
    """What the first process says, on all of them."""
    if jax.process_count() == 1:
        return value
    from jax.experimental import multihost_utils

    return bool(multihost_utils.broadcast_one_to_all(np.asarray(value)))


def origin(run: Run, teacher: StoredTeacher) -> dict[str, Any]:
    """What answers are of: who was asked, of which examples, and how many answers are kept."""
    data = run.config.data
    asked = {
        field.name: getattr(teacher, field.name)
        for field in dataclasses.fields(Teacher)
        if field.name not in ("model", "reads_taps")
    }
    names = ("name", "train_split", "image_size", "eval_crop", "mean", "std", "kwargs")
    read = {name: getattr(data, name) for name in names}
    found = {
        "teacher": asked,
        "data": {**read, "examples": run.pipeline.num_train},
        "top": teacher.top,
    }
    return json.loads(json.dumps(found, default=str))


def answers(run: Run, teacher: StoredTeacher) -> bytes:
    """The file: the teacher asked of every training example. Every process takes part."""
    variables = load_teacher(teacher, run.example)
    variables = jax.device_put(variables, sharding.replicated(run.mesh))
    rows, whole = sharding.batch_sharding(run.mesh), sharding.replicated(run.mesh)

    def ask(variables, batch):
        told = teacher.ask(variables, run.objective.inputs(batch))
        logs, classes = jax.lax.top_k(jax.nn.log_softmax(told), teacher.top)
        right = is_correct(told, batch["label"]) if "label" in batch else jnp.zeros(len(told))
        return classes.astype(jnp.int32), logs, right, batch["mask"]

    step = jax.jit(ask, out_shardings=whole)
    parts = []
    with sharding.use_mesh(run.mesh, run.config.sharding):
        for batch in run.pipeline.train_eval_batches():
            found = step(variables, to_device(batch, rows))
            *values, mask = (np.asarray(part) for part in found)
            parts.append([value[mask] for value in values])
    classes, logs, right = (np.concatenate(part) for part in zip(*parts))
    buffer = io.BytesIO()
    meta = {**origin(run, teacher), "accuracy": float(np.mean(right))}
    np.savez(buffer, classes=classes, logs=logs.astype(np.float32), meta=json.dumps(meta))
    return buffer.getvalue()


def read(content: bytes, path: pathlib.Path, run: Run, teacher: StoredTeacher) -> dict[str, Array]:
    """The answers of a file.

    Raises:
      UserError: the file is no such file, or holds other answers.
    """
    field = f"config.objective.teachers: {teacher.name!r}"
    try:
        with np.load(io.BytesIO(content)) as file:
            found = {name: file[name] for name in ("classes", "logs")}
            meta = json.loads(str(file["meta"]))
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{field}: stored={path} holds no answers of a teacher") from error
    accuracy = meta.pop("accuracy")
    for name, expected in origin(run, teacher).items():
        if meta.get(name) != expected:
            raise UserError(
                f"{field}: stored={path} holds answers of another {name}: {meta.get(name)}, not "
                f"{expected}; remove it, or name another file"
            )
    return {**found, "accuracy": np.float32(accuracy)}
