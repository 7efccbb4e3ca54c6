"""Losses of classes: each against its equation as a loop, gradients by a complex step."""

import cmath
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.svm import LinearSVC

from scanmax.errors import UserError
from scanmax.testing import ObjectiveSuite, SmallImages, SmallNet
from scanmax.train.build import build
from scanmax.train.config import Config, ObjectiveConfig
from scanmax.train.losses import LOSSES, make_loss
from scanmax.train.losses.base import class_weights
from scanmax.train.losses.soft_topk import topk_shift

CLASSES = 5
LOGITS = 2 * np.random.default_rng(0).normal(size=(2, CLASSES))
# A tree: 0 and 1 at the top, 2 and 3 below 0, 4 below 2 (alone at its depth, and so silent).
PARENTS = (-1, -1, 0, 0, 2)
TREE = ((0, (0, 1), 1.0), (1, (2, 3), 5 / 3))
COUNTS = (100, 50, 20, 5, 1)
LABELS = {
    "class": np.asarray([2, 0]),
    "mixed": np.asarray([[0.0, 0.3, 0.0, 0.0, 0.7], [0.0, 0.0, 1.0, 0.0, 0.0]]),
}


# The equations, over a row of complex logits x and shares p of its label.


def log_softmax(x):
    shift = max(v.real for v in x)
    total = cmath.log(sum(cmath.exp(v - shift) for v in x)) + shift
    return [v - total for v in x]


def cross_entropy(x, p):
    return -sum(share * log for share, log in zip(p, log_softmax(x)))


def stablemax(x, p):
    scores = [v + 1 if v.real >= 0 else 1 / (1 - v) for v in x]
    return -sum(share * cmath.log(score / sum(scores)) for share, score in zip(p, scores))


def sigmoid(v):
    return 1 / (1 + cmath.exp(-v))


def binary(v, share):
    return -share * cmath.log(sigmoid(v)) - (1 - share) * cmath.log(1 - sigmoid(v))


def binary_cross_entropy(x, p, threshold=None, sums_classes=False):
    if threshold is not None:
        p = [1.0 if share > threshold else 0.0 for share in p]
    total = sum(binary(v, share) for v, share in zip(x, p))
    return total if sums_classes else total / len(x)


def focal(x, p, gamma=2.0, over="softmax", alpha=None):
    total = 0
    if over == "softmax":
        for share, log in zip(p, log_softmax(x)):
            total -= share * (1 - cmath.exp(log)) ** gamma * log
        return total
    for v, share in zip(x, p):
        q = share * sigmoid(v) + (1 - share) * (1 - sigmoid(v))
        weight = 1 if alpha is None else alpha * share + (1 - alpha) * (1 - share)
        total += weight * (1 - q) ** gamma * binary(v, share)
    return total


def ldam(x, p, counts=COUNTS, max_margin=0.5, scale=30.0, **_):
    margins = [1 / math.sqrt(math.sqrt(count)) for count in counts]
    shifted = [
        scale * (v - share * max_margin * margin / max(margins))
        for v, share, margin in zip(x, p, margins)
    ]
    return cross_entropy(shifted, p)


def comp_sum(x, p, tau=1.0):
    total = 0
    for label, share in enumerate(p):
        u = sum(cmath.exp(v - x[label]) for c, v in enumerate(x) if c != label)
        if tau == 1:
            total += share * cmath.log(1 + u)
        else:
            total += share * ((1 + u) ** (1 - tau) - 1) / (1 - tau)
    return total


def squared_hinge(x, p, penalty=1.0):
    def hinge(v):
        return (1 - v) ** 2 if v.real < 1 else 0

    return penalty * sum(share * hinge(v) + (1 - share) * hinge(-v) for v, share in zip(x, p))


def z_loss(x, p, a=1.0, b=2.0):
    mean = sum(x) / len(x)
    deviation = cmath.sqrt(sum((v - mean) ** 2 for v in x) / len(x))
    total = 0
    for v, share in zip(x, p):
        total += share * cmath.log(1 + cmath.exp(a * (b - (v - mean) / deviation))) / a
    return total


def spherical_softmax(x, p, kind="taylor", epsilon=1e-3):
    scores = [1 + v + v**2 / 2 if kind == "taylor" else v**2 + epsilon for v in x]
    return -sum(share * cmath.log(score / sum(scores)) for share, score in zip(p, scores))


def decoupled_softmax(x, p, temperature=1.0):
    total = 0
    for label, share in enumerate(p):
        if share:
            rivals = [x[label]] + [v for v, other in zip(x, p) if not other]
            total -= share * log_softmax([v / temperature for v in rivals])[0]
    return total


def soft_topk(x, p, k=5, alpha=1.0, temperature=1.0):
    scores = [alpha * v / temperature for v in x]
    shift = 0j
    # Newton's steps, which carry the imaginary part along.
    for _ in range(60):
        chosen = [sigmoid(v + shift) for v in scores]
        step = (sum(chosen) - k) / sum(q * (1 - q) for q in chosen)
        shift -= step / max(1.0, abs(step))
    return -sum(share * cmath.log(sigmoid(v + shift)) for v, share in zip(scores, p))


def semantic_softmax(x, p, max_weight=20.0, smoothing=0.0, **_):
    total = 0
    for depth, classes, weight in TREE:
        shares = [0.0] * len(classes)
        for label, share in enumerate(p):
            path = [label]
            while PARENTS[path[0]] >= 0:
                path.insert(0, PARENTS[path[0]])
            if len(path) > depth:
                shares[classes.index(path[depth])] += share
        shares = [
            (1 - smoothing) * share + smoothing * sum(shares) / len(classes) for share in shares
        ]
        logs = log_softmax([x[c] for c in classes])
        total -= min(weight, max_weight) * sum(s * log for s, log in zip(shares, logs))
    return total


CASES = [
    ("softmax_cross_entropy", cross_entropy, {}),
    ("stablemax_cross_entropy", stablemax, {}),
    ("binary_cross_entropy", binary_cross_entropy, {}),
    ("binary_cross_entropy", binary_cross_entropy, {"threshold": 0.4, "sums_classes": True}),
    ("focal", focal, {}),
    ("focal", focal, {"gamma": 0.5}),
    ("focal", focal, {"gamma": 1.5, "over": "sigmoid", "alpha": 0.25}),
    ("ldam", ldam, {"counts": COUNTS, "max_margin": 0.8, "scale": 2.0}),
    *[("comp_sum", comp_sum, {"tau": tau}) for tau in (0.0, 0.4, 1.0, 1.5, 2.0, 3.0)],
    ("squared_hinge", squared_hinge, {"penalty": 0.7}),
    ("z_loss", z_loss, {"a": 0.3, "b": 1.4}),
    ("spherical_softmax", spherical_softmax, {}),
    ("spherical_softmax", spherical_softmax, {"kind": "square", "epsilon": 0.1}),
    ("decoupled_softmax", decoupled_softmax, {"temperature": 0.5}),
    ("soft_topk", soft_topk, {"k": 2, "alpha": 1.7, "temperature": 0.8}),
    ("semantic_softmax", semantic_softmax, {"parents": PARENTS}),
    ("semantic_softmax", semantic_softmax, {"parents": PARENTS, "max_weight": 1.5}),
]


def loop(equation, labels, options, smoothing, own_smoothing):
    """Values and gradients of a batch."""
    values, slopes = [], np.zeros(LOGITS.shape)
    for row, label in enumerate(labels):
        p = [float(c == label) for c in range(CLASSES)] if labels.ndim == 1 else list(label)
        if own_smoothing:
            options = {**options, "smoothing": smoothing}
        else:
            p = [share * (1 - smoothing) + smoothing / CLASSES for share in p]
        values.append(equation(list(LOGITS[row].astype(complex)), p, **options).real)
        for c in range(CLASSES):
            x = list(LOGITS[row].astype(complex))
            x[c] += 1e-30j
            slopes[row, c] = equation(x, p, **options).imag / 1e-30
    return np.asarray(values), slopes


def test_every_loss_has_its_loop():
    assert {name for name, _, _ in CASES} == set(LOSSES)


@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize(
    ("name", "equation", "options"), CASES, ids=[f"{n}-{i}" for i, (n, _, _) in enumerate(CASES)]
)
def test_values_and_gradients_are_those_of_the_equation(name, equation, options, smoothing, labels):
    loss = LOSSES[name](**options)
    if (smoothing and not loss.smooths) or (labels == "mixed" and not loss.blends):
        with pytest.raises(UserError, match="takes no"):
            loss(jnp.asarray(LOGITS), jnp.asarray(LABELS[labels]), label_smoothing=smoothing)
        return
    own = name == "semantic_softmax"
    expected, slope = loop(equation, LABELS[labels], options, smoothing, own)
    with jax.enable_x64(True):
        given = jnp.asarray(LABELS[labels])

        def total(logits):
            values = loss(logits, given, label_smoothing=smoothing)
            return values.sum(), values

        (_, found), gradient = jax.value_and_grad(total, has_aux=True)(jnp.asarray(LOGITS))
        np.testing.assert_allclose(found, expected, rtol=1e-10)
        np.testing.assert_allclose(gradient, slope, rtol=1e-10, atol=1e-10)


def of(name, logits=LOGITS, labels="class", **options):
    """A loss of each row, compiled."""
    call = jax.jit(LOSSES[name](**options))
    return np.asarray(call(jnp.asarray(logits), jnp.asarray(LABELS[labels])))


def test_limits_are_the_losses_that_they_should_be():
    plain = of("softmax_cross_entropy")
    label = np.exp(-plain)
    for same in (
        of("comp_sum", tau=1.0),
        of("comp_sum", tau=1.0 + 1e-6),
        of("focal", gamma=0.0),
        of("ldam", counts=COUNTS, max_margin=0.0, scale=1.0),
        of("decoupled_softmax"),
        of("semantic_softmax", parents=(-1,) * CLASSES),
    ):
        np.testing.assert_allclose(same, plain, rtol=2e-5)
    np.testing.assert_allclose(of("comp_sum", tau=0.0), 1 / label - 1, rtol=1e-5)
    np.testing.assert_allclose(of("comp_sum", tau=2.0), 1 - label, rtol=1e-5)
    moved = of("z_loss", 3 * LOGITS - 7)
    np.testing.assert_allclose(moved, of("z_loss"), rtol=1e-5)
    # Two true classes of a decoupled softmax do not rival each other; of a softmax they do.
    best = [[20.0, -20.0, -20.0, -20.0, 10.0]] * 2
    true = np.asarray([[0.5, 0.0, 0.0, 0.0, 0.5]] * 2)
    found = [
        jax.jit(LOSSES[name]())(jnp.asarray(best), jnp.asarray(true))[0]
        for name in ("decoupled_softmax", "softmax_cross_entropy")
    ]
    assert found[0] < 1e-6
    assert found[1] > 4


def test_probabilities_are_those_that_the_loss_reads():
    x = jnp.asarray(LOGITS)
    label = np.arange(2), LABELS["class"]
    for name, options in (
        ("softmax_cross_entropy", {}),
        ("stablemax_cross_entropy", {}),
        ("spherical_softmax", {"kind": "square"}),
    ):
        chance = np.asarray(jax.jit(LOSSES[name](**options).probabilities)(x))
        np.testing.assert_allclose(chance.sum(-1), 1, rtol=1e-6)
        np.testing.assert_allclose(-np.log(chance[label]), of(name, **options), rtol=1e-5)
    for name, options in (("binary_cross_entropy", {}), ("focal", {"over": "sigmoid"})):
        chance = np.asarray(LOSSES[name](**options).probabilities(x))
        np.testing.assert_allclose(chance, 1 / (1 + np.exp(-LOGITS)), rtol=1e-5)


@pytest.mark.parametrize("k", [1, 3, 6])
def test_soft_topk_sums_to_k(k):
    scores = 30 * jax.random.normal(jax.random.key(0), (4, 7))
    chosen = jax.nn.sigmoid(scores + topk_shift(scores, k))
    np.testing.assert_allclose(chosen.sum(-1), k, rtol=1e-5)


def test_a_label_says_nothing_below_its_own_level():
    loss = LOSSES["semantic_softmax"](parents=PARENTS)
    slope = jax.jit(jax.grad(lambda x: loss(x, jnp.asarray([1, 0])).sum()))(jnp.asarray(LOGITS))
    assert np.all(np.asarray(slope[:, 2:]) == 0)
    assert np.all(np.asarray(slope[:, :2]) != 0)
    # Right among its own depth, though a class of another has more.
    heavy = jnp.asarray([[9.0, 0.0, 2.0, 1.0, 0.0]] * 2)
    found = jax.jit(loss.is_correct)(heavy, jnp.asarray([2, 3]))
    np.testing.assert_array_equal(found, [True, False])


def test_no_logits_overflow_and_none_have_an_infinite_slope():
    extreme = jnp.asarray([[1e4, -1e4, 0.0, 0.0, 1.0], [0.0] * CLASSES], jnp.float32)
    # Below tau=1 a sum of exponentials is as large as it is.
    losses = [LOSSES[name](**own) for name, _, own in CASES if own.get("tau", 1) >= 1]

    @jax.jit
    def slopes(logits):
        labels = jnp.asarray([1, 0])
        return [jax.value_and_grad(lambda x, f=f: f(x, labels).sum())(logits) for f in losses]

    for loss, found in zip(losses, slopes(extreme)):
        assert all(np.isfinite(part).all() for part in found), loss


def test_classes_weigh_by_the_inverse_of_their_effective_number():
    expected = [(1 - 0.99) / (1 - 0.99**count) for count in COUNTS]
    expected = np.asarray(expected) / np.mean(expected)
    np.testing.assert_allclose(class_weights(COUNTS, 0.99), expected, rtol=1e-12)
    weighed = {"counts": COUNTS, "beta": 0.99}
    plain = of("focal")
    np.testing.assert_allclose(of("focal", **weighed), expected[[2, 0]] * plain, rtol=1e-6)
    mixed = of("focal", labels="mixed")
    shares = LABELS["mixed"] @ expected
    np.testing.assert_allclose(of("focal", labels="mixed", **weighed), shares * mixed, rtol=1e-6)
    late = LOSSES["focal"](**weighed, defer=0.8)
    for progress, weights in ((None, 1), (0.79, 1), (0.81, expected[[2, 0]])):
        found = late(jnp.asarray(LOGITS), jnp.asarray(LABELS["class"]), progress=progress)
        np.testing.assert_allclose(found, weights * plain, rtol=1e-6)


def test_a_linear_model_of_squared_hinges_is_the_support_vector_machine():
    rng = np.random.default_rng(1)
    images, labels = rng.normal(size=(40, 6)), rng.integers(0, 3, 40)
    machine = LinearSVC(C=0.5, fit_intercept=False, tol=1e-10, max_iter=100_000)
    kernel = machine.fit(images, labels).coef_.T
    loss = LOSSES["squared_hinge"](penalty=0.5)
    with jax.enable_x64(True):

        def machine_loss(kernel):
            logits = jnp.asarray(images) @ kernel
            return jnp.sum(kernel**2) / 2 + jnp.sum(loss(logits, jnp.asarray(labels)))

        slope = jax.jit(jax.grad(machine_loss))(jnp.asarray(kernel))
    assert np.abs(slope).max() < 1e-4 * np.abs(kernel).max()


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"loss": "focl"}, "did you mean 'focal'"),
        ({"loss": "focal", "loss_kwargs": {"gama": 1.0}}, "did you mean 'gamma'"),
        ({"loss": "focal", "loss_kwargs": {"gamma": -1.0}}, "gamma=-1.0 must be at least 0"),
        ({"loss": "focal", "loss_kwargs": {"alpha": 0.5}}, "alpha=0.5 is of over='sigmoid'"),
        ({"loss": "ldam"}, "needs counts"),
        ({"loss_kwargs": {"counts": (1, 2, 3, 4)}}, "counts weigh nothing at beta=0"),
        ({"loss_kwargs": {"beta": 0.9}}, "needs counts"),
        ({"loss_kwargs": {"beta": 0.9, "counts": (1, 0)}}, "above 0"),
        ({"loss_kwargs": {"beta": 0.9, "counts": (1, 2)}}, "counts holds 2 classes.* with 4"),
        ({"loss_kwargs": {"defer": 0.5}}, "defer=0.5 defers weights"),
        ({"loss": "soft_topk", "loss_kwargs": {"k": 4}}, "k=4 must be below the 4 classes"),
        ({"loss": "soft_topk", "label_smoothing": 0.1}, "takes no smoothed labels"),
        ({"loss": "semantic_softmax"}, "needs parents"),
        ({"loss": "semantic_softmax", "loss_kwargs": {"parents": (1, 0)}}, "is above itself"),
        ({"loss": "semantic_softmax", "loss_kwargs": {"parents": (7,)}}, "no parent 7"),
        ({"loss": "semantic_softmax", "loss_kwargs": {"parents": (-1,)}}, "parents holds 1 cl"),
    ],
)
def test_mistakes_are_one_line(fields, expected):
    with pytest.raises(UserError, match=expected):
        build(Config(objective=ObjectiveConfig(**fields)), pipeline=SmallImages(), model=SmallNet())


def test_mixing_is_refused_where_labels_must_be_classes():
    own = ObjectiveConfig(loss="ldam", loss_kwargs={"counts": (1, 2, 3, 4)})
    config = Config(objective=own, mix=("mixup",))
    with pytest.raises(UserError, match="the loss Ldam takes no mixed labels"):
        build(config, pipeline=SmallImages(), model=SmallNet())
    assert make_loss(own).scale == 30


class WeighedCosineSuite(ObjectiveSuite):
    """A loss with options over angles with fixed vectors, and weights from half a run on."""

    options = {"gamma": 1.0, "counts": (9, 3, 2, 1), "beta": 0.9, "defer": 0.5}
    own = {"vectors": "equiangular", "dim": 3, "scale": 5.0, "margin": 0.2}
    fields = {
        "objective": ObjectiveConfig(
            name="cosine_classification",
            kwargs=own,
            loss="focal",
            loss_kwargs=options,
            label_smoothing=0.1,
        )
    }
    model = SmallNet(num_classes=0)
    frozen = ("head",)

    def reference(self, variables, batch, teachers):
        params = variables["params"]
        model = self.model.clone(dtype=jnp.float64)
        features = model.apply({"params": params["model"]}, batch["image"], train=True)
        vectors = variables["class_vectors"]["angles"]["fixed"]
        total = 0.0
        for row in range(len(features)):
            if batch["mask"][row]:
                f = features[row] @ params["angles"]["project"]["kernel"]
                f = f + params["angles"]["project"]["bias"]
                label = jnp.arange(4) == batch["label"][row]
                cosines = jnp.stack([f @ v / jnp.sqrt((f @ f) * (v @ v)) for v in vectors])
                powers = jnp.exp(5 * (cosines - 0.2 * label))
                shares = powers / sum(powers)
                target = 0.9 * label + 0.1 / 4
                total -= sum(target * (1 - shares) * jnp.log(shares))
        return total / sum(batch["mask"])

    def test_weights_count_from_the_second_half_on(self):
        run, batch = self.plain_run(), self.batch()
        state = run.init()
        loss = jax.jit(lambda carried: self.loss_of(run.recipe, state.params, carried, batch, ()))
        values = []
        for step in range(4):
            carried = run.objective.after_update(state.params, state.carried, jnp.asarray(step))
            self.assertEqual(carried["progress"]["share"], (step + 1) / 4)
            values.append(float(loss(carried)))
        # Behind the second of four updates.
        self.assertEqual(values[1], values[3])
        self.assertGreater(abs(values[1] - values[0]), 1e-2)
