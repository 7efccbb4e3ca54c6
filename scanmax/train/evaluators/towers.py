"""What two towers know: classes by their captions, and which text is whose image."""

import dataclasses
import functools
from typing import Any, ClassVar

import jax
import numpy as np
from jax.sharding import NamedSharding

from scanmax.errors import UserError
from scanmax.train import sharding
from scanmax.train.evaluators.base import Evaluator
from scanmax.train.feed import to_device


class OfTowers(Evaluator):
    """An evaluator of embeddings of the held-out part."""

    def check(self, run: Any, field: str) -> None:
        if not run.objective.gives_pairs:
            raise UserError(
                f"{field} reads images and texts in one space, such as 'clip' learns; "
                f"config.objective.name={run.config.objective.name!r} learns none"
            )
        if not run.pipeline.num_eval:
            raise UserError(f"{field}: the held-out part is empty")


@dataclasses.dataclass(frozen=True)
class ZeroShot(OfTowers):
    """The share of held-out images whose class has the nearest captions.

    A class is the direction of the mean of its captions' embeddings, which the data bring
    (`class_tokens`). Images without a class do not count.

    Source: Radford et al., Learning Transferable Visual Models From Natural Language Supervision,
      2021.
    """

    metric_names: ClassVar[tuple[str, ...]] = ("zero_shot_accuracy",)

    def check(self, run: Any, field: str) -> None:
        super().check(run, field)
        if getattr(run.pipeline, "class_tokens", None) is None:
            raise UserError(f"{field} reads captions of each class; these data hold none")

    def __call__(self, run: Any, state: Any) -> dict[str, float]:
        image, _, told = embeddings(run, state)
        _, name = _compiled(run.model, sharding.replicated(run.mesh))
        vectors = name(run.model_variables(state), run.pipeline.class_tokens)
        right = (image @ np.asarray(vectors).T).argmax(axis=1) == told["label"]
        return {"zero_shot_accuracy": float(right[told["label"] >= 0].mean())}


@dataclasses.dataclass(frozen=True)
class Retrieval(OfTowers):
    """How often an image finds what is said of it among all held-out texts, and the other way.

    Found is found among the first k; equal texts are as good as the own one. Of equal similarities
    a wrong one counts as nearer.

    Attributes:
      k: how many are looked at.
    """

    k: int = 1

    def __post_init__(self):
        if self.k < 1:
            raise ValueError(f"k={self.k} must be at least 1")

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Both ways, by k."""
        return (f"image_to_text_recall_{self.k}", f"text_to_image_recall_{self.k}")

    def __call__(self, run: Any, state: Any) -> dict[str, float]:
        image, text, told = embeddings(run, state)
        _, same = np.unique(told["tokens"], axis=0, return_inverse=True)
        same = same.reshape(-1)
        recalls = (recall(image, text, same, self.k), recall(text, image, same, self.k))
        return dict(zip(self.metric_names, recalls))


def recall(queries: np.ndarray, keys: np.ndarray, same: np.ndarray, k: int) -> float:
    """The share of queries of which one that belongs to it is among its k nearest keys.

    Args:
      queries: [N, E] unit vectors.
      keys: [N, E].
      same: [N] numbers; those of equal numbers belong together.
      k: how many.
    """
    found = 0
    # A row at a time: all similarities at once are the square of the held-out part.
    for query, own in zip(queries, same):
        near = keys @ query
        is_own = same == own
        found += int((near[~is_own] >= near[is_own].max()).sum() < k)
    return found / len(queries)


def embeddings(run: Any, state: Any) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Embeddings [N, E] of the held-out images and texts, and their "tokens" and "label"."""
    rows, whole = sharding.batch_sharding(run.mesh), sharding.replicated(run.mesh)
    (embed, _), variables = _compiled(run.model, whole), run.model_variables(state)
    parts = []
    for batch in run.eval_batches():
        found = jax.device_get(embed(variables, to_device(batch, rows)))
        keep = found.pop("mask")
        parts.append({name: values[keep] for name, values in found.items()})
    told = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return told.pop("image"), told.pop("text"), told


@functools.lru_cache(maxsize=8)
def _compiled(model: Any, whole: NamedSharding) -> Any:
    """(variables, batch) -> its embeddings, tokens, labels and mask, and (variables, class_tokens)
    -> vectors of classes, on every device."""

    def embed(variables, batch):
        found = model.apply(variables, batch["image"], tokens=batch["tokens"])
        told = {name: batch[name] for name in ("tokens", "label", "mask")}
        return {"image": found.image, "text": found.text, **told}

    def name(variables, class_tokens):
        return model.apply(variables, class_tokens, method="class_vectors")

    return jax.jit(embed, out_shardings=whole), jax.jit(name, out_shardings=whole)
