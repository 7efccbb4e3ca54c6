"""How much a student hears a teacher of partly wrong labels, learned on what is held out.

400 digits, three seeds; the teacher learned them with two fifths of the labels wrong, the student
has the right ones.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from benchmarks.claims import Finding, claim
from benchmarks.claims.few_digits_runs import (
    EPOCHS,
    QUICKLY,
    STEPS,
    Net,
    accuracy,
    any_place,
    few,
    learn,
    objective_of,
)
from benchmarks.claims.together import SEEDS, compared, made
from scanmax.train.config import Config
from scanmax.train.gradients import GRADIENTS
from scanmax.train.state import TRANSIENT, TrainState
from scanmax.train.step import Recipe, train_step

LEARNED, WRONG, TEACHER = 400, 0.4, Net(10, 32)
OPTIONS = {"temperature": 4.0}
WHAT = f"held-out digits of {LEARNED} learned, the teacher's labels {WRONG:.0%} wrong"
# Weights of the labels and of terms beside them, and how the gradient is found.
WAYS: dict[str, tuple[float, tuple[Any, ...], str]] = {
    "tgeo_kd": (0.0, (("tgeo_kd", OPTIONS),), "unrolled"),
    "a share of 0.5": (0.5, (("kd", {**OPTIONS, "weight": 0.5}),), "plain"),
    "labels alone": (1.0, (), "plain"),
}


@functools.cache
def teacher() -> Any:
    """Variables of nets that learned partly wrong labels, by seed."""
    learned = learn(objective_of(TEACHER), few(LEARNED, WRONG), any_place, accuracy)
    return {"params": learned.variables["params"]["model"]}


@functools.cache
def student(name: str) -> tuple[dict[str, tuple[float, ...]], np.ndarray]:
    """Accuracies of each seed, last and best; and the shares where the teacher is right and wrong.

    The shares are [seeds, 2], none where a term learns none.
    """
    weight, terms, gradient = WAYS[name]
    total = EPOCHS * STEPS
    teachers = (TEACHER,) if terms else ()
    objective = made("classification", Net(10, 16), terms=terms, teachers=teachers, weight=weight)
    objective = objective.clone(total_steps=total)
    recipe = Recipe(objective, gradient=GRADIENTS[gradient]())
    schedule = optax.warmup_cosine_decay_schedule(0.0, 2e-3, total // 20, total)
    optimizer = optax.adamw(schedule, weight_decay=0.05)
    own = {"recipe": recipe, "optimizer": optimizer, "schedule": schedule, "config": Config()}

    def run(key, data, told):
        start, inner, outer = jax.random.split(key, 3)
        given = (told,) if terms else ()
        rngs = dict(zip(("params", "objective"), jax.random.split(start)))
        found = objective.init(rngs, any_place(start, data), True, given, mutable=True)
        found = nn.unbox(dict(found))
        params = found["params"]
        carried = {name: own for name, own in found.items() if name not in TRANSIENT}
        carried = objective.begin(params, carried)
        moments, rng = optimizer.init(params), jax.random.key_data(inner)
        state = TrainState(jnp.zeros((), jnp.int32), params, carried, moments, {}, rng)

        def step(state, key):
            return train_step(state, any_place(key, data), given, **own)[0], None

        def epoch(state, keys):
            state, _ = jax.lax.scan(step, state, keys)
            variables = {"params": state.params, **state.carried}
            return state, accuracy(objective, variables, data)["accuracy"]

        keys = jax.random.split(outer, (EPOCHS, STEPS))
        state, scores = jax.lax.scan(epoch, state, keys)
        if gradient == "plain":
            return scores, jnp.zeros((0,))
        batch = {"image": data["placed"][:, 4], "label": data["label"]}
        said = TEACHER.apply(told, batch["image"])
        is_right = jnp.argmax(said, axis=-1) == data["label"]

        def share(mask):
            variables = {"params": state.params, **state.carried}
            _, found = objective.apply(
                variables, {**batch, "mask": mask}, True, given, mutable=["metrics"]
            )
            return jax.tree.leaves(found["metrics"])[0]

        return scores, jnp.stack([share(is_right), share(~is_right), is_right.mean()])

    keys = jnp.stack([jax.random.key(seed) for seed in SEEDS])
    compiled = jax.jit(jax.vmap(run), compiler_options=QUICKLY)
    scores, shares = jax.tree.map(np.asarray, compiled(keys, few(LEARNED), teacher()))
    found = {"last": tuple(map(float, scores[:, -1])), "best": tuple(map(float, scores.max(1)))}
    return found, shares


@claim("few-digits-tgeo", paper="tgeo-kd", by_hand=True)
def few_digits_tgeo(quick):
    """A share of each example learned on what is held out trusts a wrong teacher less."""
    own, shares = student("tgeo_kd")
    right, wrong, correct = shares.T
    shown = [f"{np.mean(x):.3f} ({min(x):.3f} to {max(x):.3f})" for x in (wrong, right)]
    finding = Finding(
        f"mean share where the teacher is wrong, and where it is right ({np.mean(correct):.0%})",
        "lower where it is wrong",
        "; ".join(shown),
        bool((wrong < right).all()),
    )
    others = {name: student(name)[0] for name in ("a share of 0.5", "labels alone")}
    return [finding, *compared(WHAT, "`tgeo_kd`", own, others)]
