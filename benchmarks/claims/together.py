"""Objectives and terms as the trainer has them, all seeds learned in one compiled step.

For claims on nets so small that starting runs would take longer than learning: `made` builds an
objective around a model, `learn` trains it on arrays that a claim draws batches from.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.claims import Finding
from scanmax.train.build import make_terms
from scanmax.train.config import ObjectiveConfig
from scanmax.train.objectives import OBJECTIVES, Objective
from scanmax.train.optim import matches, param_path
from scanmax.train.step import sown_sums
from scanmax.train.teachers import Teacher
from scanmax.train.transforms import transformed

SEEDS = (0, 1, 2)
TRANSIENT = ("intermediates", "losses", "metrics")
Batch = dict[str, jax.Array]


class Learned(NamedTuple):
    """What has been learned, stacked by seed.

    Attributes:
      variables: of the objective.
      figures: what was measured behind each epoch, [seeds, epochs].
    """

    variables: dict[str, Any]
    figures: np.ndarray

    @property
    def model(self) -> dict[str, Any]:
        """The model's own variables, as a teacher's are given."""
        return {name: tree["model"] for name, tree in self.variables.items() if "model" in tree}

    @property
    def found(self) -> dict[str, tuple[float, ...]]:
        """The figure of each seed, at the last epoch and at the best."""
        last, best = self.figures[:, -1], self.figures.max(axis=1)
        return {"last": tuple(map(float, last)), "best": tuple(map(float, best))}


def made(
    name: str,
    model: nn.Module,
    *,
    terms: Sequence[Any] = (),
    teachers: Sequence[nn.Module] = (),
    weight: float = 1.0,
    classes: int = 10,
    **kwargs: Any,
) -> Objective:
    """An objective around a model.

    Args:
      name: of OBJECTIVES.
      model: who learns.
      terms: as of a config.
      teachers: networks that are asked.
      weight: of the objective's own loss.
      classes: of the data.
      **kwargs: options of the objective.
    """
    config = ObjectiveConfig(name=name, weight=weight, terms=tuple(terms), kwargs=kwargs)
    terms = make_terms(config.terms)
    asked = tuple(
        Teacher(type(each).__name__, each, reads_taps=any(term.reads_taps for term in terms))
        for each in teachers
    )
    parts = {"config": config, "terms": terms, "teachers": asked, "classes": classes}
    objective = OBJECTIVES[name](model=model, **parts, **kwargs)
    objective.check()
    return objective


def batches(draw: Callable[[jax.Array, Any], Batch], data: Any, count: int = 800) -> Batch:
    """So many batches of each seed, [seeds, count, ...], for all who learn of them.

    Args:
      draw: a batch of a key and one seed's data.
      data: arrays [seeds, ...].
      count: how many.
    """

    def of_seed(key, data):
        return jax.lax.map(lambda own: draw(own, data), jax.random.split(key, count))

    keys = jnp.stack([jax.random.key(1000 + seed) for seed in SEEDS])
    return jax.jit(jax.vmap(of_seed))(keys, data)


def learn(
    objective: Objective,
    given: Batch,
    data: Any,
    measure: Callable[[Objective, dict[str, Any], Any], jax.Array],
    *,
    teachers: Sequence[Any] = (),
    start: Any = None,
    frozen: Sequence[str] = (),
    transforms: Sequence[Any] = (),
    epochs: int = 20,
    steps: int = 40,
    rate: float = 3e-3,
) -> Learned:
    """Trains an objective for all seeds at once, by AdamW along half a cosine.

    A seed is of the order of the data, the start and the batches.

    Args:
      objective: what is minimised.
      given: what `batches` gives, of which the first are learned.
      data: arrays [seeds, ...] that measures are made of.
      measure: a figure of the objective, its variables and one seed's data.
      teachers: variables of each teacher, stacked by seed.
      start: parameters of the model to begin with, stacked by seed; what it lacks is drawn.
      frozen: patterns of parameters that stay.
      transforms: of the parameters before use.
      epochs: how often it is measured.
      steps: between two measures.
      rate: of learning, at its start.
    """
    total = epochs * steps
    objective = objective.clone(total_steps=total)
    teachers, data = tuple(teachers), jax.tree.map(jnp.asarray, data)
    keys = jnp.stack([jax.random.key(seed) for seed in SEEDS])
    given = jax.tree.map(
        lambda x: x[:, :total].reshape(len(SEEDS), epochs, steps, *x.shape[2:]), given
    )
    first = jax.tree.map(lambda x: x[:, 0, 0], given)

    def begin(key, batch, teachers, start):
        names = ("params", "dropout", "objective")
        rngs = dict(zip(names, jax.random.split(key, len(names))))
        found = objective.init(rngs, batch, train=True, teachers=teachers, mutable=True)
        found = {k: v for k, v in nn.unbox(dict(found)).items() if k not in TRANSIENT}
        params, carried = found.pop("params"), found
        params["model"] = jax.tree.map(widened, params["model"])
        if start is not None:
            params = {**params, "model": overlaid(params["model"], start)}
        return params, objective.begin(params, carried)

    # What runs once is not worth a compiler's while.
    once = {"xla_backend_optimization_level": 0}
    begun = jax.jit(jax.vmap(begin), compiler_options=once)(keys, first, teachers, start)
    # One vector takes a tenth of the time to compile.
    schedule = optax.cosine_decay_schedule(rate, total)
    optimizer = optax.flatten(optax.adamw(schedule, weight_decay=0.05))

    def learning(params):
        if not frozen:
            return optimizer
        kept = jax.tree_util.tree_map_with_path(
            lambda path, _: "stays" if matches(frozen, param_path(path)) else "learns", params
        )
        parts = {"learns": optimizer, "stays": optax.set_to_zero()}
        return optax.multi_transform(parts, kept)

    def variables(params, carried):
        return {"params": transformed(transforms, params, {}), **carried}

    def train(key, begun, given, data, teachers):
        (params, carried), optimizer = begun, learning(begun[0])
        mutable = [*carried, "losses"] + ["intermediates"] * objective.reads_taps

        def loss_of(params, carried, batch, key):
            said, updates = objective.apply(
                variables(params, carried),
                batch,
                train=True,
                teachers=teachers,
                rngs={"objective": key},
                mutable=mutable,
            )
            loss = jnp.mean(sum(said.values.values()), where=batch["mask"])
            loss += sum(value for value, _ in sown_sums(updates.get("losses", {})).values())
            return loss, {name: updates.get(name, old) for name, old in carried.items()}

        def step(state, given):
            (params, moments, carried), (batch, number) = state, given
            own = jax.random.fold_in(key, number)
            slope, carried = jax.grad(loss_of, has_aux=True)(params, carried, batch, own)
            updates, moments = optimizer.update(slope, moments, params)
            params = optax.apply_updates(params, updates)
            return (params, moments, objective.after_update(params, carried, number)), None

        def epoch(state, given):
            state, _ = jax.lax.scan(step, state, given)
            return state, measure(objective, variables(state[0], state[2]), data)

        numbers = jnp.arange(total).reshape(epochs, steps)
        state = params, optimizer.init(params), carried
        state, figures = jax.lax.scan(epoch, state, (given, numbers))
        return variables(state[0], state[2]), figures

    found, figures = jax.jit(jax.vmap(train))(keys, begun, given, data, teachers)
    return Learned(found, np.asarray(figures, np.float64))


def widened(x: jax.Array) -> jax.Array:
    """What is drawn for wide nets, of deviation 0.02, as narrow ones take it to learn at once."""
    return jnp.where((x.ndim > 1) & (x.std() > 0) & (x.std() < 0.03), 7 * x, x)


def overlaid(params: Any, start: Any) -> Any:
    """Parameters, those of another tree in the place of their own."""
    if not isinstance(params, Mapping):
        return start
    return {
        name: overlaid(child, start[name]) if name in start else child
        for name, child in params.items()
    }


def each(function: Callable[..., Any], *stacked: Any) -> np.ndarray:
    """A function of each seed's part of what is stacked by seed, compiled once."""
    return jax.tree.map(np.asarray, jax.jit(jax.vmap(function))(*stacked))


def told(values: Sequence[float]) -> str:
    """The mean over the seeds, and from where to where they lie."""
    return f"{np.mean(values):.1%} ({min(values):.1%} to {max(values):.1%})"


def compared(
    what: str, name: str, found: Mapping[str, Any], others: Mapping[str, Mapping[str, Any]]
) -> list[Finding]:
    """Findings that a figure is above those of others, at the last epoch and at the best.

    Args:
      what: is measured.
      name: of who is above.
      found: by "last" and "best".
      others: likewise, by their names.
    """
    findings = []
    for other, reference in others.items():
        for when in ("last", "best"):
            own, theirs = found[when], reference[when]
            findings.append(
                Finding(
                    f"{name} and {other}, {what}, {when} epoch",
                    f"above {other}",
                    f"{told(own)}; {told(theirs)}",
                    bool(np.mean(own) > np.mean(theirs)),
                )
            )
    return findings
