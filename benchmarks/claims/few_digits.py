"""What terms of distillation are worth on 140 digits: small nets, their teachers, three seeds.

All claims of a process share its teachers and students. Every accuracy stands twice, of the last
epoch and of the best, since which was meant is what numbers of distillation leave out.
"""

import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.claims import Finding, claim
from benchmarks.claims.together import compared, told
from scanmax.train.teachers import Told
from scanmax.train.terms import TERMS

SEEDS = (0, 1, 2)
EPOCHS, STEPS, ROWS = 40, 20, 32
NOISE = 0.3
KD = ("kd", {"temperature": 4.0})
# As in digits_distill where they stand there.
TERMS_OF: dict[str, tuple[tuple[str, dict[str, Any]], ...]] = {
    "labels alone": (),
    "hard": (("hard", {}),),
    "kd": (KD,),
    "kd, standardised": (("kd", {"temperature": 4.0, "standardize": True}),),
    "dkd": (("dkd", {"alpha": 1.0, "beta": 2.0, "temperature": 4.0}),),
    "dist": (("dist", {"temperature": 4.0}),),
    "nd_loss_kd": (KD, ("nd_loss_kd", {"weight": 0.5})),
    "dkd and nd_loss_kd": (
        ("dkd", {"alpha": 1.0, "beta": 2.0, "temperature": 4.0}),
        ("nd_loss_kd", {"weight": 0.5}),
    ),
}


class Net(nn.Module):
    """Patches of 2 x 2, a map of them, all of it mixed, a head.

    Attributes:
      width: of the map; four times that of the vector behind it.
    """

    width: int

    @nn.compact
    def __call__(self, images):
        rows = images.shape[0]
        patches = images.reshape(rows, 4, 2, 4, 2).transpose(0, 1, 3, 2, 4).reshape(rows, 4, 4, 4)
        found = nn.relu(nn.Dense(self.width, name="patches")(patches))
        vector = nn.relu(nn.Dense(4 * self.width, name="mix")(found.reshape(rows, -1)))
        logits = nn.Dense(10, name="head")(vector)
        return Told(logits, {"map": found, "pre_logits": vector})


STUDENT, TEACHER = Net(16), Net(64)


@functools.cache
def digits(seed: int):
    """Images from -1 to 1 and classes, of a seed's order; 1400 to learn from, then 397."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(images))
    images = (images[order].reshape(-1, 8, 8, 1) / 8 - 1).astype(np.float32)
    return jnp.asarray(images), jnp.asarray(labels[order])


def places(images):
    """Each image at the nine places up to a pixel away, [N, 9, 8, 8, 1]."""
    wide = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-1.0)
    cut = [wide[:, y : y + 8, x : x + 8] for y in range(3) for x in range(3)]
    return jnp.stack(cut, 1)


def drawn(key, placed, learned):
    """Images at places drawn with noise, and which they are."""
    draw, place, noise = jax.random.split(key, 3)
    rows = jax.random.randint(draw, (ROWS,), 0, learned)
    images = placed[rows, jax.random.randint(place, (ROWS,), 0, placed.shape[1])]
    return images + NOISE * jax.random.normal(noise, images.shape), rows


def learn(net, learned, terms=(), teachers=None):
    """Parameters, and held-out accuracies [epochs], of all seeds at once.

    A seed is of the order of the digits, the start and the batches.

    Args:
      net: who learns.
      learned: from how many digits.
      terms: pairs of a name and options.
      teachers: parameters of TEACHER, stacked by seed.
    """
    held = [(f"{name}_{i}", TERMS[name](**options)) for i, (name, options) in enumerate(terms)]

    def said(params, batch, teacher):
        student = net.apply({"params": params["model"]}, batch["image"])
        answer = TEACHER.apply({"params": teacher}, batch["image"]) if terms else None
        return student, jax.lax.stop_gradient(answer)

    def objective(params, carried, batch, progress, teacher):
        student, answer = said(params, batch, teacher)
        plain = optax.softmax_cross_entropy_with_integer_labels
        total = plain(student.logits, batch["label"]).mean()
        total *= 0.5 if held else 1.0
        for key, term in held:
            variables = {"params": params[key], **carried[key]}
            given, collections = (student, answer, batch), list(carried[key])
            values, carried[key] = term.apply(variables, *given, mutable=collections)
            total += term.weight_at(progress) * values.mean()
        return total, carried

    def train(key, images, labels, teacher):
        start, *keys = jax.random.split(key, 2 + len(held))
        params = {"model": net.init(start, images[:1])["params"]}
        batch = {"image": images[:ROWS], "label": labels[:ROWS], "mask": jnp.ones(ROWS, bool)}
        carried = {}
        for own, (name, term) in zip(keys, held):
            variables = nn.unbox(term.init(own, *said(params, batch, teacher), batch))
            params[name] = variables.pop("params", {})
            carried[name] = variables
        placed, total = places(images[:learned]), EPOCHS * STEPS
        optimizer = optax.adamw(optax.cosine_decay_schedule(3e-3, total), weight_decay=0.05)

        def step(state, given):
            key, number = given
            params, moments, carried = state
            image, rows = drawn(key, placed, learned)
            batch = {"image": image, "label": labels[rows], "mask": jnp.ones(ROWS, bool)}
            slope = jax.grad(objective, has_aux=True)
            gradient, carried = slope(params, dict(carried), batch, number / total, teacher)
            updates, moments = optimizer.update(gradient, moments, params)
            return (optax.apply_updates(params, updates), moments, carried), None

        def epoch(state, given):
            state, _ = jax.lax.scan(step, state, given)
            answer = net.apply({"params": state[0]["model"]}, images[1400:])
            return state, jnp.mean(jnp.argmax(answer.logits, -1) == labels[1400:])

        given = (
            jax.random.split(keys[-1], (EPOCHS, STEPS)),
            jnp.arange(total).reshape(EPOCHS, STEPS),
        )
        state, accuracies = jax.lax.scan(epoch, (params, optimizer.init(params), carried), given)
        return state[0]["model"], accuracies

    starts = jnp.stack([jax.random.key(seed) for seed in SEEDS])
    images, labels = (jnp.stack(parts) for parts in zip(*map(digits, SEEDS)))
    train = jax.jit(jax.vmap(train))
    params, accuracies = train(starts, images, labels, teachers)
    return params, np.asarray(accuracies, np.float64)


@functools.cache
def taught():
    """Parameters of the teachers that have seen all digits to learn from, and their accuracies."""
    return learn(TEACHER, 1400)


@functools.cache
def found(name: str) -> Mapping[str, tuple[float, ...]]:
    """Held-out accuracies of students of 140 digits by seed, at the last epoch and at the best."""
    terms = TERMS_OF[name]
    _, accuracies = learn(STUDENT, 140, terms, taught()[0] if terms else None)
    return {
        "last": tuple(float(own[-1]) for own in accuracies),
        "best": tuple(float(own.max()) for own in accuracies),
    }


def against(name: str, *others: str) -> list[Finding]:
    """Findings that a term's accuracy is above those of others."""
    shown = {other: found(other) for other in others}
    return compared(
        f"held-out digits of 140 learned, of {EPOCHS} epochs", f"`{name}`", found(name), shown
    )


@claim("few-digits-teachers", paper="deit", by_hand=True)
def few_digits_teachers(quick):
    """A teacher's decisions teach a student more than its distribution, and both than labels."""
    teachers, students = tuple(float(own[-1]) for own in taught()[1]), found("kd")["last"]
    findings = [
        Finding(
            "the teachers, of 1400 digits, last epoch, and students by `kd`",
            "each above its student",
            f"{told(teachers)}; {told(students)}",
            all(t > s for t, s in zip(teachers, students)),
        )
    ]
    return findings + against("kd", "labels alone") + against("hard", "labels alone", "kd")


@claim("few-digits-logits", paper="nd-loss-kd", by_hand=True)
def few_digits_logits(quick):
    """Distributions taken apart, standardised or correlated teach more than plain ones."""
    return [own for name in ("dkd", "kd, standardised", "dist") for own in against(name, "kd")]


@claim("few-digits-nd-loss-kd", paper="nd-loss-kd", by_hand=True)
def few_digits_nd_loss_kd(quick):
    """Norm and direction of features, beside KD and DKD, teach more than these."""
    return against("nd_loss_kd", "labels alone", "kd") + against("dkd and nd_loss_kd", "dkd")
