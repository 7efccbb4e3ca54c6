"""What two towers teach two smaller ones, of pairs of digits and their words; three seeds.

An image is two digits side by side, and its text says which: a hundred captions. Teachers have seen
pairs of 1400 digits, students of 70. What is told is how often a held-out image finds its caption
among all; of the last epoch and of the best.
"""

import functools
import itertools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.claims import Finding, claim
from benchmarks.claims.few_digits import drawn, places
from benchmarks.claims.few_digits_features import (
    HELD_OUT,
    LEARNED,
    neighbours,
    patches,
    stacked,
)
from benchmarks.claims.together import Learned, batches, compared, learn, made, told
from scanmax.models.parts.heads import UnitProjection
from scanmax.models.taps import tap
from scanmax.models.towers import Captions, TwoTowers, ZeroShot

# Behind the padding and the end the ten words.
END, WORDS, LENGTH = 11, 12, 3
CLASS_TOKENS = np.stack([[1 + c // 10, 1 + c % 10, END] for c in range(100)])[:, None]
CAPTIONS = Captions(CLASS_TOKENS)
WHAT = "held-out pairs that find their caption among 100, of pairs of 70 digits"
LARGE, SMALL = 32, 8


class Looking(nn.Module):
    """Both digits by the same net, and what it makes of them together.

    Attributes:
      width: of the maps; four times that of the vector of each digit and of both.
      num_classes: of the head; 0 gives the vector.
    """

    width: int
    num_classes: int = 0

    @nn.compact
    def __call__(self, images, train: bool = False):
        rows = len(images)
        digits = images.reshape(rows, 8, 2, 8, 1).swapaxes(1, 2).reshape(2 * rows, 8, 8, 1)
        x = nn.relu(nn.Dense(self.width, name="conv")(neighbours(patches(digits))))
        x = nn.relu(nn.Dense(4 * self.width, name="mix")(x.reshape(2 * rows, -1)))
        x = nn.relu(nn.Dense(4 * self.width, name="both")(x.reshape(rows, -1)))
        x = tap(self, "pre_logits", x)
        return nn.Dense(self.num_classes, name="head")(x) if self.num_classes else x


class Reading(nn.Module):
    """The words of a text, mixed.

    Attributes:
      width: of a word; four times that of the vector.
      vocab_size: words that it knows.
      num_classes: no head.
    """

    width: int
    vocab_size: int = WORDS
    num_classes: int = 0

    @nn.compact
    def __call__(self, tokens, train: bool = False):
        x = nn.Embed(self.vocab_size, self.width, name="words")(tokens)
        return nn.relu(nn.Dense(4 * self.width, name="mix")(x.reshape(len(tokens), -1)))


def towers(width: int, kind: Any = TwoTowers, **fields: Any) -> TwoTowers:
    """Towers that meet in a space of four times the width."""
    return kind(Looking(width), Reading(width), dim=4 * width, text_length=LENGTH, **fields)


@functools.cache
def pairs(learned: int):
    """Batches of pairs of the first digits, at places and with noise."""

    def draw(key, data):
        keys, placed = jax.random.split(key), places(data["images"][:learned])
        sides = [drawn(each, placed, learned) for each in keys]
        first, second = (data["labels"][:learned][rows] for _, rows in sides)
        return {
            "image": jnp.concatenate([images for images, _ in sides], axis=2),
            "tokens": jnp.stack([1 + first, 1 + second, jnp.full_like(first, END)], axis=1),
            "label": 10 * first + second,
            "mask": jnp.ones(len(first), bool),
        }

    return batches(draw, stacked())


def held_out(data):
    """Images of two held-out digits, and which of the captions is theirs."""
    images, labels = data["images"][HELD_OUT:], data["labels"][HELD_OUT:]
    both = jnp.concatenate([images, jnp.roll(images, 1, axis=0)], axis=2)
    return both, 10 * labels + jnp.roll(labels, 1)


def finds(objective, variables, data):
    """The share of held-out images that are nearest to their caption."""
    images, labels = held_out(data)
    own = {"params": variables["params"]["model"]}
    seen = objective.model.apply(own, images)
    named = objective.model.apply(own, jnp.asarray(CLASS_TOKENS), method="class_vectors")
    return jnp.mean(jnp.argmax(seen @ named.T, -1) == labels)


def right(objective, variables, data):
    """Accuracy of a classifier of held-out images."""
    images, labels = held_out(data)
    batch = {"image": images, "label": labels}
    return objective.apply(variables, batch, method="evaluate")["accuracy"].mean()


@functools.cache
def teacher() -> Learned:
    """Wide towers of each seed, by CLIP's loss."""
    return learn(made("clip", towers(LARGE)), pairs(HELD_OUT), stacked(), finds)


# Beside CLIP's loss: clip-kd's recipe and its three losses.
NONE = {"features": 0.0, "interactive": 0.0, "relation": 0.0}
TERMS: dict[str, tuple[str, tuple[Any, ...]]] = {
    "`clip` alone": ("clip", ()),
    "`clip_kd`": ("clip", ("clip_kd",)),
    "`clip_kd`, features": ("clip", (("clip_kd", {**NONE, "features": 2000.0}),)),
    "`clip_kd`, interactive": ("clip", (("clip_kd", {**NONE, "interactive": 1.0}),)),
    "`clip_kd`, relation": ("clip", (("clip_kd", {**NONE, "relation": 1.0}),)),
    "`affinity`": ("clip", ("affinity",)),
    "`max_margin` alone": ("max_margin", ()),
    "`similarity_matrix`": ("max_margin", (("similarity_matrix", {"weight": 10.0}),)),
}


@functools.cache
def taught(name: str) -> Learned:
    """Narrow towers by an objective and terms."""
    kind, terms = TERMS[name]
    asked = (towers(LARGE),) if terms else ()
    objective = made(kind, towers(SMALL), terms=terms, teachers=asked)
    given = {"teachers": (teacher().model,) if terms else ()}
    return learn(objective, pairs(LEARNED), stacked(), finds, **given)


def against(name: str, *others: str) -> list[Finding]:
    """Findings that towers find more than others."""
    return compared(WHAT, name, taught(name).found, {each: taught(each).found for each in others})


@claim("few-pairs-clip-kd", paper="clip-kd", by_hand=True)
def few_pairs_clip_kd(quick):
    """Small towers gain by a teacher's, most by its features, next by contrast, then relations."""
    reached, own = teacher().found["last"], taught("`clip_kd`").found["last"]
    holds = bool(np.mean(reached) > np.mean(own))
    what = f"the teacher, of 1400, and `clip_kd`, {WHAT}, last epoch"
    findings = [Finding(what, "above its student", f"{told(reached)}; {told(own)}", holds)]
    findings += against("`clip_kd`", "`clip` alone")
    ways = [f"`clip_kd`, {way}" for way in ("features", "interactive", "relation")]
    for way in ways:
        findings += against(way, "`clip` alone")
    for way, other in itertools.pairwise(ways):
        findings += against(way, other)
    return findings


@claim("few-pairs-affinity", paper="tinyclip", by_hand=True)
def few_pairs_affinity(quick):
    """Which texts an image is near to for large towers teaches small ones."""
    return against("`affinity`", "`clip` alone")


@claim("few-pairs-similarity-matrix", paper="teachtext", by_hand=True)
def few_pairs_similarity_matrix(quick):
    """A teacher's matrix of similarities, beside the ranking loss, teaches more than that alone."""
    return against("`similarity_matrix`", "`max_margin` alone")


@claim("few-pairs-siglip", paper="clip-kd", by_hand=True)
def few_pairs_siglip(quick):
    """Of small batches sigmoids of pairs learn more than a softmax over them (Zhai et al.)."""
    model = towers(SMALL, init_scale=10.0, init_bias=-10.0, max_scale=float("inf"))
    own = learn(made("siglip", model), pairs(LEARNED), stacked(), finds)
    others = {"`clip`": taught("`clip` alone").found}
    return compared(f"{WHAT}, batches of 32", "`siglip`", own.found, others)


@claim("few-pairs-promptkd", paper="promptkd", by_hand=True)
def few_pairs_promptkd(quick):
    """A projector on frozen features learns a teacher's answers without labels; squares do less."""
    model = UnitProjection(Looking(SMALL), dim=4 * LARGE, hidden=4 * LARGE)
    asked, arms = towers(LARGE, kind=ZeroShot, captions=CAPTIONS, whole=True), {}
    for name, losses in {
        "`shared_vectors`": {"coherence": 1.0},
        "features alone": {"coherence": 0.0, "mimicry": 1.0},
    }.items():
        fields = {"weight": 0.0, "classes": 100, "dim": 4 * LARGE, **losses}
        objective = made("shared_vectors", model, teachers=(asked,), **fields)
        given = {"teachers": (teacher().model,), "frozen": ("model/image/.*",)}
        arms[name] = learn(objective, pairs(HELD_OUT), stacked(), right, **given).found
    own, reached = arms.pop("`shared_vectors`"), teacher().found["last"]
    what = "held-out pairs among 100, of 1400 without labels, random features"
    shown = f"{told(own['last'])}; {told(reached)}"
    holds = bool(np.mean(own["last"]) > np.mean(reached) / 2)
    most = Finding(
        f"`shared_vectors` and its teacher, {what}, last epoch", "most of it", shown, holds
    )
    return [most, *compared(what, "`shared_vectors`", own, arms)]


# Captions that no training pair has: a fifth of them, whose digits others have.


def is_new(labels: jax.Array) -> jax.Array:
    """Whether training leaves the pair out."""
    return (3 * (labels // 10) + labels % 10) % 5 == 0


@claim("few-pairs-new-captions", paper="large-vlm-distill-ood", by_hand=True)
def few_pairs_new_captions(quick):
    """To stand where a teacher's images stand among captions tells new ones; labels do less."""
    model = UnitProjection(Looking(SMALL), dim=4 * LARGE, hidden=4 * LARGE)
    asked = towers(LARGE, kind=ZeroShot, captions=CAPTIONS, whole=True)
    batch = pairs(LEARNED)
    batch = {**batch, "mask": ~is_new(batch["label"])}

    def of_new(objective, variables, data):
        images, labels = held_out(data)
        given = {"image": images, "label": labels}
        found = objective.apply(variables, given, method="evaluate")["accuracy"]
        return jnp.mean(found, where=is_new(labels))

    arms = {}
    for name, losses in {
        "labels alone": {"coherence": 0.0},
        "mimicry": {"coherence": 0.0, "mimicry": 1.0},
        "`shared_vectors`": {"coherence": 1.0, "mimicry": 1.0},
    }.items():
        fields = {"classes": 100, "dim": 4 * LARGE, **losses}
        objective = made("shared_vectors", model, teachers=(asked,), **fields)
        given = {"teachers": (teacher().model,)}
        arms[name] = learn(objective, batch, stacked(), of_new, **given).found
    own = arms.pop("`shared_vectors`")
    what = "held-out pairs whose captions no training pair has, among 100"
    findings = compared(what, "`shared_vectors`", own, arms)
    alone = {"labels alone": arms["labels alone"]}
    return findings + compared(what, "mimicry", arms["mimicry"], alone)


@claim("few-pairs-text-alignment", paper="gpt4image", by_hand=True)
def few_pairs_text_alignment(quick):
    """Features that stand near what is said of their image tell classes of few labels better."""
    model = Looking(SMALL, num_classes=100)
    alone = learn(made("classification", model, classes=100), pairs(LEARNED), stacked(), right)
    objective = made("text_alignment", model, teachers=(towers(LARGE),), classes=100, dim=4 * LARGE)
    given = {"teachers": (teacher().model,)}
    own = learn(objective, pairs(LEARNED), stacked(), right, **given)
    what = "held-out pairs by a head of 100 classes, of pairs of 70 digits"
    return compared(what, "`text_alignment`", own.found, {"labels alone": alone.found})
