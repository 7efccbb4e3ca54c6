"""What mixing images and labels is worth on 140 digits: a small net, three seeds.

All claims of a process share their runs. Options are those of the papers, brought to images of 8
pixels, and were set before anything was measured: holes and squares are as large a share, a draw is
for each image, two of the 16 patches stand for 6 of 49. Steps and width were set by plain images
and CutMix alone, to where they come apart: after a third of the steps all ways are alike.
"""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.claims import Finding, claim
from benchmarks.claims.few_digits_runs import (
    SEEDS,
    Data,
    Learned,
    above,
    accuracy,
    any_place,
    few,
    learn,
    objective_of,
)
from scanmax.models.taps import tap
from scanmax.train.objectives import Objective
from scanmax.train.teachers import Teacher

LEARNED, WRONG = 140, 0.4
EPOCHS = 60
EACH = {"per": "element"}
# Of the copy that makes masks: the published one is for a hundred times as many steps.
SLOW = {"tap": "block_00/output", "momentum": 0.99, "last_momentum": 0.9999}


@dataclasses.dataclass(frozen=True)
class Way:
    """A way to learn from mixed images.

    Attributes:
      mix: as `config.mix` has it.
      name: of the objective.
      kwargs: of the objective.
      guided: whether a net that has learned 1400 digits guides the mix, as a published one does.
    """

    mix: tuple[tuple[str, dict[str, Any]], ...] = ()
    name: str = "classification"
    kwargs: dict[str, Any] = dataclasses.field(default_factory=dict)
    guided: bool = False


CUTMIX = (("cutmix", EACH),)
MASKMIX = (("maskmix", {"patch": 2, "patches": 1, **EACH}),)
WAYS = {
    "none": Way(),
    "mixup": Way((("mixup", EACH),)),
    "cutout": Way((("cutout", {"size": 4}),)),
    "cutmix": Way(CUTMIX),
    "mixup_cutmix": Way((("mixup_cutmix", EACH),)),
    "gridmix": Way((("gridmix", {"grid": 4, **EACH}),)),
    "resizemix": Way((("resizemix", EACH),)),
    "saliencymix": Way((("saliencymix", EACH),)),
    "attentive_cutmix": Way((("attentive_cutmix", {"grid": 4, "cells": 2}),), guided=True),
    "snapmix": Way((("snapmix", {"tap": "block_00/output", **EACH}),)),
    "smmix": Way((("smmix", {"patch": 2, **EACH}),)),
    "tokenmix": Way((("tokenmix", {"patch": 2, **EACH}),), guided=True),
    "maskmix": Way(MASKMIX),
    "mixpro": Way(MASKMIX, kwargs={"relabel": "mixpro"}),
    "transmix": Way(CUTMIX, kwargs={"relabel": "transmix"}),
    "tl_align": Way(CUTMIX, kwargs={"relabel": "tl_align"}),
    "automix": Way(name="automix", kwargs=SLOW),
    "adautomix": Way(name="adautomix", kwargs=SLOW),
    "samix": Way(name="samix", kwargs=SLOW),
}


class Look(nn.Module):
    """Tokens and what each sees of all, by one head of attention."""

    @nn.compact
    def __call__(self, tokens):
        query, key = (nn.Dense(tokens.shape[-1], name=name)(tokens) for name in ("query", "key"))
        logits = jnp.einsum("btd,bsd->bts", query, key) / np.sqrt(tokens.shape[-1])
        seen = tap(self, "attention", jax.nn.softmax(logits)[:, None])[:, 0]
        return tap(self, "output", tokens + nn.Dense(tokens.shape[-1], name="value")(seen @ tokens))


class LookingNet(nn.Module):
    """The net of `few_digits_runs` with a class token and attention between the patches.

    It learns of so few steps, where a small ViT does not.

    Attributes:
      num_classes: of the head.
      width: of the tokens; four times that of the vector behind them.
      patch_size: side of a patch.
      prefix_tokens: how many stand before the patches.
    """

    num_classes: int = 10
    width: int = 32
    patch_size: int = 2
    prefix_tokens: int = 1

    def setup(self):
        self.patches, self.block_00 = nn.Dense(self.width), Look()
        normal = nn.initializers.normal(0.5)
        self.places = self.param("places", normal, (16, self.width))
        self.token = self.param("token", normal, (1, self.width))
        self.mix, self.head = nn.Dense(4 * self.width), nn.Dense(self.num_classes)

    def tokens(self, images):
        """[B, 17, width]"""
        rows = len(images)
        patches = images.reshape(rows, 4, 2, 4, 2).transpose(0, 1, 3, 2, 4).reshape(rows, 16, 4)
        found = nn.relu(self.patches(patches)) + self.places
        token = jnp.broadcast_to(self.token, (rows, *self.token.shape))
        return self.block_00(jnp.concatenate([token, found], axis=1))

    def features(self, images):
        """The map of the patches."""
        tokens = self.tokens(images)
        return [tokens[:, 1:].reshape(len(images), 4, 4, self.width)]

    def __call__(self, images, train=False):
        tokens = self.tokens(images)
        vector = nn.relu(self.mix(tokens.reshape(len(images), -1)))
        return self.head(tap(self, "pre_logits", vector))


@functools.cache
def data_of(wrong: float) -> Data:
    """Digits, and those that are held out with a square of 4 x 4 blank."""
    data = few(LEARNED, wrong)

    def hide(seed, images):
        rng = np.random.default_rng(2000 + seed)
        first = rng.integers(0, 5, (len(images), 2, 1))
        along = (np.arange(8) >= first) & (np.arange(8) < first + 4)
        return jnp.where((along[:, 0, :, None] & along[:, 1, None])[..., None], 0, images)

    hidden = jnp.stack([hide(seed, images) for seed, images in zip(SEEDS, data["held"])])
    return {**data, "held_hidden": hidden}


def score(objective: Objective, variables: Any, data: Data) -> dict[str, jax.Array]:
    """The accuracy of whole images, and of those with a square blank."""
    images = jnp.concatenate([data["held"], data["held_hidden"]])
    batch = {"image": images, "label": jnp.tile(data["held_label"], 2)}
    right = objective.apply(variables, batch, method="evaluate")["accuracy"]
    whole, hidden = jnp.mean(right.astype(jnp.float32).reshape(2, -1), axis=1)
    return {"accuracy": whole, "hidden": hidden}


@functools.cache
def guide() -> Any:
    """Variables of nets that have learned 1400 digits."""
    found = learn(objective_of(LookingNet()), few(1400), any_place, accuracy, epochs=1, steps=1000)
    return {"params": found.variables["params"]["model"]}


@functools.cache
def found(name: str, wrong: float = 0.0) -> Learned:
    """Runs of a way, where a share of the labels is wrong."""
    way = WAYS[name]
    objective, teachers = objective_of(LookingNet(), way.name, kwargs=way.kwargs), ()
    if way.guided:
        objective, teachers = objective.clone(teachers=(Teacher("", LookingNet()),)), (guide(),)
    run = {"mixes": way.mix, "teachers": teachers, "epochs": EPOCHS}
    return learn(objective, data_of(wrong), any_place, score, **run)


def against(name: str, *others: str, hidden: tuple[str, ...] = ()) -> list[Finding]:
    """Findings that a way is above others, and on images with a square blank above others still."""
    findings = []
    for metric, names in (("accuracy", others), ("hidden", hidden)):
        where = "held-out digits" if metric == "accuracy" else "the same with 4 x 4 pixels blank"
        for other in names:
            own, reference = (found(each).at(metric) for each in (name, other))
            what = f"`{name}` and {other}, {where}, {LEARNED} learned"
            findings += above(what, own, other, reference)
    return findings


@claim("few-digits-mixup", paper="deit", by_hand=True)
def few_digits_mixup(quick):
    """Mixup learns more than plain images do, and bears wrong labels better."""
    own, plain = (found(name, WRONG).at("accuracy") for name in ("mixup", "none"))
    what = f"`mixup` and none, held-out digits, {WRONG:.0%} of {LEARNED} labels wrong"
    return against("mixup", "none") + above(what, own, "none", plain)


@claim("few-digits-cutout", paper="cutout", by_hand=True)
def few_digits_cutout(quick):
    """Holes in images make a net learn more of them, and bear holes."""
    return against("cutout", "none", hidden=("none",))


@claim("few-digits-cutmix", paper="attentive-cutmix", by_hand=True)
def few_digits_cutmix(quick):
    """CutMix learns more than plain images, mixup and Cutout, and bears holes better than mixup."""
    return against("cutmix", "none", "mixup", "cutout", hidden=("none", "mixup"))


@claim("few-digits-mixup-cutmix", paper="deit", by_hand=True)
def few_digits_mixup_cutmix(quick):
    """A transformer learns most of few images by mixup and CutMix in turn."""
    return against("mixup_cutmix", "none", "mixup", "cutmix")


@claim("few-digits-gridmix", paper="attentive-cutmix", by_hand=True)
def few_digits_gridmix(quick):
    """Cells of a grid mix images better than one box does."""
    return against("gridmix", "none", "cutmix")


@claim("few-digits-resizemix", paper="attentive-cutmix", by_hand=True)
def few_digits_resizemix(quick):
    """A partner that is pasted whole, made smaller, teaches more than a box cut from it."""
    return against("resizemix", "none", "cutmix")


@claim("few-digits-saliencymix", paper="attentive-cutmix", by_hand=True)
def few_digits_saliencymix(quick):
    """A box around the salient pixel teaches more than a box anywhere."""
    return against("saliencymix", "none", "cutmix")


@claim("few-digits-attentive-cutmix", paper="attentive-cutmix", by_hand=True)
def few_digits_attentive_cutmix(quick):
    """Cells that a trained net finds strongest teach more than a box anywhere, or a mean."""
    return against("attentive_cutmix", "none", "cutmix", "mixup")


@claim("few-digits-snapmix", paper="attentive-cutmix", by_hand=True)
def few_digits_snapmix(quick):
    """Labels by activation maps make boxes of unlike size teach more than CutMix."""
    return against("snapmix", "none", "cutmix")


@claim("few-digits-smmix", paper="smmix", by_hand=True)
def few_digits_smmix(quick):
    """A square from where a transformer looks most teaches it more than a box anywhere."""
    return against("smmix", "none", "cutmix")


@claim("few-digits-tokenmix", paper="mixpro", by_hand=True)
def few_digits_tokenmix(quick):
    """Blocks of patches, and labels by what a trained net sees, teach more than CutMix."""
    return against("tokenmix", "none", "cutmix", hidden=("cutmix",))


@claim("few-digits-mixpro", paper="mixpro", by_hand=True)
def few_digits_mixpro(quick):
    """Masks of whole patches beat CutMix; labels by attention, trusted slowly, add to them."""
    masks = against("maskmix", "none", "cutmix")
    return masks + against("mixpro", "maskmix", "cutmix", "transmix")


@claim("few-digits-transmix", paper="mixpro", by_hand=True)
def few_digits_transmix(quick):
    """CutMix with labels by the class token's attention teaches more, also of images with holes."""
    return against("transmix", "cutmix", hidden=("cutmix",))


@claim("few-digits-tl-align", paper="tl-align", by_hand=True)
def few_digits_tl_align(quick):
    """CutMix with labels that tokens carry along teaches more than with those of the area."""
    return against("tl_align", "none", "cutmix")


@claim("few-digits-automix", paper="adautomix", by_hand=True)
def few_digits_automix(quick):
    """Masks that are learned mix images better than mixup and CutMix."""
    return against("automix", "mixup", "cutmix")


@claim("few-digits-adautomix", paper="adautomix", by_hand=True)
def few_digits_adautomix(quick):
    """Masks that mislead in every other step teach more than those that help, and than mixup."""
    return against("adautomix", "mixup", "automix")


@claim("few-digits-samix", paper="adautomix", by_hand=True)
def few_digits_samix(quick):
    """Masks that read both images and differ from place to place teach more than AutoMix's."""
    return against("samix", "mixup", "automix")
