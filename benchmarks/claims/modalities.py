"""What teachers of other modalities are worth to a student of one: halves and sums of digits.

All learn the same 140 digits. The student sees the upper half of each, its teachers that half, the
lower half, and the sums of rows and columns. Every figure stands twice, of the last epoch and of
the best.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.claims import Finding, claim
from benchmarks.claims.few_digits_features import HELD_OUT, draw_of, stacked
from benchmarks.claims.together import Learned, batches, compared, each, learn, made
from scanmax.train.scores import Calibrated
from scanmax.train.terms.ensemble_kd import dataset_shares

# The shares of a whole data set are found on digits that none has learned.
DIGITS, UNSEEN = 140, slice(1200, 1400)
TEACHERS = ("upper", "lower", "sums")


class OneModality(nn.Module):
    """Two layers over what it sees of an image.

    Attributes:
      sees: "upper" or "lower", half of the pixels, or "sums" of rows and columns.
      width: of the layers.
    """

    sees: str
    width: int = 64

    @nn.compact
    def __call__(self, images, train: bool = False):
        if self.sees == "sums":
            x = jnp.concatenate([images.mean(axis) for axis in (1, 2)], axis=1)
        else:
            x = images[:, :4] if self.sees == "upper" else images[:, 4:]
        x = x.reshape(len(images), -1)
        for index in range(2):
            x = nn.relu(nn.Dense(self.width, name=f"fc{index}")(x))
        return nn.Dense(10, name="head")(x)


@functools.cache
def given():
    """Batches of the digits, the same for all."""
    return batches(draw_of(DIGITS), stacked())


def said(objective, variables, data):
    """How sure the net is of each held-out digit, and whether it is right, [2, N]."""
    shown = {"image": data["images"][HELD_OUT:]}
    probability = objective.apply(variables, shown, method="predict")["probability"]
    right = probability.argmax(-1) == data["labels"][HELD_OUT:]
    return jnp.stack([probability.max(-1), right])


@functools.cache
def teacher(sees: str) -> Learned:
    """The net of each seed that has seen a modality."""
    return learn(made("classification", OneModality(sees)), given(), stacked(), said)


@functools.cache
def shares() -> np.ndarray:
    """Softmin of the teachers' losses on digits that they have not learned, the seeds' mean."""

    def loss(variables, data):
        logs = jax.nn.log_softmax(net.apply(variables, data["images"][UNSEEN]))
        return -jnp.take_along_axis(logs, data["labels"][UNSEEN][:, None], axis=1).mean()

    losses = []
    for sees in TEACHERS:
        net = OneModality(sees)
        losses.append(each(loss, teacher(sees).model, stacked()))
    return np.mean([dataset_shares(own) for own in np.transpose(losses)], axis=0)


@functools.cache
def student(way: str) -> Learned:
    """A student of the upper half; half of what it learns is the teachers'."""
    asked = tuple(range(len(TEACHERS)))
    options = {"weight": 0.5, "teacher": asked, "temperature": 4.0}
    if way == "labels alone":
        return teacher("upper")
    if way == "by data set":
        options["shares"] = tuple(map(float, shares()))
    if way == "by example":
        options["weights_temperature"] = 1.0
    name = "kd" if way == "mean of distributions" else "ensemble_kd"
    objective = made(
        "classification",
        OneModality("upper"),
        terms=((name, options),),
        teachers=tuple(map(OneModality, TEACHERS)),
        weight=0.5,
    )
    told = tuple(teacher(sees).model for sees in TEACHERS)
    return learn(objective, given(), stacked(), said, teachers=told)


@functools.cache
def measured(way: str):
    """Accuracy and error of calibration, each [seeds, epochs]."""
    figures = student(way).figures
    sure, right = figures[:, :, 0], figures[:, :, 1]
    errors = np.zeros(sure.shape[:2])
    for place in np.ndindex(errors.shape):
        seen = Calibrated()
        seen.add(sure[place], right[place])
        errors[place] = seen.error()
    return right.mean(-1), errors


def figures(way: str):
    """{"last", "best"} of both figures; the best error is the least."""
    accuracy, error = measured(way)
    right = {"last": accuracy[:, -1], "best": accuracy.max(axis=1)}
    return right, {"last": error[:, -1], "best": error.min(axis=1)}


def against(way: str, other: str) -> list[Finding]:
    """Findings that a way of weighing is above another in accuracy, and below it in error."""
    (right, error), (their_right, their_error) = figures(way), figures(other)
    what = "held-out digits of 140 learned"
    findings = compared(what, f"`ensemble_kd` {way}", right, {other: their_right})
    for when in ("last", "best"):
        own, theirs = error[when], their_error[when]
        shown = [f"{np.mean(x):.3f} ({min(x):.3f} to {max(x):.3f})" for x in (own, theirs)]
        findings.append(
            Finding(
                f"`ensemble_kd` {way} and {other}, error of `calibration`, {when} epoch",
                f"below {other}",
                "; ".join(shown),
                bool(np.mean(own) < np.mean(theirs)),
            )
        )
    return findings


@claim("digits-modalities", paper="multimodal-kd-egocentric", by_hand=True)
def digits_modalities(quick):
    """A student of one modality learns of teachers of several what labels do not tell it."""
    findings = []
    for way in ("alike", "by data set", "by example"):
        findings += against(way, "labels alone")
    findings += against("by example", "alike")
    return [*findings, *against("alike", "mean of distributions")]
