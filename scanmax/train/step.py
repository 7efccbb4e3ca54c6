"""The compiled steps: training with accumulation, evaluation with exact sums, prediction."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from scanmax.train import sharding
from scanmax.train.config import Config
from scanmax.train.metrics import Sums, masked_sums
from scanmax.train.schedules import Schedule
from scanmax.train.state import TrainState
from scanmax.train.tasks import Batch, example_mask


def ema_decay(decay: float, warmup: bool, step: jax.Array) -> jax.Array:
    """The share of the average that update `step` (from 0) keeps."""
    if not warmup:
        return jnp.asarray(decay, jnp.float32)
    return jnp.minimum(decay, (1.0 + step) / (10.0 + step)).astype(jnp.float32)


def split_batch(batch: Batch, parts: int) -> Batch:
    """Cuts [B, ...] into [parts, B / parts, ...] such that every device keeps its rows."""
    return jax.tree.map(
        lambda x: jnp.moveaxis(x.reshape(x.shape[0] // parts, parts, *x.shape[1:]), 1, 0), batch
    )


def train_step(
    state: TrainState,
    batch: Batch,
    teacher_variables: Any,
    *,
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    schedule: Schedule,
    task: Any,
    config: Config,
    teacher: nn.Module | None = None,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One update. The loss is the mean over the examples (or tokens) that the mask keeps.

    What the model sows into its collection "losses", such as a router's load balance, is added, and
    is a metric of its own by its name, summed over layers. What it sows into "metrics" is averaged
    over layers.
    With accumulation the parts' gradients are summed, each already divided by the whole batch's
    weight: the update is that of the whole batch, whatever the mask.
    """
    parts = config.optim.accumulate
    key = jax.random.fold_in(jax.random.wrap_key_data(state.rng), state.step)

    def weight_of(part: Batch) -> jax.Array:
        return jnp.sum(example_mask(part).astype(jnp.float32))

    total = jnp.maximum(weight_of(batch), 1.0)

    def loss_of(params, batch_stats, part, part_key):
        variables = {"params": params, **({"batch_stats": batch_stats} if batch_stats else {})}
        outputs, updates = model.apply(
            variables,
            task.inputs(part),
            train=True,
            rngs={"dropout": part_key},
            mutable=["batch_stats", "losses", "metrics"],
        )
        teacher_logits = None
        if teacher is not None:
            teacher_logits = teacher.apply(teacher_variables, task.inputs(part))
            teacher_logits = jax.lax.stop_gradient(task.logits(teacher_logits))
        values = task.train_losses(outputs, part, teacher_logits)
        # Mean over tokens of one example, sum over examples, share of the whole batch.
        values = values.reshape(values.shape[0], -1).mean(axis=1)
        mask = example_mask(part)
        loss = jnp.sum(jnp.where(mask, values, 0.0)) / total
        # A sown loss is a mean over the part, which counts by its share of the batch.
        share = weight_of(part) / total
        extra = sown_sums(updates.get("losses", {}))
        loss = loss + share * sum(value for value, _ in extra.values())
        figures = {name: share * value for name, (value, _) in extra.items()}
        for name, (value, count) in sown_sums(updates.get("metrics", {})).items():
            figures[name] = share * value / count
        sums = masked_sums(task.values(task.logits(outputs), part), mask)
        return loss, (updates.get("batch_stats", {}), sums["accuracy"], figures)

    gradient = jax.value_and_grad(loss_of, has_aux=True)
    if parts == 1:
        (loss, (batch_stats, accuracy, figures)), grads = gradient(
            state.params, state.batch_stats, batch, key
        )
    else:

        def body(carry, indexed_part):
            batch_stats, sums = carry
            index, part = indexed_part
            (loss, (batch_stats, accuracy, figures)), grads = gradient(
                state.params, batch_stats, part, jax.random.fold_in(key, index)
            )
            new = (loss, accuracy, figures, grads)
            return (batch_stats, jax.tree.map(jnp.add, sums, new)), None

        cut = split_batch(batch, parts)
        first = jax.tree.map(lambda rows: rows[0], cut)
        figures = jax.eval_shape(gradient, state.params, state.batch_stats, first, key)[0][1][2]
        zero = jnp.zeros((), jnp.float32)
        zeros = (
            zero,
            (zero, zero),
            jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), figures),
            jax.tree.map(jnp.zeros_like, state.params),
        )
        (batch_stats, (loss, accuracy, figures, grads)), _ = jax.lax.scan(
            body, (state.batch_stats, zeros), (jnp.arange(parts), cut)
        )

    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema = state.ema
    if config.ema.decay:
        keep = ema_decay(config.ema.decay, config.ema.warmup, state.step)
        ema = jax.tree.map(lambda old, new: keep * old + (1 - keep) * new, ema, params)
    metrics = figures | {
        "loss": loss,
        "accuracy": accuracy[0] / jnp.maximum(accuracy[1], 1.0),
        "grad_norm": optax.tree.norm(grads),
        "lr": schedule(state.step),
    }
    new_state = TrainState(
        step=state.step + 1,
        params=params,
        batch_stats=batch_stats,
        opt_state=opt_state,
        ema=ema,
        rng=state.rng,
    )
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
    """The new state where loss and gradient are finite, else the old one a step further.

    The optimizer's own count stands still too: a skipped step is one that never was. The metric
    `skipped` says which.
    """
    is_good = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["grad_norm"])
    kept = jax.tree.map(lambda before, after: jnp.where(is_good, after, before), old, new)
    return kept.replace(step=new.step), {**metrics, "skipped": 1.0 - is_good.astype(jnp.float32)}


def eval_step(params: Any, batch_stats: Any, batch: Batch, *, model: nn.Module, task: Any) -> Sums:
    """Sums of the metrics over the rows that the mask keeps; divide once, at the end."""
    outputs = _predict(params, batch_stats, batch, model, task)
    return masked_sums(task.values(outputs, batch), example_mask(batch))


def predict_step(
    params: Any, batch_stats: Any, batch: Batch, *, model: nn.Module, task: Any
) -> dict[str, jax.Array]:
    """Probabilities beside the batch itself, whole on every process."""
    logits = task.logits(_predict(params, batch_stats, batch, model, task))
    probability = jax.nn.softmax(logits.astype(jnp.float32))
    return {"probability": probability, **batch, "mask": example_mask(batch)}


def _predict(params, batch_stats, batch, model, task):
    variables = {"params": params, **({"batch_stats": batch_stats} if batch_stats else {})}
    return model.apply(variables, task.inputs(batch))


def compile_steps(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    schedule: Schedule,
    task: Any,
    config: Config,
    shardings: TrainState,
    mesh: Mesh,
    teacher: nn.Module | None = None,
) -> tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]:
    """Jits (train, evaluate, predict). The training state is donated: it is updated in place."""
    whole, rows = sharding.replicated(mesh), sharding.batch_sharding(mesh)

    def train(state, batch, teacher_variables):
        return train_step(
            state,
            batch,
            teacher_variables,
            model=model,
            optimizer=optimizer,
            schedule=schedule,
            task=task,
            config=config,
            teacher=teacher,
        )

    def evaluate(params, batch_stats, batch):
        return eval_step(params, batch_stats, batch, model=model, task=task)

    def predict(params, batch_stats, batch):
        return predict_step(params, batch_stats, batch, model=model, task=task)

    weights = (shardings.params, shardings.batch_stats, rows)
    return (
        jax.jit(
            train,
            donate_argnums=0,
            in_shardings=(shardings, rows, None),
            out_shardings=(shardings, whole),
        ),
        jax.jit(evaluate, in_shardings=weights, out_shardings=whole),
        jax.jit(predict, in_shardings=weights, out_shardings=whole),
    )
