"""What losses of labels are worth on digits, and on made-up tasks of many labels; three seeds.

All claims of a process share their runs. Options are the published or the default ones.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.claims import Finding, claim
from benchmarks.claims.few_digits import digits, places, told
from benchmarks.claims.few_digits_runs import (
    Data,
    Learned,
    Net,
    Scores,
    above,
    accuracy,
    any_place,
    few,
    learn,
    objective_of,
    stacked,
    standard,
)
from scanmax.train.objectives import Objective

CROSS = "softmax_cross_entropy"
WRONG = 0.4
# Examples of each digit: the rarest has a fiftieth of the most common one.
TAIL = tuple(round(100 * 50 ** (-place / 9)) for place in range(10))
# Digits under a class for those with holes, one for straight and one for open ones.
ABOVE = (10, 11, 12, 12, 11, 12, 10, 11, 10, 10)
LABELS, WIDTH, LEARNED, HELD = 100, 32, 1000, 500
BACKGROUND = 0.98


@functools.cache
def of_digits(learned: int, loss: str, wrong: float = 0.0, mixed: bool = False, **options: Any):
    """Held-out accuracies of nets that learn digits by a loss, with its options."""
    objective = objective_of(Net(), loss=loss, loss_kwargs=options)
    mixes = (("mixup_cutmix", {"per": "element"}),) if mixed else ()
    return learn(objective, few(learned, wrong), any_place, accuracy, mixes=mixes).at("accuracy")


@claim("few-digits-comp-sum", paper="comp-sum-losses", by_hand=True)
def few_digits_comp_sum(quick):
    """Cross-entropy is among the best of the family, and a larger tau bears wrong labels better."""
    by_tau = {
        (tau, wrong): of_digits(700, "comp_sum", wrong, tau=tau)
        for tau in (0.0, 1.0, 1.5, 2.0)
        for wrong in (0.0, WRONG)
    }
    findings = []
    for tau in (0.0, 2.0):
        what = f"`comp_sum` at tau = 1 and {tau:g}, held-out digits of 700 learned"
        findings += above(what, by_tau[1.0, 0.0], f"tau = {tau:g}", by_tau[tau, 0.0])
    for tau, other in ((1.5, 1.0), (1.0, 0.0)):
        what = f"`comp_sum` at tau = {tau:g} and {other:g}, {WRONG:.0%} of 700 labels wrong"
        findings += above(what, by_tau[tau, WRONG], f"tau = {other:g}", by_tau[other, WRONG])
    return findings


@claim("few-digits-bce", paper="deit", by_hand=True)
def few_digits_bce(quick):
    """Mixed images are learned better as a question for each class than by cross-entropy."""
    own = of_digits(140, "binary_cross_entropy", mixed=True, threshold=0.2)
    what = "`binary_cross_entropy` above 0.2 and cross-entropy, mixup and CutMix, 140 digits"
    return above(what, own, "cross-entropy", of_digits(140, CROSS, mixed=True))


@claim("few-digits-svm", paper="cnn-svm", by_hand=True)
def few_digits_svm(quick):
    """Support vector machines for a head are as good as softmax, within one percent."""
    findings = []
    for learned in (140,):
        own, other = of_digits(learned, "squared_hinge"), of_digits(learned, CROSS)
        for when in ("last", "best"):
            apart = np.mean(own[when]) - np.mean(other[when])
            findings.append(
                Finding(
                    f"`squared_hinge` and cross-entropy, held-out digits of {learned} learned, "
                    f"{when} epoch",
                    "0.2% and 1.1% below it",
                    f"{told(own[when])}; {told(other[when])}",
                    bool(abs(apart) <= 0.011),
                )
            )
    return findings


@claim("few-digits-spherical", paper="z-loss-spherical", by_hand=True)
def few_digits_spherical(quick):
    """The Taylor softmax learns a few classes better than the softmax, the square one does not."""
    cross, findings = of_digits(140, CROSS), []
    taylor, square = (of_digits(140, "spherical_softmax", kind=k) for k in ("taylor", "square"))
    what = "`spherical_softmax` and others, held-out digits of 140 learned"
    findings += above(f"{what}, Taylor", taylor, "the softmax", cross)
    findings += above(f"{what}, Taylor", taylor, "the square one", square)
    return findings


def tail(seed: int) -> Data:
    """Digits of which each is rarer than the one before."""
    images, labels = digits(seed)
    rows = [np.flatnonzero(np.asarray(labels[:1400]) == c)[:count] for c, count in enumerate(TAIL)]
    rows = np.concatenate(rows)
    held = {"held": standard(images[1400:]), "held_label": labels[1400:]}
    return {"placed": standard(places(images[rows])), "label": labels[rows], **held}


@functools.cache
def of_tail(name: str, loss: str, scale: float = 0.0, **options: Any) -> Scores:
    """Held-out accuracies, all digits as often, of nets that learn a long tail."""
    kwargs = {"scale": scale} if scale else {}
    model = Net(num_classes=0 if name == "cosine_classification" else 10)
    objective = objective_of(model, name, loss=loss, loss_kwargs=options, kwargs=kwargs)
    return learn(objective, stacked(tail), any_place, accuracy).at("accuracy")


@claim("few-digits-long-tail", paper="deit-lt", by_hand=True)
def few_digits_long_tail(quick):
    """Margins that are wider for rare classes teach these, more so with weights late in the run."""
    plain = of_tail("classification", CROSS)
    cosine = of_tail("cosine_classification", CROSS, scale=30.0)
    margins = of_tail("cosine_classification", "ldam", scale=1.0, counts=TAIL)
    late = {"counts": TAIL, "beta": 0.9999, "defer": 0.8}
    deferred = of_tail("cosine_classification", "ldam", scale=1.0, **late)
    focal = of_tail("classification", "focal")
    what = f"held-out digits of {TAIL[0]} to {TAIL[-1]} examples"
    findings = above(f"`ldam` and cross-entropy, {what}", margins, "cross-entropy", plain)
    findings += above(f"`ldam` and cosines alone, {what}", margins, "cosines", cosine)
    findings += above(f"`ldam` and with deferred weights, {what}", deferred, "`ldam`", margins)
    return findings + above(f"`focal` and cross-entropy, {what}", focal, "cross-entropy", plain)


def crops(seed: int) -> Data:
    """Digits, and crops that hold none: pixels in any order, and, one in ten, digits half out."""
    images, labels = digits(seed)
    rng = np.random.default_rng(6000 + seed)
    pixels = np.asarray(standard(images)).reshape(-1, 64)

    def behind(own, count):
        found = rng.permuted(own[rng.integers(0, len(own), count)], axis=1).reshape(-1, 8, 8, 1)
        hard = count // 10
        half = own[rng.integers(0, len(own), hard)].reshape(-1, 8, 8, 1)
        found[:hard] = np.where(
            np.arange(hard)[:, None, None, None] % 2,
            *(np.roll(half, 4, axis=axis) for axis in (1, 2)),
        )
        return jnp.asarray(found)

    return {
        "placed": standard(places(images[:1400])),
        "label": labels[:1400],
        "behind": behind(pixels[:1400], 8000),
        "held": standard(images[1400:]),
        "held_label": labels[1400:],
        "held_behind": behind(pixels[1400:], 3970),
    }


def sites(key: jax.Array, data: Data) -> Data:
    """A batch of crops, nearly all of which hold nothing."""
    which, behind, own = jax.random.split(key, 3)
    batch = any_place(own, data, 256)
    rows = jax.random.randint(behind, (256,), 0, len(data["behind"]))
    is_there = jax.random.uniform(which, (256,)) >= BACKGROUND
    images = jnp.where(is_there[:, None, None, None], batch["image"], data["behind"][rows])
    return {"image": images, "label": jax.nn.one_hot(batch["label"], 10) * is_there[:, None]}


def precision(logits: jax.Array, relevant: jax.Array) -> jax.Array:
    """The average precision of a column of scores."""
    hits = relevant[jnp.argsort(-logits)].astype(jnp.float32)
    at = jnp.cumsum(hits) / jnp.arange(1, len(hits) + 1)
    return jnp.sum(hits * at) / jnp.sum(hits)


def detected(objective: Objective, variables: Any, data: Data) -> dict[str, jax.Array]:
    """The mean over the digits of the average precision among ten times as many backgrounds."""
    params = {"params": variables["params"]["model"]}
    images = jnp.concatenate([data["held"], data["held_behind"]])
    logits = objective.model.apply(params, images)
    labels = jax.nn.one_hot(data["held_label"], 10)
    labels = jnp.pad(labels, ((0, len(images) - len(labels)), (0, 0)))
    return {"precision": jnp.mean(jax.vmap(precision, in_axes=1)(logits, labels))}


@claim("few-digits-focal", paper="deit-lt", by_hand=True)
def few_digits_focal(quick):
    """The focal loss finds what is rare among easy backgrounds better than cross-entropy."""

    def run(loss, **options):
        objective = objective_of(Net(prior=0.01), loss=loss, loss_kwargs=options)
        return learn(objective, stacked(crops), sites, detected).at("precision")

    own = run("focal", over="sigmoid", gamma=2.0, alpha=0.25)
    plain = run("binary_cross_entropy", sums_classes=True)
    what = f"`focal` of each class, mean average precision, {BACKGROUND:.0%} of crops hold nothing"
    return above(what, own, "binary cross-entropy", plain)


def partly(seed: int) -> Data:
    """Digits of which 70 have their own label and 1330 that of the class above."""
    images, labels = digits(seed)
    over = jnp.asarray(ABOVE)[labels[:1400]]
    label = jnp.where(jnp.arange(1400) < 70, labels[:1400], over)
    held = {"held": standard(images[1400:]), "held_label": labels[1400:]}
    return {"placed": standard(places(images[:1400])), "label": label, **held}


def of_leaves(objective: Objective, variables: Any, data: Data) -> dict[str, jax.Array]:
    """The accuracy among digits."""
    params = {"params": variables["params"]["model"]}
    logits = objective.model.apply(params, data["held"])[:, :10]
    return {"accuracy": jnp.mean(jnp.argmax(logits, axis=-1) == data["held_label"])}


@claim("few-digits-semantic", paper="imagenet21k-p-semantic-softmax", by_hand=True)
def few_digits_semantic(quick):
    """A softmax for each level of a tree learns more of labels of all levels than a flat one."""

    def run(loss, **options):
        objective = objective_of(Net(13), classes=13, loss=loss, loss_kwargs=options)
        return learn(objective, stacked(partly), any_place, of_leaves).at("accuracy")

    tree = {"parents": (*ABOVE, -1, -1, -1)}
    what = (
        "`semantic_softmax` and a flat one, held-out digits; 70 labels of digits, 1330 of classes"
    )
    return above(what, run("semantic_softmax", **tree), "a flat softmax", run(CROSS))


class Scorer(nn.Module):
    """A score of each label."""

    @nn.compact
    def __call__(self, images, train=False):
        return nn.Dense(LABELS)(nn.relu(nn.Dense(64)(images)))


def labelled(seed: int, single: bool) -> Data:
    """Vectors that are sums of what stands for their labels, with noise.

    Each has one to ten labels, some much more common than others.

    Args:
      seed: of all.
      single: whether one of them, any, is the label; else all are, in equal parts.
    """
    rng = np.random.default_rng(3000 + seed)
    kinds = rng.normal(size=(LABELS, WIDTH)) / np.sqrt(WIDTH)
    chance = 1 / np.arange(1, LABELS + 1)
    chance /= chance.sum()
    rows = LEARNED + HELD
    labels = np.zeros((rows, LABELS), np.float32)
    for row in range(rows):
        labels[row, rng.choice(LABELS, rng.integers(1, 11), replace=False, p=chance)] = 1
    x = (labels * rng.uniform(0.5, 1.5, labels.shape)) @ kinds + 0.1 * rng.normal(
        size=(rows, WIDTH)
    )
    one = np.asarray([rng.choice(np.flatnonzero(own)) for own in labels], np.int32)
    target = one if single else labels / labels.sum(1, keepdims=True)
    parts = {"image": x.astype(np.float32), "label": target}
    own = {name: jnp.asarray(value[:LEARNED]) for name, value in parts.items()}
    held = {"held": parts["image"], "held_label": np.eye(LABELS)[one] if single else labels}
    return own | {name: jnp.asarray(value[LEARNED:], jnp.float32) for name, value in held.items()}


def any_row(key: jax.Array, data: Data) -> Data:
    """A batch."""
    index = jax.random.randint(key, (64,), 0, LEARNED)
    return {name: data[name][index] for name in ("image", "label")}


def found_among(objective: Objective, variables: Any, data: Data) -> dict[str, jax.Array]:
    """Of the labels that are scored highest the share that are right, and of single ones found."""
    logits = objective.model.apply({"params": variables["params"]["model"]}, data["held"])
    _, best = jax.lax.top_k(logits, 10)
    hits = jnp.take_along_axis(data["held_label"], best, axis=1)
    within = {f"within {k}": jnp.mean(jnp.sum(hits[:, :k], axis=1)) for k in (1, 5, 10)}
    return within | {f"at {k}": value / k for k, value in zip((1, 5, 10), within.values())}


@functools.cache
def of_labels(single: bool, loss: str, **options: Any) -> Callable[[str], Scores]:
    """Scores of nets that learn to rank labels."""
    objective = objective_of(Scorer(), classes=LABELS, loss=loss, loss_kwargs=options)
    data = stacked(functools.partial(labelled, single=single))
    found: Learned = learn(objective, data, any_row, found_among)
    return found.at


@claim("made-up-labels", paper="dexml-decoupled-softmax", by_hand=True)
def made_up_labels(quick):
    """Labels that do not push each other down are ranked better; top-k is best at its k."""
    plain, own = of_labels(False, CROSS), of_labels(False, "decoupled_softmax")
    few_best = of_labels(False, "soft_topk", k=5)
    what = f"one to ten of {LABELS} labels, held-out precision at"
    findings = []
    for k in (1, 5):
        name = f"at {k}"
        findings += above(f"`decoupled_softmax`, {what} {k}", own(name), "the softmax", plain(name))
    for name, other in (("the softmax", plain), ("`decoupled_softmax`", own)):
        findings += above(f"`soft_topk` of 5, {what} 5", few_best("at 5"), name, other("at 5"))
    return findings


@claim("made-up-z-loss", paper="z-loss-spherical", by_hand=True)
def made_up_z_loss(quick):
    """The Z-loss finds labels among the k highest as often as the softmax, or more, where k > 1."""
    plain, findings = of_labels(True, CROSS), []
    for b in (2.0, 5.0):
        own = of_labels(True, "z_loss", b=b)
        for k in (1, 5, 10):
            name = f"within {k}"
            what = f"`z_loss` with b = {b:g}, one of {LABELS} labels, within the {k} highest"
            findings += above(what, own(name), "the softmax", plain(name))
    return findings


def unseen(seed: int) -> Data:
    """Digits 0 to 5 to learn, and of 6 to 9 ten of each to compare 150 others with."""
    images, labels = digits(seed)
    own, others = np.flatnonzero(labels < 6)[:800], np.asarray(labels)
    support = np.stack([np.flatnonzero(others == c)[:10] for c in range(6, 10)])
    rest = np.setdiff1d(np.flatnonzero(others >= 6), support)[:150]
    return {
        "placed": standard(places(images[own])),
        "label": labels[own],
        "support": standard(images[support.ravel()]),
        "held": standard(images[rest]),
        "held_label": labels[rest] - 6,
    }


def by_prototypes(objective: Objective, variables: Any, data: Data) -> dict[str, jax.Array]:
    """The accuracy of the nearest mean of ten, by the cosine of features."""
    model, params = objective.model.clone(num_classes=0), variables["params"]["model"]

    def features(images):
        found = model.apply({"params": params}, images)
        return found / jnp.maximum(jnp.linalg.norm(found, axis=-1, keepdims=True), 1e-6)

    means = features(data["support"]).reshape(4, 10, -1).mean(axis=1)
    means /= jnp.linalg.norm(means, axis=-1, keepdims=True)
    nearest = jnp.argmax(features(data["held"]) @ means.T, axis=-1)
    return {"accuracy": jnp.mean(nearest == data["held_label"])}


@claim("few-digits-unseen", paper="hyperspherical-normalized-softmax", by_hand=True)
def few_digits_unseen(quick):
    """Features that learned classes by angles tell classes apart that they never saw."""

    def run(model, name):
        objective = objective_of(model, name, classes=6)
        return learn(objective, stacked(unseen), any_place, by_prototypes).at("accuracy")

    own, plain = run(Net(0), "cosine_classification"), run(Net(6), "classification")
    what = "`cosine_classification` and a plain head, digits 6 to 9 by ten of each, 0 to 5 learned"
    return above(what, own, "a plain head", plain)


@claim("few-digits-equiangular", paper="equiangular-basis-vectors", by_hand=True)
def few_digits_equiangular(quick):
    """Fixed vectors are as good for classes as a head that is learned, in fewer dimensions too."""
    plain, findings = of_digits(140, CROSS), []
    for dim in (64, 6):
        kwargs = {"vectors": "equiangular", "dim": dim}
        objective = objective_of(Net(0), "cosine_classification", kwargs=kwargs)
        own = learn(objective, few(140), any_place, accuracy).at("accuracy")
        what = f"`cosine_classification` by fixed vectors of {dim}, held-out digits of 140 learned"
        findings += above(what, own, "a head", plain)
    return findings
