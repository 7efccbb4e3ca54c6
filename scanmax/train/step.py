"""The compiled steps: training with accumulation, evaluation with exact sums, prediction."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from scanmax.train import sharding
from scanmax.train.config import Config
from scanmax.train.gradients import GradientRule, StepLoss
from scanmax.train.gradients.plain import Plain
from scanmax.train.metrics import Sums, masked_sums
from scanmax.train.mixing import Mix
from scanmax.train.objectives import Batch, Objective
from scanmax.train.schedules import Schedule
from scanmax.train.state import TrainState
from scanmax.train.transforms import Transform, transformed

# Folded into a step's key for random numbers that are not the model's own.
MIXING, RULE, LEARNING = 2**31 - 3, 2**31 - 2, 2**31 - 1


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What hangs on the plug points of a run.

    Attributes:
      objective: what is minimised, around the model.
      mixes: changes of a batch on the device, in order.
      gradient: how a step comes by its gradient.
      transforms: changes of the parameters before use, in order.
      finish: what becomes of a training batch before all else; None is nothing.
    """

    objective: Objective
    mixes: Sequence[Mix] = ()
    gradient: GradientRule = dataclasses.field(default_factory=Plain)
    transforms: Sequence[Transform] = ()
    finish: Callable[[Batch], Batch] | None = None

    def variables(self, params: Any, carried: dict[str, Any]) -> dict[str, Any]:
        """What the objective is applied to."""
        return {"params": transformed(self.transforms, params, carried), **carried}

    def guide(self, mix: Mix, variables: dict[str, Any], batch: Batch, teachers: Any) -> jax.Array:
        """[B, Y, X], where the first teacher, or else the model, finds something."""
        objective = self.objective
        inputs = objective.inputs(batch)
        if objective.teachers:
            model, variables = objective.teachers[0].model, teachers[0]
            inputs = objective.teachers[0].prepare(inputs)
        else:
            model, variables = objective.model, model_variables(variables)
        return mix.guide(model, variables, inputs, batch["label"])


def model_variables(variables: dict[str, Any]) -> dict[str, Any]:
    """The model's own part of an objective's variables: parameters and batch statistics."""
    return {
        name: variables[name]["model"]
        for name in ("params", "batch_stats")
        if "model" in variables.get(name, {})
    }


def ema_decay(decay: float, warmup: bool, step: jax.Array) -> jax.Array:
    """The share of the average that update `step` (from 0) keeps."""
    if not warmup:
        return jnp.asarray(decay, jnp.float32)
    return jnp.minimum(decay, (1.0 + step) / (10.0 + step)).astype(jnp.float32)


def example_mask(batch: Batch) -> jax.Array:
    """The batch's mask, [B]; without one every row counts."""
    rows = jax.tree.leaves(batch)[0].shape[0]
    return batch.get("mask", jnp.ones((rows,), bool))


def train_step(
    state: TrainState,
    batch: Batch,
    teachers: Any,
    *,
    recipe: Recipe,
    optimizer: optax.GradientTransformation,
    schedule: Schedule,
    config: Config,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One update. The loss is the mean over the examples (or tokens) that the mask keeps.

    What the model sows into its collection "losses", such as a router's load balance, is added, and
    is a metric of its own by its name, summed over layers. What it sows into "metrics" is averaged
    over layers.
    With accumulation the parts' gradients are summed, each already divided by the whole batch's
    weight: the update is that of the whole batch, whatever the mask.
    """
    objective = recipe.objective
    if recipe.finish is not None:
        batch = recipe.finish(batch)
    batch = without_padding(batch)
    key = jax.random.fold_in(jax.random.wrap_key_data(state.rng), state.step)
    mix_key = jax.random.fold_in(key, MIXING)
    for index, mix in enumerate(recipe.mixes):
        guide = None
        if mix.guided:
            variables = recipe.variables(state.params, state.carried)
            guide = recipe.guide(mix, variables, batch, teachers)
        batch = mix(jax.random.fold_in(mix_key, index), batch, guide)

    def weight_of(part: Batch) -> jax.Array:
        return jnp.sum(example_mask(part).astype(jnp.float32))

    total = jnp.maximum(weight_of(batch), 1.0)
    mutable = [*state.carried, "losses", "metrics"]
    mutable += ["intermediates"] if objective.reads_taps else []

    def loss_of(params, carried, part, part_key):
        found, updates = objective.apply(
            recipe.variables(params, carried),
            part,
            train=True,
            teachers=teachers,
            rngs={"dropout": part_key, "objective": jax.random.fold_in(part_key, LEARNING)},
            mutable=mutable,
        )
        mask = example_mask(part)
        # Mean over tokens of one example, sum over examples, share of the whole batch.
        means = {
            name: values.reshape(values.shape[0], -1).mean(axis=1)
            for name, values in found.values.items()
        }
        loss = jnp.sum(jnp.where(mask, sum(means.values()), 0.0)) / total
        # A sown loss is a mean over the part, which counts by its share of the batch.
        share = weight_of(part) / total
        extra = sown_sums(updates.get("losses", {}))
        loss = loss + share * sum(value for value, _ in extra.values())
        figures = {name: share * value for name, (value, _) in extra.items()}
        for name, (value, count) in sown_sums(updates.get("metrics", {})).items():
            figures[name] = share * value / count
        if len(means) > 1:
            for name, values in means.items():
                figures[f"loss_{name}"] = jnp.sum(jnp.where(mask, values, 0.0)) / total
        sums = masked_sums(found.metrics, mask)
        carried = {name: updates.get(name, kept) for name, kept in carried.items()}
        return loss, (carried, (sums, figures))

    loss = StepLoss(loss_of, state.carried, batch, key, config.optim.accumulate)
    (value, (carried, (sums, figures))), grads = recipe.gradient(
        loss, state.params, jax.random.fold_in(key, RULE)
    )
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    done = updates_done(state)
    ema = state.ema
    if config.ema.decay:
        keep = ema_decay(config.ema.decay, config.ema.warmup, done)
        ema = jax.tree.map(lambda old, new: keep * old + (1 - keep) * new, ema, params)
    metrics = figures | {
        "loss": value,
        **{name: total / jnp.maximum(weight, 1.0) for name, (total, weight) in sums.items()},
        "grad_norm": optax.tree.norm(grads),
        "lr": schedule(done),
    }
    new_state = TrainState(
        step=state.step + 1,
        params=params,
        carried=objective.after_update(params, carried, state.step),
        opt_state=opt_state,
        ema=ema,
        rng=state.rng,
    )
    metrics["finite"] = is_finite(new_state)
    if config.optim.nonfinite == "skip":
        new_state, metrics = skip_nonfinite(state, new_state, metrics)
    return new_state, metrics


def sown_sums(collection: Any) -> dict[str, tuple[jax.Array, int]]:
    """By the name under which modules sowed it: the sum over modules and layers, and how many."""
    found: dict[str, tuple[jax.Array, int]] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(collection):
        # A sown value is a tuple; its name is what stands before the index.
        name = [entry.key for entry in path if isinstance(entry, jax.tree_util.DictKey)][-1]
        value, count = found.get(name, (0.0, 0))
        found[name] = (value + jnp.sum(leaf), count + leaf.size)
    return found


def skip_nonfinite(
    old: TrainState, new: TrainState, metrics: dict[str, jax.Array]
) -> tuple[TrainState, dict[str, jax.Array]]:
    """The new state where it, loss and gradient are finite, else the old one a step further.

    The optimizer's own count stands still too: a skipped step is one that never was. The metric
    `skipped` says which.
    """
    is_good = metrics["finite"]
    is_good &= jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["grad_norm"])
    kept = jax.tree.map(lambda before, after: jnp.where(is_good, after, before), old, new)
    return kept.replace(step=new.step), {**metrics, "skipped": 1.0 - is_good.astype(jnp.float32)}


def is_finite(state: TrainState) -> jax.Array:
    """Whether a state may be gone on from: all of it finite, and the parameters' norm as well.

    Parameters whose squares overflow give no loss, however finite each of them is.
    """
    rest = (state.carried, state.opt_state, state.ema)
    leaves = [x for x in jax.tree.leaves(rest) if jnp.issubdtype(x.dtype, jnp.inexact)]
    # Zero times anything finite is zero: on CPU a third of the time of asking each number.
    zeros = [jnp.sum(leaf * 0).astype(jnp.float32) for leaf in leaves]
    return jnp.isfinite(sum(zeros, optax.tree.norm(state.params)))


def updates_done(state: TrainState) -> jax.Array:
    """Updates that were not skipped: what the optimizer's schedule counts."""

    def is_schedule(node):
        return isinstance(node, optax.ScaleByScheduleState)

    nodes = jax.tree.leaves(state.opt_state, is_leaf=is_schedule)
    counts = [node.count for node in nodes if is_schedule(node)]
    return counts[0] if counts else state.step


def without_padding(batch: Batch) -> Batch:
    """The batch with zeros in the rows that its mask leaves out, whatever they held.

    A row without weight still has a gradient, zero times what it gives, and zero times NaN is NaN.
    """
    if "mask" not in batch:
        return batch
    mask = batch["mask"]

    def blank(rows):
        keep = mask.reshape(mask.shape + (1,) * (rows.ndim - mask.ndim))
        return jnp.where(keep, rows, jnp.zeros((), rows.dtype))

    return jax.tree.map(blank, batch)


def eval_step(params: Any, carried: dict[str, Any], batch: Batch, *, recipe: Recipe) -> Sums:
    """Sums of the metrics over the rows that the mask keeps; divide once, at the end."""
    batch = without_padding(batch)
    variables = recipe.variables(params, carried)
    values = recipe.objective.apply(variables, batch, method="evaluate")
    return masked_sums(values, example_mask(batch))


def predict_step(
    params: Any, carried: dict[str, Any], batch: Batch, *, recipe: Recipe
) -> dict[str, jax.Array]:
    """What the objective predicts beside the batch itself, whole on every process."""
    variables = recipe.variables(params, carried)
    predicted = recipe.objective.apply(variables, batch, method="predict")
    return {**predicted, **batch, "mask": example_mask(batch)}


def features_step(
    params: Any, carried: dict[str, Any], images: jax.Array, *, recipe: Recipe
) -> jax.Array:
    """The model's pooled features [B, D], without its head."""
    model = recipe.objective.model.clone(num_classes=0)
    return model.apply(model_variables(recipe.variables(params, carried)), images)


def compile_steps(
    recipe: Recipe,
    optimizer: optax.GradientTransformation,
    schedule: Schedule,
    config: Config,
    shardings: TrainState,
    mesh: Mesh,
) -> dict[str, Callable[..., Any]]:
    """Jits train_step, eval_step, predict_step and features_step.

    The training state is donated: it is updated in place.
    """
    whole, rows = sharding.replicated(mesh), sharding.batch_sharding(mesh)

    def train(state, batch, teachers):
        return train_step(
            state,
            batch,
            teachers,
            recipe=recipe,
            optimizer=optimizer,
            schedule=schedule,
            config=config,
        )

    def evaluate(params, carried, batch):
        return eval_step(params, carried, batch, recipe=recipe)

    def predict(params, carried, batch):
        return predict_step(params, carried, batch, recipe=recipe)

    def features(params, carried, images):
        return features_step(params, carried, images, recipe=recipe)

    weights = (shardings.params, shardings.carried, rows)
    return {
        "train_step": jax.jit(
            train,
            donate_argnums=0,
            in_shardings=(shardings, rows, None),
            out_shardings=(shardings, whole),
        ),
        "eval_step": jax.jit(evaluate, in_shardings=weights, out_shardings=whole),
        "predict_step": jax.jit(predict, in_shardings=weights, out_shardings=whole),
        "features_step": jax.jit(features, in_shardings=weights, out_shardings=whole),
    }
