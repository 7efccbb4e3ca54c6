"""The held-out part: exact metrics while a run goes, and what the report shows at its end."""

import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scanmax.errors import UserError
from scanmax.train import sharding
from scanmax.train.build import Run
from scanmax.train.feed import to_device
from scanmax.train.metrics import add_sums, finalize
from scanmax.train.state import TrainState

# Images in predictions.npz: mistakes up to half of them, then what comes first.
SHOWN = 64
# Tokens of the held-out text that a sample goes on from, and how many it adds.
PROMPT, SAMPLE = 64, 256
TEMPERATURE = 0.8


def evaluate(run: Run, state: TrainState) -> dict[str, float]:
    """The held-out metrics, exact: sums over all batches, divided once."""
    rows = sharding.batch_sharding(run.mesh)
    total = None
    for batch in run.pipeline.eval_batches():
        sums = run.eval_step(run.eval_params(state), state.batch_stats, to_device(batch, rows))
        total = sums if total is None else add_sums(total, sums)
    if total is None:
        raise UserError(f"the held-out part of {run.config.data.name!r} is empty")
    return finalize(jax.device_get(total))


def save_outcome(run: Run, state: TrainState, workdir: pathlib.Path) -> None:
    """Writes predictions.npz for images, sample.json for text, of other data nothing.

    Every process takes part.
    """
    if run.pipeline.kind == "image":
        arrays = predictions(run, state)
        if jax.process_index() == 0:
            np.savez_compressed(workdir / "predictions.npz", **arrays)
        return
    if run.pipeline.kind != "tokens":
        return
    found = text_sample(run, state)
    if jax.process_index() == 0:
        found["baselines"] = run.pipeline.baselines()
        (workdir / "sample.json").write_text(json.dumps(found, indent=2) + "\n")


def predictions(run: Run, state: TrainState) -> dict[str, np.ndarray]:
    """Every prediction of the held-out part, the confusion matrix [label, prediction], images."""
    rows = sharding.batch_sharding(run.mesh)
    probabilities, labels, mistakes, right = [], [], [], []
    seen = 0
    for batch in run.pipeline.eval_batches():
        found = run.predict_step(run.eval_params(state), state.batch_stats, to_device(batch, rows))
        keep = np.asarray(found["mask"])
        probability = np.asarray(found["probability"])[keep]
        label = np.asarray(found["label"])[keep]
        probabilities.append(probability)
        labels.append(label)
        if len(mistakes) < SHOWN // 2 or len(right) < SHOWN:
            images = np.asarray(found["image"])[keep]
            for index, is_right in enumerate(probability.argmax(axis=-1) == label):
                shelf = right if is_right else mistakes
                if len(shelf) < SHOWN:
                    shelf.append((seen + index, images[index]))
        seen += len(label)
    mistakes = mistakes[: SHOWN // 2]
    shown = [*mistakes, *right[: SHOWN - len(mistakes)]]
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


def text_sample(run: Run, state: TrainState) -> dict[str, Any]:
    """What the model says after the first held-out tokens; {} where it cannot generate."""
    if not hasattr(run.model, "prefill"):
        return {}
    # Imported here: a classifier's run needs no generation.
    from scanmax.models.generation import generate

    # Every process samples the same tokens: the prompt is that of the first.
    tokens = next(iter(run.pipeline.eval_batches()))["tokens"][:1, :PROMPT]
    whole = sharding.replicated(run.mesh)
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        tokens = multihost_utils.broadcast_one_to_all(tokens)
    variables = {"params": run.eval_params(state)}
    if state.batch_stats:
        variables["batch_stats"] = state.batch_stats
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
    )(variables, jnp.asarray(tokens))
    spoken = np.asarray(spoken)[0]
    return {
        "prompt": run.pipeline.to_display(spoken[: tokens.shape[1]]),
        "text": run.pipeline.to_display(spoken[tokens.shape[1] :]),
    }
