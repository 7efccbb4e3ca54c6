"""Distillation in stages, or of other data than the student's, on few digits; three seeds.

Students in few bits, of several teachers, of modules, of a teacher who knows other classes or errs,
and without labels. The teacher, the student and the digits are those of few_digits_features.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.claims import Finding, claim
from benchmarks.claims.few_digits import drawn, places
from benchmarks.claims.few_digits_features import (
    FIRST,
    HELD_OUT,
    KD,
    LEARNED,
    STUDENT,
    TEACHER,
    WHAT,
    Attending,
    Convolutions,
    accuracy,
    draw_of,
    some,
    stacked,
    taught,
    teacher,
)
from benchmarks.claims.together import SEEDS, Learned, batches, compared, each, learn, made
from scanmax.models.parts.heads import DualHead
from scanmax.train.teachers import Teacher
from scanmax.train.terms.attention_map import divergence
from scanmax.train.transforms import FakeQuantize

# A copy of the teacher in two bits: its attention, its answers.

QUANTIZED: dict[str, tuple[Any, ...]] = {
    "labels alone": (),
    "kd": (KD,),
    "`attention_map`": (KD, "attention_map"),
}


def attention_apart(own, theirs, data) -> jax.Array:
    """The mean divergence of the attention of two parameters over held-out digits."""
    asked = Teacher("", TEACHER, reads_taps=True)
    images, path = data["images"][HELD_OUT:], "block_00/mixer/attention"
    return jnp.mean(divergence(*(asked(params, images).tap(path) for params in (own, theirs))))


@claim("few-digits-attention-map", paper="kd-qat-attention", by_hand=True)
def few_digits_attention_map(quick):
    """In few bits a copy that is taught attention beside answers keeps more of its accuracy."""
    low = FakeQuantize(match=("(patches|block_00|mix).*kernel",), bits=2)
    arms, apart = {}, {}
    for name, terms in QUANTIZED.items():
        asked, weight = ((TEACHER,), 0.5) if terms else ((), 1.0)
        objective = made("classification", TEACHER, terms=terms, teachers=asked, weight=weight)
        given = {
            "teachers": (teacher().model,) if terms else (),
            "start": teacher().model["params"],
            "transforms": (low,),
            "epochs": 10,
            "rate": 1e-3,
        }
        learned = learn(objective, some(LEARNED), stacked(), accuracy, **given)
        arms[name] = learned.found
        apart[name] = each(attention_apart, learned.model, teacher().model, stacked())
    own = arms.pop("`attention_map`")
    findings = compared(f"`fake_quantize` to 2 bits, {WHAT}", "`attention_map`", own, arms)
    for other in arms:
        shown = [f"{np.mean(apart[name]):.3f}" for name in ("`attention_map`", other)]
        what = f"divergence of attention from the teacher's, `attention_map` and {other}, last"
        holds = bool(np.mean(apart["`attention_map`"]) < np.mean(apart[other]))
        findings.append(Finding(what, f"below {other}", "; ".join(shown), holds))
    return findings


# Two teachers, no label; a frame for modules.

WIDE = Convolutions(32)
BOTH = ("kd", {"teacher": (0, 1), "temperature": 1.0})
JUDGED = ("discriminator", {"teacher": (0, 1), "weight": 0.1})


@functools.cache
def second() -> Learned:
    """Wider convolutions that have seen all digits to learn from."""
    return learn(made("classification", WIDE), some(HELD_OUT), stacked(), accuracy)


@claim("few-digits-discriminator", paper="meal-v2", by_hand=True)
def few_digits_discriminator(quick):
    """A trained student gains by teachers' mean answer and a discriminator, without labels."""
    before, arms = taught("labels alone"), {}
    for name, (terms, weight) in {
        "two teachers and labels": ((BOTH, JUDGED), 1.0),
        "two teachers": ((BOTH,), 0.0),
        "`discriminator`": ((BOTH, JUDGED), 0.0),
    }.items():
        asked = (TEACHER, WIDE)
        objective = made("classification", STUDENT, terms=terms, teachers=asked, weight=weight)
        given = {
            "teachers": (teacher().model, second().model),
            "start": before.model["params"],
            "epochs": 10,
            "rate": 1e-3,
        }
        arms[name] = learn(objective, some(LEARNED), stacked(), accuracy, **given).found
    own = arms.pop("`discriminator`")
    others = {"the student it begins with": before.found, **arms}
    return compared(f"no labels, {WHAT}", "`discriminator`", own, others)


@claim("few-digits-m2mkd", paper="m2mkd", by_hand=True)
def few_digits_m2mkd(quick):
    """Modules that learnt alone in another net's frame are a better start than a random one."""
    cuts = {"student_cuts": ("map_0", "map_1"), "meta_cuts": ("map_0", "map_1")}
    term = ("m2mkd", {**cuts, "teacher_cuts": ("stem", "block_00/output")})
    modules = made("classification", STUDENT, terms=(term,), teachers=(WIDE, TEACHER), weight=0.0)
    half, draws = {"epochs": 10}, (some(LEARNED), stacked(), accuracy)
    first = learn(modules, *draws, teachers=(second().model, teacher().model), **half)
    plain = made("classification", STUDENT)
    own = learn(plain, *draws, start=first.model["params"], **half)
    others = {"as many steps from end to end": taught("labels alone").found}
    return compared(f"half of the steps by modules, {WHAT}", "`m2mkd`", own.found, others)


# A teacher of other classes.

KNOWN = 650


@functools.cache
def task(name: str):
    """Digits 0 to 4, "low", or 5 to 9, whose classes are 0 to 4; 650, and 180 held out."""
    images, labels = [], []
    for x, y in zip(*(np.asarray(part) for part in stacked().values())):
        own = (y < 5) == (name == "low")
        learned = np.flatnonzero(own[:HELD_OUT])[:KNOWN]
        held = HELD_OUT + np.flatnonzero(own[HELD_OUT:])[:180]
        order = np.concatenate([learned, held])
        images.append(x[order])
        labels.append(y[order] % 5)
    return {"images": jnp.stack(images), "labels": jnp.stack(labels)}


def of_five(objective, variables, data):
    """Accuracy on the held-out digits of a task."""
    batch = {"image": data["images"][KNOWN:], "label": data["labels"][KNOWN:]}
    return objective.apply(variables, batch, method="evaluate")["accuracy"].mean()


@claim("few-digits-proc-kd", paper="proc-kd", by_hand=True)
def few_digits_proc_kd(quick):
    """A teacher of digits 0 to 4 helps to tell 5 to 9, by prototypes more than by hints."""
    known, own = Attending(num_classes=5), Convolutions(num_classes=5)
    seen = batches(draw_of(KNOWN), task("low"))
    low = learn(made("classification", known, classes=5), seen, task("low"), of_five)
    few, arms = batches(draw_of(35), task("high")), {}
    for name, terms in {
        "labels alone": (),
        "hint": (("hint", FIRST),),
        "`proc_kd`": (("proc_kd", {"weight": 0.5, **FIRST}),),
    }.items():
        asked, weight = ((known,), 0.5) if terms else ((), 1.0)
        fields = {"teachers": asked, "weight": weight, "classes": 5}
        objective = made("classification", own, terms=terms, **fields)
        given = {"teachers": (low.model,) if terms else ()}
        arms[name] = learn(objective, few, task("high"), of_five, **given).found
    own = arms.pop("`proc_kd`")
    return compared("held-out digits 5 to 9, of 35 learned", "`proc_kd`", own, arms)


# A teacher that errs, and labels for few.


def partly_labelled():
    """Half of a batch of the 70 digits with labels, half of 1400, whose labels are not told."""
    both = {
        name: jnp.concatenate([few[:, :, :16], some(HELD_OUT)[name][:, :, :16]], axis=2)
        for name, few in some(LEARNED).items()
    }
    return {**both, "label": both["label"].at[:, :, 16:].set(-1)}


@claim("few-digits-dual-head", paper="dho-dual-head", by_hand=True)
def few_digits_dual_head(quick):
    """Of few labels and a teacher that errs two heads learn more than one."""
    # It has seen 70 others.
    weak = learn(made("classification", TEACHER), some(LEARNED, 700), stacked(), accuracy)
    term = ("kd", {"weight": 0.5, "temperature": 1.0})
    given = {"terms": (term,), "teachers": (TEACHER,), "weight": 0.5}
    heads = {
        "`dual_head`": made("dual_head", DualHead(Convolutions(num_classes=0), 10), **given),
        # The same losses of one head.
        "one head": made("captioned_classes", STUDENT, **given),
    }
    arms = {
        name: learn(objective, partly_labelled(), stacked(), accuracy, teachers=(weak.model,)).found
        for name, objective in heads.items()
    }
    own = arms.pop("`dual_head`")
    others = {**arms, "labels alone": taught("labels alone").found, "the teacher": weak.found}
    return compared(f"{WHAT} beside 1400 without labels", "`dual_head`", own, others)


# Without labels: distances.


def probe(features: Callable[[jax.Array], jax.Array], data) -> jax.Array:
    """Held-out accuracy of ridge regression from features of few digits to their classes."""
    x, held = (features(images) for images in (data["images"][:LEARNED], data["images"][HELD_OUT:]))
    mean, scale = x.mean(0), x.std(0) + 1e-3
    x, held = ((part - mean) / scale for part in (x, held))
    aims = jax.nn.one_hot(data["labels"][:LEARNED], 10) - 0.1
    # As wide as there are examples.
    shares = jnp.linalg.solve(x @ x.T + 10.0 * jnp.eye(LEARNED), aims)
    return jnp.mean(jnp.argmax(held @ x.T @ shares, -1) == data["labels"][HELD_OUT:])


def probed(objective, variables, data):
    """Of the model's features."""
    model = objective.model.clone(num_classes=0, parent=None)
    own = {"params": variables["params"]["model"]}
    return probe(lambda images: model.apply(own, images), data)


def viewed(key, data):
    """A digit with noise at a place, and as it is."""
    images, rows = drawn(key, places(data["images"][:HELD_OUT]), HELD_OUT)
    return {"image": jnp.stack([images, data["images"][rows]], axis=1), "mask": rows >= 0}


@claim("few-digits-mv-mr", paper="mv-mr", by_hand=True)
def few_digits_mv_mr(quick):
    """Features that keep distances need no labels, and distances of a teacher are the best."""
    blank = Convolutions(num_classes=0)
    views = made("mv_mr", blank, projector_widths=(64, 64), cell=4)
    alone = learn(views, batches(viewed, stacked()), stacked(), probed)
    term = ("distance_correlation", {"weight": 1.0})
    objective = made("classification", STUDENT, terms=(term,), teachers=(TEACHER,), weight=0.0)
    given = {"teachers": (teacher().model,)}
    kept = learn(objective, some(HELD_OUT), stacked(), probed, **given)

    def start(key, data):
        own = blank.init(key, data["images"][:1])
        return probe(lambda images: blank.apply(own, images), data)

    keys = jnp.stack([jax.random.key(seed) for seed in SEEDS])
    begun = tuple(map(float, each(start, keys, stacked())))
    chance = {"a net as it is drawn": {"last": begun, "best": begun}}
    what = f"linear probe of {LEARNED} labels, held-out digits, of 1400 without labels"
    findings = compared(what, "`mv_mr`", alone.found, chance)
    others = {**chance, "`mv_mr`": alone.found}
    return findings + compared(what, "`distance_correlation`", kept.found, others)
