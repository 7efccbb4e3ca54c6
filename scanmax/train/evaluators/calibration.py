"""Calibration: how far the probability of an answer is from how often such answers are right."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from scanmax.errors import UserError
from scanmax.train import sharding
from scanmax.train.evaluators.base import Evaluator
from scanmax.train.feed import to_device
from scanmax.train.scores import BINS, Calibrated


@dataclasses.dataclass(frozen=True)
class Calibration(Evaluator):
    """Expected calibration error of held-out images, sum_b n_b / n |sure_b - right_b|.

    Bins of equal width part the probability of the likeliest class; sure_b is its mean in a bin,
    right_b the share of the bin's images whose class it is. `checkpoint.mode="min"` where "best"
    is to mean it.

    Attributes:
      bins: how many.

    Reference: multimodal-kd-egocentric
    """

    bins: int = BINS

    metric_names: ClassVar[tuple[str, ...]] = ("calibration_error",)

    def __post_init__(self):
        if self.bins < 1:
            raise ValueError(f"bins={self.bins} must be at least 1")

    def check(self, run: Any, field: str) -> None:
        label = run.pipeline.eval_spec.get("label")
        shapes = (run.shapes.params, run.shapes.carried, dict(run.pipeline.eval_spec))
        is_classifier = label is not None and label.ndim == 1
        if not is_classifier or "probability" not in jax.eval_shape(run.predict_step, *shapes):
            raise UserError(
                f"{field} needs a label of each image and probabilities of the classes; "
                f"{run.config.objective.name!r} has none"
            )

    def __call__(self, run: Any, state: Any) -> dict[str, float]:
        """{"calibration_error": ...}"""
        params, rows = run.eval_params(state), sharding.batch_sharding(run.mesh)
        # A pair of numbers of each image goes to the host, not its distribution.
        step = jax.jit(
            lambda *given: said(run.predict_step(*given)),
            out_shardings=sharding.replicated(run.mesh),
        )
        seen = Calibrated(self.bins)
        for batch in run.pipeline.eval_batches():
            found = step(params, state.carried, to_device(batch, rows))
            sure, right, mask = map(np.asarray, jax.device_get(found))
            seen.add(sure[mask], right[mask])
        return {"calibration_error": seen.error()}


def said(predicted: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The probability of each likeliest class, whether that is right, and which rows count."""
    probability = predicted["probability"]
    right = jnp.argmax(probability, axis=-1) == predicted["label"]
    return jnp.max(probability, axis=-1), right, predicted["mask"]
