"""Clusters of the held-out part, and how many there seem to be."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scanmax.errors import UserError
from scanmax.fields import ranged
from scanmax.train import sharding
from scanmax.train.clustering import cluster_count, clustering_accuracy, spectral_labels
from scanmax.train.evaluators.base import Evaluator
from scanmax.train.feed import to_device


@dataclasses.dataclass(frozen=True)
class Clustering(Evaluator):
    """Accuracy of clusters of held-out images, each by the class that fits it best.

    Of the objective `rate_reduction`: spectral clustering of the memberships of the whole held-out
    part, as many clusters as classes; of `candidates` the number is told whose clusters have the
    least coding length. Memory grows with the square of the held-out part.

    Attributes:
      candidates: numbers of clusters, of which the likeliest is "clusters"; () tells none.
      seed: of k-means.

    Reference: cpp-rate-reduction-clustering
    """

    candidates: tuple[int, ...] = ranged((), "[1, inf)")
    seed: int = 0

    @property
    def metric_names(self) -> tuple[str, ...]:
        """The accuracy, and the number of clusters where candidates are given."""
        return ("clustering_accuracy", *(("clusters",) if self.candidates else ()))

    def check(self, run: Any, field: str) -> None:
        if not hasattr(run.objective, "membership"):
            raise UserError(
                f"{field} reads memberships, which config.objective.name='rate_reduction' has; "
                f"{run.config.objective.name!r} has none"
            )
        if run.pipeline.eval_spec.get("label") is None or not getattr(
            run.pipeline, "labelled", True
        ):
            raise UserError(f"{field} reads labels; these data hold none")
        if run.pipeline.num_eval < max(self.candidates, default=run.pipeline.num_classes):
            raise UserError(
                f"{field} asks for more clusters than the {run.pipeline.num_eval} held-out images"
            )

    def __call__(self, run: Any, state: Any) -> dict[str, float]:
        z, c, labels = self.vectors(run, state)
        membership = np.asarray(run.objective.membership(jnp.asarray(c)))
        found = spectral_labels(membership, run.pipeline.num_classes, self.seed)
        figures = {"clustering_accuracy": clustering_accuracy(found, labels)}
        if self.candidates:
            precision = run.objective.precision
            given = {"precision": precision, "seed": self.seed}
            figures["clusters"] = float(cluster_count(membership, z, self.candidates, **given)[0])
        return figures

    def vectors(self, run: Any, state: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """z, c and labels of the held-out part, whole on every process."""
        rows, found = sharding.batch_sharding(run.mesh), []
        for batch in run.eval_batches():
            told = run.predict_step(run.eval_params(state), state.carried, to_device(batch, rows))
            told = jax.device_get({name: told[name] for name in ("z", "c", "label", "mask")})
            found.append([told[name][told["mask"]] for name in ("z", "c", "label")])
        return tuple(np.concatenate(parts) for parts in zip(*found))
