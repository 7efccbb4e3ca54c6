"""What views of digits teach, with labels and without, and where the loss is flat; three seeds."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.claims import Finding, claim
from benchmarks.claims.few_digits import digits, places
from benchmarks.claims.few_digits_runs import (
    SEEDS,
    Data,
    Net,
    Scores,
    above,
    accuracy,
    any_place,
    begun,
    few,
    learn,
    objective_of,
    stacked,
    standard,
)
from scanmax.data.policies import AugMix
from scanmax.train.objectives import Objective

# How many times each digit is changed beforehand.
CHANGES = 16
LABELLED = 70
CORRUPTIONS = ("noise", "blur", "contrast", "shift", "blank")


def corrupted(seed: int, images: jax.Array) -> jax.Array:
    """Images of pixels -1 to 1 as each of CORRUPTIONS leaves them, none of which AugMix makes."""
    rng = np.random.default_rng(4000 + seed)
    images = np.asarray(images)
    wide = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-1)
    blurred = sum(wide[:, y : y + 8, x : x + 8] for y in range(3) for x in range(3)) / 9
    blank = images.copy()
    blank[:, 3:6, 3:6] = -1
    found = {
        "noise": images + 0.6 * rng.normal(size=images.shape),
        "blur": blurred,
        "contrast": images.mean((1, 2, 3), keepdims=True) * 0.7 + 0.3 * images,
        "shift": wide[:, 2:, 2:],
        "blank": blank,
    }
    return jnp.asarray(np.stack([found[name] for name in CORRUPTIONS]), jnp.float32)


def changed(seed: int, images: jax.Array) -> jax.Array:
    """[N, CHANGES, 8, 8, 1], each as AugMix leaves it."""
    from PIL import Image

    rng, policy = np.random.default_rng(5000 + seed), AugMix()
    pixels = np.clip(np.round((np.asarray(images)[..., 0] + 1) * 127.5), 0, 255).astype(np.uint8)

    def change(own):
        image = Image.fromarray(own).convert("RGB")
        return np.asarray(policy(rng, image, (0, 0, 0)))[..., :1]

    found = np.stack([[change(own) for _ in range(CHANGES)] for own in pixels])
    return jnp.asarray(found / 127.5 - 1, jnp.float32)


@functools.cache
def changed_digits() -> Data:
    """140 digits, what AugMix makes of them, and others that are corrupted."""

    def make(seed):
        images, labels = digits(seed)
        return {
            "placed": standard(places(images[:140])),
            "changed": standard(changed(seed, images[:140])),
            "label": labels[:140],
            "held": standard(images[1400:]),
            "corrupted": standard(corrupted(seed, images[1400:])),
            "held_label": labels[1400:],
        }

    return stacked(make)


def three_views(key: jax.Array, data: Data) -> Data:
    """Digits as they are, and two changes of each."""
    own, which, place = jax.random.split(key, 3)
    index = jax.random.randint(own, (32,), 0, 140)
    clean = data["placed"][index, jax.random.randint(place, (32,), 0, 9)]
    at = jax.random.randint(which, (2, 32), 0, CHANGES)
    views = [clean, *(data["changed"][index, each] for each in at)]
    return {"image": jnp.stack(views, axis=1), "label": data["label"][index]}


def one_changed(key: jax.Array, data: Data) -> Data:
    """A change of each digit, learned as if it were the digit."""
    batch = three_views(key, data)
    return {**batch, "image": batch["image"][:, 1]}


def robust(objective: Objective, variables: Any, data: Data) -> dict[str, jax.Array]:
    """The accuracy of images as they are, and its mean over the corruptions."""
    found = jnp.stack(
        [
            accuracy(objective, variables, {**data, "held": images})["accuracy"]
            for images in data["corrupted"]
        ]
    )
    return {**accuracy(objective, variables, data), "corrupted": jnp.mean(found)}


@claim("few-digits-augmix", paper="deit", by_hand=True)
def few_digits_augmix(quick):
    """One answer for a digit and its changes bears other corruptions, better than changes alone."""
    net, data = Net(), changed_digits()
    own = learn(objective_of(net, "augmix"), data, three_views, robust)
    plain = learn(objective_of(net), data, any_place, robust)
    alone = learn(objective_of(net), data, one_changed, robust)
    kinds = ", ".join(CORRUPTIONS)
    findings = []
    for name, other in (("plain images", plain), ("changes alone", alone)):
        what = f"`augmix` and {name}, mean accuracy of digits with {kinds}, 140 learned"
        findings += above(what, own.at("corrupted"), name, other.at("corrupted"))
    what = "`augmix` and plain images, digits as they are"
    return findings + above(what, own.at("accuracy"), "plain images", plain.at("accuracy"))


def views_of(key: jax.Array, data: Data) -> Data:
    """Two views of digits without labels: moved, brighter or darker, noisy, with a square blank."""
    which, *keys = jax.random.split(key, 3)
    index = jax.random.randint(which, (128,), 0, data["placed"].shape[0])

    def view(key):
        place, scale, noise, hole = jax.random.split(key, 4)
        images = data["placed"][index, jax.random.randint(place, (128,), 0, 9)]
        images *= jax.random.uniform(scale, (128, 1, 1, 1), minval=0.6, maxval=1.4)
        images += 0.3 * jax.random.normal(noise, images.shape)
        first = jax.random.randint(hole, (128, 2, 1), 0, 6)
        along = (jnp.arange(8) >= first) & (jnp.arange(8) < first + 3)
        return jnp.where((along[:, 0, :, None] & along[:, 1, None])[..., None], 0, images)

    return {"image": jnp.stack([view(each) for each in keys], axis=1)}


def by_few(objective: Objective, variables: Any, data: Data) -> dict[str, jax.Array]:
    """The accuracy of a linear map of features, of ridge regression on few labelled digits."""
    params = {"params": variables["params"]["model"]}

    def features(images):
        found = objective.model.apply(params, images)
        found /= jnp.maximum(jnp.linalg.norm(found, axis=-1, keepdims=True), 1e-6)
        return jnp.concatenate([found, jnp.ones((len(found), 1))], axis=1)

    # The middle one of the nine places is the digit where it was.
    x, labels = features(data["placed"][:LABELLED, 4]), data["label"][:LABELLED]
    kernel = x @ x.T + 0.1 * jnp.eye(LABELLED)
    weights = x.T @ jnp.linalg.solve(kernel, jax.nn.one_hot(labels, 10))
    answers = jnp.argmax(features(data["held"]) @ weights, axis=-1)
    return {"accuracy": jnp.mean(answers == data["held_label"])}


@functools.cache
def without_labels(name: str) -> Scores:
    """Accuracies by few labels, of features that learned 1400 digits without any."""
    kwargs = {"projector_widths": (64, 32)}
    # The published momentum is for many more steps.
    kwargs |= {"predictor_widths": (64,), "momentum": 0.99} if name == "byol" else {}
    objective = objective_of(Net(0, 32), name, kwargs=kwargs)
    return learn(objective, few(1400), views_of, by_few).at("accuracy")


@functools.cache
def untaught() -> Scores:
    """The same of nets that learned nothing."""
    objective = objective_of(Net(0, 32), "simclr", kwargs={"projector_widths": (64, 32)})

    def start(key, data):
        params, _ = begun(objective, key, views_of(key, data))
        return by_few(objective, {"params": params}, data)["accuracy"]

    keys = jnp.stack([jax.random.key(seed) for seed in SEEDS])
    values = tuple(map(float, jax.jit(jax.vmap(start))(keys, few(1400))))
    return {"last": values, "best": values}


@functools.cache
def with_labels() -> Scores:
    """Accuracies of nets that learn as few labels, and nothing else."""
    return learn(objective_of(Net(10, 32)), few(LABELLED), any_place, accuracy).at("accuracy")


@claim("few-digits-simclr", paper="mv-mr", by_hand=True)
def few_digits_simclr(quick):
    """A linear map of features learned without labels needs few: it beats learning those alone."""
    own, what = without_labels("simclr"), f"held-out digits by {LABELLED} labels"
    findings = above(f"`simclr` and untaught features, {what}", own, "untaught", untaught())
    return findings + above(
        f"`simclr` and learning the labels, {what}", own, "labels alone", with_labels()
    )


@claim("few-digits-byol", paper="mv-mr", by_hand=True)
def few_digits_byol(quick):
    """Features that foretell a slow copy's, without negatives, are better than SimCLR's."""
    own, what = without_labels("byol"), f"held-out digits by {LABELLED} labels"
    findings = above(f"`byol` and untaught features, {what}", own, "untaught", untaught())
    findings += above(f"`byol` and SimCLR, {what}", own, "SimCLR", without_labels("simclr"))
    return findings


def sharpness(objective: Objective, variables: Any, data: Data) -> jax.Array:
    """How much the loss of what was learned rises at most nearby, by a step of 0.05 uphill."""
    batch = {"image": data["placed"][:, 4], "label": data["label"]}

    def loss(params):
        return jnp.mean(objective.apply({"params": params}, batch, method="evaluate")["loss"])

    value, slope = jax.value_and_grad(loss)(variables["params"])
    norm = jnp.sqrt(sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(slope)))
    uphill = jax.tree.map(lambda p, g: p + 0.05 * g / norm, variables["params"], slope)
    return loss(uphill) - value


@claim("few-digits-sam", paper="deit", by_hand=True)
def few_digits_sam(quick):
    """Steps by the gradient uphill of the parameters end where the loss is flat, and learn more."""

    def score(objective, variables, data):
        found = accuracy(objective, variables, data)
        return {**found, "sharpness": sharpness(objective, variables, data)}

    def run(gradient, wrong):
        return learn(objective_of(Net()), few(700, wrong), any_place, score, gradient=gradient)

    rules = {"sam": ("sam", {"rho": 0.05}), "plain": ("plain", {})}
    found = {(n, w): run(rule, w) for n, rule in rules.items() for w in (0.0, 0.4)}
    findings = []
    for wrong in (0.0, 0.4):
        own, plain = (found[name, wrong].at("accuracy") for name in rules)
        what = f"`sam` and plain, held-out digits of 700 learned, {wrong:.0%} of labels wrong"
        findings += above(what, own, "plain", plain)
    own, plain = (found[name, 0.0].at("sharpness")["last"] for name in rules)
    findings.append(
        Finding(
            "`sam` and plain, rise of the loss of 700 digits within 0.05, last epoch",
            "below plain",
            f"{np.mean(own):.4f}; plain {np.mean(plain):.4f}",
            bool(np.mean(own) < np.mean(plain)),
        )
    )
    return findings
