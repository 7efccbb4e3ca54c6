"""Runs of the trainer's own step on small tasks: three seeds and all their steps in one call.

What claims of losses, mixings and objectives share. Every figure stands twice, of the last epoch
and of the best.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.claims import Finding
from benchmarks.claims.few_digits import digits, places
from benchmarks.claims.together import told
from scanmax.train.config import Config, ObjectiveConfig
from scanmax.train.gradients import GRADIENTS
from scanmax.train.mixing import MIXES
from scanmax.train.objectives import OBJECTIVES, Objective
from scanmax.train.state import TRANSIENT, TrainState
from scanmax.train.step import Recipe, train_step

SEEDS = (0, 1, 2)
EPOCHS, STEPS, ROWS = 20, 50, 32
# Of such small nets a thousand steps are a second, and compiling them would be twenty.
GENERATOR, QUICKLY = "unsafe_rbg", {"xla_backend_optimization_level": "1"}
# Of the digits' pixels where they are from -1 to 1.
MEAN, DEVIATION = -0.39, 0.75

PROGRAMS: dict[str, Callable[..., Any]] = {}

Data = dict[str, jax.Array]
Scores = Mapping[str, tuple[float, ...]]


class Net(nn.Module):
    """Patches of 2 x 2, all of them mixed, a head.

    Attributes:
      num_classes: 0 is without a head.
      width: of the patches; four times that of the vector behind them.
      prior: how likely each class is by the head's bias at the start; 0 leaves it at 0.
    """

    num_classes: int = 10
    width: int = 16
    prior: float = 0.0

    @nn.compact
    def __call__(self, images, train=False):
        rows = images.shape[0]
        patches = images.reshape(rows, 4, 2, 4, 2).transpose(0, 1, 3, 2, 4).reshape(rows, 4, 4, 4)
        found = nn.relu(nn.Dense(self.width, name="patches")(patches))
        vector = nn.relu(nn.Dense(4 * self.width, name="mix")(found.reshape(rows, -1)))
        if not self.num_classes:
            return vector
        start = np.log(self.prior / (1 - self.prior)) if self.prior else 0.0
        bias = nn.initializers.constant(start)
        return nn.Dense(self.num_classes, bias_init=bias, name="head")(vector)


class Learned(NamedTuple):
    """What runs of three seeds come to.

    Attributes:
      variables: at the end, by seed.
      scores: of each seed by epoch, by the score's name.
    """

    variables: Any
    scores: Mapping[str, np.ndarray]

    def at(self, name: str) -> dict[str, tuple[float, ...]]:
        """A score of each seed, at the last epoch and at the best."""
        values = self.scores[name]
        return {
            "last": tuple(float(own[-1]) for own in values),
            "best": tuple(float(own.max()) for own in values),
        }


def objective_of(
    model: nn.Module, name: str = "classification", classes: int = 10, **fields: Any
) -> Objective:
    """An objective as a config names it.

    Args:
      model: the network.
      name: of OBJECTIVES.
      classes: how many.
      **fields: of ObjectiveConfig; "kwargs" are options of the objective.
    """
    config = ObjectiveConfig(name=name, **fields)
    kind = OBJECTIVES[name]
    objective = kind(model=model, config=config, classes=classes, **config.kwargs)
    objective.check()
    return objective


def begun(objective: Objective, key: jax.Array, batch: Data) -> tuple[Any, dict[str, Any]]:
    """Parameters and what is carried, at the start."""
    keys = dict(zip(("params", "dropout", "objective"), jax.random.split(key, 3)))
    variables = nn.unbox(objective.init(keys, batch, train=True, mutable=True))
    params = variables["params"]
    carried = {name: own for name, own in variables.items() if name not in TRANSIENT}
    return params, objective.begin(params, carried)


def learn(
    objective: Objective,
    data: Data,
    draw: Callable[[jax.Array, Data], Data],
    score: Callable[[Objective, Any, Data], dict[str, jax.Array]],
    *,
    mixes: Sequence[tuple[str, dict[str, Any]]] = (),
    gradient: tuple[str, dict[str, Any]] = ("plain", {}),
    teachers: Any = (),
    epochs: int = EPOCHS,
    steps: int = STEPS,
    rate: float = 2e-3,
) -> Learned:
    """Trains three seeds, each of its own data, start and batches.

    Args:
      objective: what is minimised.
      data: arrays of which the first axis is that of the seeds, in turn where it is longer.
      draw: a batch of a seed's data.
      score: figures of the objective's variables on a seed's data, after every epoch.
      mixes: as of `config.mix`.
      gradient: a name of GRADIENTS, and its options.
      teachers: variables of the objective's teachers, by seed.
      epochs: how often it is scored.
      steps: of an epoch.
      rate: of AdamW at its highest, from where it falls as a cosine.
    """
    total = epochs * steps
    objective = objective.clone(total_steps=total)
    made = [MIXES[name](classes=objective.classes, **options) for name, options in mixes]
    recipe = Recipe(objective, made, GRADIENTS[gradient[0]](**gradient[1]))
    schedule = optax.warmup_cosine_decay_schedule(0.0, rate, total // 20, total)
    optimizer = optax.adamw(schedule, weight_decay=0.05)
    own = {"recipe": recipe, "optimizer": optimizer, "schedule": schedule, "config": Config()}

    def run(key, data, teachers):
        start, inner, outer = jax.random.split(key, 3)
        params, carried = begun(objective, start, draw(start, data))
        moments, rng = optimizer.init(params), jax.random.key_data(inner)
        state = TrainState(jnp.zeros((), jnp.int32), params, carried, moments, {}, rng)

        def step(state, key):
            return train_step(state, draw(key, data), teachers, **own)[0], None

        def epoch(state, keys):
            state, _ = jax.lax.scan(step, state, keys)
            return state, score(objective, recipe.variables(state.params, state.carried), data)

        keys = jax.random.split(outer, (epochs, steps))
        state, scores = jax.lax.scan(epoch, state, keys)
        return recipe.variables(state.params, state.carried), scores

    # Runs that differ in their data alone are compiled once.
    parts = (objective, draw.__name__, score.__name__, mixes, gradient, epochs, steps, rate)
    with jax.default_prng_impl(GENERATOR):
        runs = len(jax.tree.leaves(data)[0])
        keys = jnp.stack([jax.random.key(SEEDS[run % len(SEEDS)]) for run in range(runs)])
        compiled = jax.jit(jax.vmap(run), compiler_options=QUICKLY)
        train = PROGRAMS.setdefault(repr(parts), compiled)
        variables, scores = train(keys, data, teachers)
    return Learned(variables, {k: np.asarray(v, np.float64) for k, v in scores.items()})


def stacked(make: Callable[[int], Data]) -> Data:
    """The data of all seeds."""
    return jax.tree.map(lambda *parts: jnp.stack(parts), *map(make, SEEDS))


def standard(images: jax.Array) -> jax.Array:
    """Of mean 0 and deviation 1, from pixels of -1 to 1."""
    return (images - MEAN) / DEVIATION


@functools.cache
def few(learned: int, wrong: float = 0.0) -> Data:
    """Digits to learn from, at nine places each, and 397 that are held out.

    Args:
      learned: how many; all are 1400.
      wrong: share of their labels that is another class, any.
    """

    def make(seed):
        images, labels = digits(seed)
        rng = np.random.default_rng(1000 + seed)
        moved = (np.asarray(labels[:learned]) + rng.integers(1, 10, learned)) % 10
        own = np.where(rng.random(learned) < wrong, moved, labels[:learned])
        return {
            "placed": standard(places(images[:learned])),
            "label": jnp.asarray(own),
            "held": standard(images[1400:]),
            "held_label": labels[1400:],
        }

    return stacked(make)


def any_place(key: jax.Array, data: Data, rows: int = ROWS) -> Data:
    """A batch of digits, each moved by up to a pixel."""
    which, place = jax.random.split(key)
    index = jax.random.randint(which, (rows,), 0, len(data["label"]))
    at = jax.random.randint(place, (rows,), 0, data["placed"].shape[1])
    return {"image": data["placed"][index, at], "label": data["label"][index]}


def accuracy(objective: Objective, variables: Any, data: Data) -> dict[str, jax.Array]:
    """Of the digits that are held out."""
    batch = {"image": data["held"], "label": data["held_label"]}
    found = objective.apply(variables, batch, method="evaluate")
    return {"accuracy": jnp.mean(found["accuracy"].astype(jnp.float32))}


def above(what: str, own: Scores, name: str, other: Scores, by: str = "above") -> list[Finding]:
    """Findings that the mean over the seeds is above another, at the last epoch and at the best.

    Args:
      what: is measured.
      own: by "last" and "best".
      name: of what it is held against.
      other: likewise.
      by: the paper's word for it.
    """
    return [
        Finding(
            f"{what}, {when} epoch",
            f"{by} {name}",
            f"{told(own[when])}; {name} {told(other[when])}",
            bool(np.mean(own[when]) > np.mean(other[when])),
        )
        for when in ("last", "best")
    ]
