"""The held-out part: exact metrics while a run goes, and what the report shows at its end."""

import io
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scanmax.errors import UserError
from scanmax.files import write_whole
from scanmax.train import sharding
from scanmax.train.build import Run
from scanmax.train.feed import to_device
from scanmax.train.metrics import add_sums, finalize, masked_sums
from scanmax.train.state import TrainState
from scanmax.train.step import example_mask
from scanmax.train.teachers import StoredTeacher

# Images in predictions.npz: the surest mistakes, and of what is right the least and the most sure.
MISTAKES, UNSURE, SURE = 32, 16, 16
# Tokens of the held-out text that a sample goes on from, and how many it adds.
PROMPT, SAMPLE = 64, 256
TEMPERATURE = 0.8


def evaluate(run: Run, state: TrainState, *, is_last: bool = False) -> dict[str, float]:
    """The held-out metrics, exact: sums over all batches, divided once; then the evaluators'.

    Args:
      run: the run.
      state: its state.
      is_last: whether the run ends here: some evaluators run only then.
    """
    found = {}
    if run.objective.metric_names:
        found = _averaged(
            run, lambda batch: run.eval_step(run.eval_params(state), state.carried, batch)
        )
        if "bits_per_byte" in found:
            # The loss is one of tokens.
            found["bits_per_byte"] /= getattr(run.pipeline, "bytes_per_token", 1.0)
    for evaluator in run.evaluators:
        if is_last or not evaluator.final:
            found |= evaluator(run, state)
    return found


def _averaged(run: Run, sums_of: Callable[[Any], Any]) -> dict[str, float]:
    rows = sharding.batch_sharding(run.mesh)
    total = None
    for batch in run.eval_batches():
        sums = sums_of(to_device(batch, rows))
        total = sums if total is None else add_sums(total, sums)
    if total is None:
        raise UserError(f"the held-out part of {run.config.data.name!r} is empty")
    return finalize(jax.device_get(total))


def teacher_report(run: Run, teachers: Sequence[Any]) -> list[str]:
    """A line for each teacher: how it does itself on the held-out part, on the student's input.

    A teacher that is fed with another's normalisation, or whose head was not loaded, shows here.
    """
    lines = []
    for index, (teacher, variables) in enumerate(zip(run.objective.teachers, teachers)):
        if isinstance(teacher, StoredTeacher):
            lines.append(
                f"teacher {index}    {teacher.name}: answers of {teacher.stored}, accuracy on the "
                f"training part {float(variables['accuracy']):.4f}"
            )
            continue

        def sums_of(variables, batch, teacher=teacher):
            own = run.objective
            told = teacher(variables, own.inputs(batch), **own.told_beside(batch))
            return masked_sums(own.judge(told.logits, batch), example_mask(batch))

        step = jax.jit(sums_of)
        found = _averaged(run, lambda batch, v=variables, step=step: step(v, batch))
        said = ", ".join(f"{name} {value:.4f}" for name, value in found.items())
        lines.append(f"teacher {index}    {teacher.name}: held-out {said or 'figures: none'}")
    return lines


def save_outcome(run: Run, state: TrainState, workdir: pathlib.Path) -> dict[str, Any]:
    """Writes predictions.npz for images, sample.json for text, of other data nothing.

    Every process takes part. Each says of which step it is.

    Returns:
      What the file holds.

    Raises:
      UserError: it cannot be written.
    """
    step = int(state.step)
    if run.pipeline.kind == "image":
        if "probability" not in _predicted(run):
            return {}
        found = predictions(run, state)
        buffer = io.BytesIO()
        np.savez_compressed(buffer, step=step, **found)
        name, content = "predictions.npz", buffer.getvalue()
    elif run.pipeline.kind == "tokens":
        found = {"step": step, **text_sample(run, state)}
        if jax.process_index() == 0:
            found["baselines"] = run.pipeline.baselines()
        name, content = "sample.json", json.dumps(found, indent=2) + "\n"
    else:
        return {}
    if jax.process_index() == 0:
        try:
            write_whole(workdir / name, content)
        except UserError as error:
            raise UserError(
                f"{error}; what it says is of step {step}, and the same command writes it again"
            ) from error
    return found


def _predicted(run: Run) -> tuple[str, ...]:
    """Names of what the objective predicts."""
    shapes = (run.shapes.params, run.shapes.carried, dict(run.pipeline.eval_spec))
    return tuple(jax.eval_shape(run.predict_step, *shapes))


def predictions(run: Run, state: TrainState) -> dict[str, np.ndarray]:
    """Every prediction of the held-out part, the confusion matrix [label, prediction], images."""
    rows = sharding.batch_sharding(run.mesh)
    probabilities, labels = [], []
    mistakes, unsure, sure = Shelf(MISTAKES), Shelf(UNSURE), Shelf(SURE)
    seen = 0
    for batch in run.eval_batches():
        found = run.predict_step(run.eval_params(state), state.carried, to_device(batch, rows))
        keep = np.asarray(found["mask"])
        probability = np.asarray(found["probability"])[keep]
        label = np.asarray(found["label"])[keep]
        probabilities.append(probability)
        labels.append(label)
        is_right = probability.argmax(axis=-1) == label
        # What is not finite is kept where nothing better comes.
        surety = np.nan_to_num(probability.max(axis=-1))
        offers = [
            (mistakes, np.where(is_right, -np.inf, surety)),
            (unsure, np.where(is_right, -surety, -np.inf)),
            (sure, np.where(is_right, surety, -np.inf)),
        ]
        if any(shelf.wants(worth) for shelf, worth in offers):
            images = np.asarray(found["image"])[keep]
            for shelf, worth in offers:
                shelf.add(seen, worth, images)
        seen += len(label)
    shown = sorted({**mistakes.images(), **unsure.images(), **sure.images()}.items())
    probability, label = np.concatenate(probabilities), np.concatenate(labels)
    prediction = probability.argmax(axis=-1)
    confusion = np.zeros((probability.shape[-1],) * 2, np.int64)
    np.add.at(confusion, (label, prediction), 1)
    return {
        "images": run.pipeline.to_display(np.stack([image for _, image in shown])),
        "shown": np.asarray([index for index, _ in shown]),
        "labels": label,
        "predictions": prediction,
        "probabilities": probability,
        "confusion": confusion,
        "class_names": np.asarray(run.pipeline.class_names, dtype=str),
    }


class Shelf:
    """The examples of most worth among all that were offered, with their images."""

    def __init__(self, size: int):
        self._size = size
        self._kept: list[tuple[float, int, np.ndarray]] = []

    def wants(self, worth: np.ndarray) -> bool:
        """Whether one of [B] examples would be kept; -inf is worth nothing."""
        lowest = self._kept[-1][0] if len(self._kept) == self._size else -np.inf
        return bool((worth > lowest).any())

    def add(self, first: int, worth: np.ndarray, images: np.ndarray) -> None:
        """Offers [B] examples, of which `first` is the number of the first one."""
        offered = [
            (float(worth[index]), first + int(index), images[index].copy())
            for index in np.argsort(-worth, kind="stable")[: self._size]
            if worth[index] > -np.inf
        ]
        # Stable: of equals the earlier ones stay.
        kept = sorted(self._kept + offered, key=lambda entry: -entry[0])
        self._kept = kept[: self._size]

    def images(self) -> dict[int, np.ndarray]:
        """Number of the example -> its image, that of most worth first."""
        return {number: image for _, number, image in self._kept}


def text_sample(run: Run, state: TrainState) -> dict[str, Any]:
    """What the model says after the first held-out tokens; {} where it cannot generate."""
    if not hasattr(run.model, "prefill"):
        return {}
    # Imported here: a classifier's run needs no generation.
    from scanmax.models.generation import generate

    # Every process samples the same tokens: the prompt is that of the first.
    tokens = next(run.eval_batches())["tokens"][:1, :PROMPT]
    whole = sharding.replicated(run.mesh)
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        tokens = multihost_utils.broadcast_one_to_all(tokens)
    spoken = jax.jit(
        lambda variables, prompt: generate(
            run.model,
            variables,
            prompt,
            max_new_tokens=SAMPLE,
            key=jax.random.key(run.config.seed),
            temperature=TEMPERATURE,
        ),
        out_shardings=whole,
    )(run.model_variables(state), jnp.asarray(tokens))
    spoken = np.asarray(spoken)[0]
    return {
        "prompt": run.pipeline.to_display(spoken[: tokens.shape[1]]),
        "text": run.pipeline.to_display(spoken[tokens.shape[1] :]),
    }
