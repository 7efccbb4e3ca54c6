"""A linear classifier on features that stay as they are."""

import dataclasses
from typing import Any, ClassVar

import jax
import numpy as np

from scanmax.train.evaluators.base import (
    OnFeatures,
    feature_batches,
    gathered,
    training_features,
)


@dataclasses.dataclass(frozen=True)
class LinearProbe(OnFeatures):
    """Logistic regression on the pooled features of the training part, standardised.

    scikit-learn fits it with L-BFGS on the first process, by default at the end of the run alone.

    Attributes:
      C: weight of the summed loss against half the squared weights.
      max_iter: most iterations.
    """

    final: bool = True
    C: float = 1.0
    max_iter: int = 1000

    metric_names: ClassVar[tuple[str, ...]] = ("probe_accuracy",)

    def __post_init__(self):
        if self.C <= 0 or self.max_iter < 1:
            raise ValueError(f"C={self.C} must be above 0, max_iter={self.max_iter} at least 1")

    def __call__(self, run: Any, state: Any) -> dict[str, float]:
        train = training_features(run, state)
        held_out = gathered(run, feature_batches(run, state, run.pipeline.eval_batches()))
        accuracy = self.fit(*train, *held_out) if jax.process_index() == 0 else 0.0
        if jax.process_count() > 1:
            from jax.experimental import multihost_utils

            accuracy = float(multihost_utils.broadcast_one_to_all(np.float32(accuracy)))
        return {"probe_accuracy": accuracy}

    def fit(
        self,
        features: np.ndarray,
        labels: np.ndarray,
        other_features: np.ndarray,
        other_labels: np.ndarray,
    ) -> float:
        """Accuracy on the other features of what was fitted to these."""
        # Imported here: training without it need not wait for scikit-learn.
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        probe = make_pipeline(
            StandardScaler(), LogisticRegression(C=self.C, max_iter=self.max_iter)
        )
        probe.fit(features, labels)
        return float(np.mean(probe.predict(other_features) == other_labels))
