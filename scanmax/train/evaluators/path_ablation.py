"""What each path of a ViT is worth: accuracy without it in the sum that the head reads."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from scanmax.errors import UserError
from scanmax.models.vision.path_ensemble import path_counts
from scanmax.models.vision.vit import VisionTransformer
from scanmax.train import sharding
from scanmax.train.evaluators.base import Evaluator
from scanmax.train.feed import to_device
from scanmax.train.step import model_variables


@dataclasses.dataclass(frozen=True)
class PathAblation(Evaluator):
    """Accuracy of held-out images where one path is left out of the sum before the last norm.

    "path_00_mixer" and "path_00_mlp" are the figures without the first block's branches, and so on;
    "path_worth" is the largest share that one of them is worth, whole - without, and "path_harm"
    the largest that one of them costs. A pass costs the model once, and its head for each path.

    Reference: vit-path-ensemble
    """

    metric_names: ClassVar[tuple[str, ...]] = ("path_worth", "path_harm")

    def check(self, run: Any, field: str) -> None:
        label = run.pipeline.eval_spec.get("label")
        if not isinstance(run.model, VisionTransformer) or label is None or label.ndim != 1:
            raise UserError(
                f"{field} reads the paths of a ViT that classifies images; this is "
                f"{type(run.model).__name__} by {run.config.objective.name!r}"
            )
        run.model.ensemble_fields(run.model.block_fields())

    def __call__(self, run: Any, state: Any) -> dict[str, float]:
        """The figures by name."""
        params, rows = run.eval_params(state), sharding.batch_sharding(run.mesh)
        whole = sharding.replicated(run.mesh)
        step = jax.jit(lambda *given: self.counts(run, *given), out_shardings=whole)
        total: Any = None
        for batch in run.pipeline.eval_batches():
            found = jax.device_get(step(params, state.carried, to_device(batch, rows)))
            total = found if total is None else jax.tree.map(np.add, total, found)
        accuracy, without = total.right / total.images, total.without / total.images
        names = [
            f"path_{index // 2:02d}_{('mixer', 'mlp')[index % 2]}" for index in range(len(without))
        ]
        worth = accuracy - without
        found = {"path_worth": max(worth.max(), 0.0), "path_harm": max(-worth.min(), 0.0)}
        return {name: float(value) for name, value in [*found.items(), *zip(names, without)]}

    def counts(self, run: Any, params: Any, carried: Any, batch: dict[str, jax.Array]):
        """The sums of a batch, rows of padding left out."""
        variables = model_variables(run.recipe.variables(params, carried))
        labels = jnp.where(batch["mask"], batch["label"], -1)
        return path_counts(run.model, variables, run.objective.inputs(batch), labels)
