"""What activations of a teacher are worth on 70 digits: one teacher for all terms of features.

The teacher attends to 16 places and has seen 1400 digits; its students are narrow convolutions, and
nets of its own kind. Every accuracy stands twice, of the last epoch and of the best.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.claims import Finding, claim
from benchmarks.claims.few_digits import digits, drawn, places
from benchmarks.claims.together import SEEDS, Learned, batches, compared, each, learn, made
from scanmax.models.mixers.attention.dot_product import Attention
from scanmax.models.taps import tap

LEARNED, HELD_OUT = 70, 1400
WHAT = "held-out digits of 70 learned"
KD = ("kd", {"temperature": 4.0})
# The same places of both: 4 x 4 patches.
FIRST = {"student_tap": "map_0", "teacher_tap": "stem"}
LAST = {"student_tap": "map_1", "teacher_tap": "block_00/output"}
# Weights are those of digits_distill or, where terms stand alone, of the releases.
TAUGHT: dict[str, tuple[Any, ...]] = {
    "labels alone": (),
    "kd": (KD,),
    "hint": (("hint", LAST),),
    "attention_transfer": (("attention_transfer", {"weight": 1000.0, **LAST}),),
    "rkd": ("rkd",),
    "similarity": (("similarity", {"weight": 3000.0}),),
    "congruence": (("congruence", {"weight": 100.0}),),
    "ofa": (("ofa", {"taps": ("map_0", "map_1")}),),
    "cross_arch": (KD, ("cross_arch", {"weight": 0.1, **LAST, "teacher_mixer": "block_00/mixer"})),
    "scalekd": (
        KD,
        (
            "scalekd",
            {
                "weight": 0.05,
                **LAST,
                "early_student_tap": "map_0",
                "early_teacher_tap": "stem",
            },
        ),
    ),
    "wcord": (KD, ("wcord", {"weight": 0.2})),
    "diswot": (KD, ("diswot", {"relation": 10.0})),
    "distance_correlation": (KD, "distance_correlation"),
    "crosskd": (("crosskd", FIRST),),
    "selective_fusion": (
        KD,
        (
            "selective_fusion",
            {
                "student_taps": ("map_0", "map_1"),
                "teacher_taps": ("stem", "block_00/output"),
                "stage_weights": (0.5, 1.0),
            },
        ),
    ),
    "channelwise": (KD, ("channelwise", {"weight": 0.1, **FIRST})),
}


class Convolutions(nn.Module):
    """Patches of 2 x 2, two maps of their neighbourhoods, all of it mixed, a head.

    Attributes:
      width: of the maps; four times that of the vector behind them.
      num_classes: of the head; 0 gives the vector.
    """

    width: int = 16
    num_classes: int = 10

    @nn.compact
    def __call__(self, images, train: bool = False):
        x = patches(images)
        for index in range(2):
            x = nn.relu(nn.Dense(self.width, name=f"conv_{index}")(neighbours(x)))
            x = tap(self, f"map_{index}", x)
        x = nn.relu(nn.Dense(4 * self.width, name="mix")(x.reshape(len(images), -1)))
        x = tap(self, "pre_logits", x)
        return nn.Dense(self.num_classes, name="head")(x) if self.num_classes else x


class Residual(nn.Module):
    """Attention and two layers, each added behind a norm."""

    @nn.compact
    def __call__(self, x, train: bool = False):
        x = x + Attention(heads=2, name="mixer")(nn.LayerNorm(name="norm0")(x))
        hidden = nn.relu(nn.Dense(2 * x.shape[-1], name="fc0")(nn.LayerNorm(name="norm1")(x)))
        return tap(self, "output", x + nn.Dense(x.shape[-1], name="fc1")(hidden))


class Attending(nn.Module):
    """Patches of 2 x 2 and their neighbours as tokens, blocks of attention, all mixed, a head.

    Attributes:
      width: of the tokens; twice that of the vector behind them.
      depth: blocks.
      num_classes: of the head.
    """

    width: int = 32
    depth: int = 1
    num_classes: int = 10

    @nn.compact
    def __call__(self, images, train: bool = False):
        x = nn.relu(nn.Dense(self.width, name="patches")(neighbours(patches(images))))
        x = tap(self, "stem", x.reshape(len(images), 16, self.width))
        for index in range(self.depth):
            x = Residual(name=f"block_{index:02d}")(x)
        x = nn.relu(nn.Dense(2 * self.width, name="mix")(x.reshape(len(images), -1)))
        return nn.Dense(self.num_classes, name="head")(tap(self, "pre_logits", x))


def patches(images):
    """[B, 8, 8, 1] as a map of 4 x 4."""
    rows = images.shape[0]
    return images.reshape(rows, 4, 2, 4, 2).transpose(0, 1, 3, 2, 4).reshape(rows, 4, 4, 4)


def neighbours(x):
    """Each place of a map with the eight around it, as channels."""
    near = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return jnp.concatenate([near[:, i : i + 4, j : j + 4] for i in range(3) for j in range(3)], -1)


STUDENT, TEACHER = Convolutions(), Attending()


@functools.cache
def stacked():
    """Images and classes of each seed's order."""
    images, labels = zip(*map(digits, SEEDS))
    return {"images": jnp.stack(images), "labels": jnp.stack(labels)}


@functools.cache
def some(learned: int, first: int = 0):
    """Batches of `learned` digits behind the first, at places and with noise."""
    return batches(draw_of(learned, first), stacked())


def draw_of(learned: int, first: int = 0):
    """How such a batch is drawn."""

    def draw(key, data):
        placed = places(data["images"][first : first + learned])
        images, rows = drawn(key, placed, learned)
        labels = data["labels"][first : first + learned][rows]
        return {"image": images, "label": labels, "mask": jnp.ones(len(rows), bool)}

    return draw


def accuracy(objective, variables, data):
    """Of the held-out digits."""
    batch = {"image": data["images"][HELD_OUT:], "label": data["labels"][HELD_OUT:]}
    return objective.apply(variables, batch, method="evaluate")["accuracy"].mean()


@functools.cache
def teacher() -> Learned:
    """The net of each seed that has seen all digits to learn from."""
    return learn(made("classification", TEACHER), some(HELD_OUT), stacked(), accuracy)


def student(name: str):
    """The objective of a student with the terms of a name."""
    terms = TAUGHT[name]
    asked, weight = ((TEACHER,), 0.5) if terms else ((), 1.0)
    return made("classification", STUDENT, terms=terms, teachers=asked, weight=weight)


@functools.cache
def taught(name: str) -> Learned:
    """A student of 70 digits by the terms of a name."""
    teachers = (teacher().model,) if TAUGHT[name] else ()
    return learn(student(name), some(LEARNED), stacked(), accuracy, teachers=teachers)


def against(name: str, *others: str) -> list[Finding]:
    """Findings that a student's accuracy is above those of others."""
    shown = {
        other if other in ("labels alone", "kd") else f"`{other}`": taught(other).found
        for other in others
    }
    return compared(WHAT, f"`{name}`", taught(name).found, shown)


@claim("few-digits-other-kinds", paper="ofa-kd", by_hand=True)
def few_digits_other_kinds(quick):
    """A net of another kind learns more of early answers than of answers, hints and relations."""
    others = ("hint", "attention_transfer", "rkd", "similarity", "congruence")
    findings = against("ofa", "labels alone", "kd", *others)
    for name in others:
        findings += against(name, "labels alone")
    return findings


@claim("few-digits-cross-arch", paper="cross-arch-kd", by_hand=True)
def few_digits_cross_arch(quick):
    """Projectors into attention and tokens teach convolutions more than KD alone and hints."""
    return against("cross_arch", "labels alone", "kd", "hint")


@claim("few-digits-scalekd", paper="scalekd", by_hand=True)
def few_digits_scalekd(quick):
    """A transformer's map, seen three ways by cross-attention, teaches convolutions beside KD."""
    return against("scalekd", "labels alone", "kd")


@claim("few-digits-wcord", paper="wcord", by_hand=True)
def few_digits_wcord(quick):
    """A Lipschitz contrast and transport, beside KD, teach more than KD, or relations alone."""
    return against("wcord", "labels alone", "kd", "rkd", "similarity", "congruence")


@claim("few-digits-diswot", paper="diswot", by_hand=True)
def few_digits_diswot(quick):
    """The similarities of classes and examples that rank students teach them too, beside KD."""
    return against("diswot", "labels alone", "kd")


@claim("few-digits-distances", paper="mv-mr", by_hand=True)
def few_digits_distances(quick):
    """Correlated distances to a teacher of any width teach, beside KD too."""
    return against("distance_correlation", "labels alone", "kd")


@claim("few-digits-channelwise", paper="transkd", by_hand=True)
def few_digits_channelwise(quick):
    """Where a teacher's channels are active, beside its answers, teaches more than these alone."""
    return against("channelwise", "labels alone", "kd")


@claim("few-digits-selective-fusion", paper="transkd", by_hand=True)
def few_digits_selective_fusion(quick):
    """Stages that are fused and held to the teacher's teach more than answers alone."""
    return against("selective_fusion", "labels alone", "kd")


@claim("few-digits-path-self-distill", paper="vit-path-ensemble", by_hand=True)
def few_digits_path_self_distill(quick):
    """Short paths that learn from the whole make the whole better."""
    arms = {}
    for name, terms in {
        "labels alone": (),
        "path_self_distill": (("path_self_distill", {"weight": 0.5}),),
    }.items():
        objective = made("classification", Attending(depth=2), terms=terms)
        arms[name] = learn(objective, some(LEARNED), stacked(), accuracy).found
    own = arms.pop("path_self_distill")
    return compared(f"two blocks, {WHAT}", "`path_self_distill`", own, arms)


@claim("few-digits-crosskd", paper="crosskd", by_hand=True)
def few_digits_crosskd(quick):
    """Answers across heads teach more than KD, and quarrel less with the labels' gradient."""
    findings = against("crosskd", "labels alone", "kd")
    crossed, plain = conflict("crosskd"), conflict("kd")
    shown = [f"{np.mean(own):.2f} ({min(own):.2f} to {max(own):.2f})" for own in (crossed, plain)]
    what = "cosine of both losses' gradients up to the first map, held-out digits, last epoch"
    holds = bool(np.mean(crossed) > np.mean(plain))
    return [*findings, Finding(f"{what}, `crosskd` and kd", "above kd", "; ".join(shown), holds)]


def conflict(name: str) -> np.ndarray:
    """The cosine of the gradients of labels and term by what both reach, of each seed's student."""
    objective = student(name)

    def cosine(variables, data, teacher):
        batch = {"image": data["images"][HELD_OUT:], "label": data["labels"][HELD_OUT:]}
        batch["mask"] = batch["label"] >= 0

        def slope(which):
            def loss(params):
                own = {**variables, "params": params}
                given = {"train": True, "teachers": (teacher,), "mutable": ["intermediates"]}
                return objective.apply(own, batch, **given)[0].values[which].mean()

            found = jax.grad(loss)(variables["params"])["model"]
            return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(found["conv_0"])])

        x, y = slope("label"), slope(name)
        return x @ y / (jnp.linalg.norm(x) * jnp.linalg.norm(y))

    return each(cosine, taught(name).variables, stacked(), teacher().model)
