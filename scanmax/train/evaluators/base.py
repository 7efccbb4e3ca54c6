"""What an evaluator is given, and what it gives; and what those that read features share."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar

import jax
import numpy as np

from scanmax.errors import UserError
from scanmax.train import sharding
from scanmax.train.feed import to_device


@dataclasses.dataclass(frozen=True)
class Evaluator:
    """An evaluation by name. A subclass is one file, and one name of EVALUATORS.

    Attributes:
      final: whether it runs at the end of the run alone, being dear.

    What a subclass says of itself:
      metric_names: what it returns.
    """

    final: bool = False

    metric_names: ClassVar[tuple[str, ...]] = ()

    def __call__(self, run: Any, state: Any) -> dict[str, float]:
        """Figures of the state, by name, the same on every process; every process takes part.

        Args:
          run: the run.
          state: the training state.
        """
        raise NotImplementedError

    def check(self, run: Any, field: str) -> None:
        """Refuses a run that it cannot evaluate, before it begins.

        Args:
          run: the run.
          field: of the config, which messages begin with.

        Raises:
          UserError: why.
        """


@dataclasses.dataclass(frozen=True)
class OnFeatures(Evaluator):
    """An evaluator of pooled features that learns from the training part, augmented by nothing."""

    def check(self, run: Any, field: str) -> None:
        pipeline, model = run.pipeline, run.model
        label = pipeline.eval_spec.get("label")
        is_labelled = label is not None and getattr(pipeline, "labelled", True)
        if pipeline.kind != "image" or not is_labelled:
            raise UserError(f"{field} reads images and their labels; these data hold others")
        if not hasattr(pipeline, "train_eval_batches"):
            raise UserError(
                f"{field} reads the training part unchanged: {type(pipeline).__name__} needs a "
                "method train_eval_batches"
            )
        if not pipeline.num_eval:
            raise UserError(f"{field}: the held-out part is empty")
        name = type(model).__name__
        if not hasattr(model, "num_classes"):
            raise UserError(f"{field} reads features of a model without its head; {name} has none")
        shapes = (run.shapes.params, run.shapes.carried)
        inputs = jax.eval_shape(run.objective.inputs, dict(pipeline.eval_spec))
        found = jax.eval_shape(run.features_step, *shapes, inputs)
        if not isinstance(found, jax.ShapeDtypeStruct) or len(found.shape) != 2:
            shape = [tuple(leaf.shape) for leaf in jax.tree.leaves(found)]
            raise UserError(f"{field} reads pooled features [B, D]; {name} gives {shape}")


def feature_batches(
    run: Any, state: Any, batches: Iterable[Mapping[str, np.ndarray]]
) -> Iterator[tuple[jax.Array, dict[str, jax.Array]]]:
    """(features [B, D], batch) of each batch; features lie whole on every device.

    Args:
      run: the run.
      state: its state: what is evaluated of it.
      batches: this process's rows.
    """
    rows = sharding.batch_sharding(run.mesh)
    params = run.eval_params(state)
    for batch in batches:
        batch = to_device(batch, rows)
        yield run.features_step(params, state.carried, run.objective.inputs(batch)), batch


def training_features(run: Any, state: Any) -> tuple[np.ndarray, np.ndarray]:
    """Features [N, D] and labels [N] of the whole training part, on every process."""
    return gathered(run, feature_batches(run, state, run.pipeline.train_eval_batches()))


def gathered(
    run: Any, pairs: Iterable[tuple[jax.Array, dict[str, jax.Array]]]
) -> tuple[np.ndarray, np.ndarray]:
    """The rows of `feature_batches` that the mask keeps, and their labels."""
    whole = sharding.replicated(run.mesh)
    features, labels = [], []
    for found, batch in pairs:
        told = {name: batch[name] for name in ("label", "mask")}
        told = jax.device_get(jax.jit(_same, out_shardings=whole)(told))
        features.append(np.asarray(found, np.float32)[told["mask"]])
        labels.append(told["label"][told["mask"]])
    return np.concatenate(features), np.concatenate(labels)


def _same(tree: Any) -> Any:
    return tree
