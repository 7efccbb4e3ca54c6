"""Nearest neighbours: what the features of the training part say of a held-out image."""

import dataclasses
import functools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jaxtyping import Array, Float, Int

from scanmax.errors import UserError
from scanmax.train import sharding
from scanmax.train.evaluators.base import OnFeatures, feature_batches, training_features


@dataclasses.dataclass(frozen=True)
class Knn(OnFeatures):
    """Weighted vote of the k nearest training images by cosine similarity of pooled features.

        score_c = sum_{i in k nearest} exp(s_i / T) [y_i = c]

    Each held-out batch meets the whole training part at once: a device holds as many similarities
    as its rows of the batch have training images.

    Attributes:
      k: neighbours.
      temperature: T.

    Reference: Wu et al., Unsupervised Feature Learning via Non-Parametric Instance
      Discrimination, 2018; k and T as DINO has them.
    """

    k: int = 20
    temperature: float = 0.07

    metric_names: ClassVar[tuple[str, ...]] = ("knn_accuracy",)

    def __post_init__(self):
        if self.k < 1 or self.temperature <= 0:
            raise ValueError(f"k={self.k} must be at least 1, temperature={self.temperature} > 0")

    def check(self, run: Any, field: str) -> None:
        super().check(run, field)
        if self.k > run.pipeline.num_train:
            raise UserError(
                f"{field} asks k={self.k} neighbours; there are {run.pipeline.num_train} training "
                "images"
            )

    def __call__(self, run: Any, state: Any) -> dict[str, float]:
        bank, labels = training_features(run, state)
        whole, rows = sharding.replicated(run.mesh), sharding.batch_sharding(run.mesh)
        bank, labels = (_everywhere(part, whole) for part in (bank, labels))
        count = _compiled(self.k, self.temperature, run.pipeline.num_classes, rows, whole)
        right = total = 0.0
        for features, batch in feature_batches(run, state, run.pipeline.eval_batches()):
            found = jax.device_get(count(features, batch["label"], batch["mask"], bank, labels))
            right, total = right + float(found[0]), total + float(found[1])
        return {"knn_accuracy": right / total}


@functools.lru_cache(maxsize=8)
def _compiled(
    k: int, temperature: float, classes: int, rows: NamedSharding, whole: NamedSharding
) -> Any:
    """(features, labels, mask, bank, its labels) -> (how many are right, how many count)."""

    def count(features, labels, mask, bank, bank_labels):
        # Every device asks for its own rows.
        features = jax.lax.with_sharding_constraint(features, rows)
        votes = neighbour_votes(features, bank, bank_labels, k, temperature, classes)
        right = mask & (jnp.argmax(votes, axis=-1) == labels)
        return right.sum(), mask.sum()

    return jax.jit(count, out_shardings=whole)


def neighbour_votes(
    features: Float[Array, "B D"],
    bank: Float[Array, "N D"],
    labels: Int[Array, " N"],
    k: int,
    temperature: float,
    classes: int,
) -> Float[Array, "B C"]:
    """The score of each class: `Knn`'s equation."""
    query, key = (_unit(x.astype(jnp.float32)) for x in (features, bank))
    similarity = jnp.matmul(query, key.T, precision="highest")
    nearest, index = jax.lax.top_k(similarity, k)
    # Relative to the nearest: no exponential overflows.
    weight = jnp.exp((nearest - nearest[:, :1]) / temperature)
    return jnp.einsum("bk,bkc->bc", weight, jax.nn.one_hot(labels[index], classes))


def _unit(x: Float[Array, "N D"]) -> Float[Array, "N D"]:
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def _everywhere(array: np.ndarray, whole: NamedSharding) -> Array:
    """An array that every process holds, on every device."""
    return jax.make_array_from_process_local_data(whole, array, array.shape)
