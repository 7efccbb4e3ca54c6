"""Relations in a batch against loops over pairs and triplets; what they are blind to."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scanmax.testing import ObjectiveSuite, SmallNet
from scanmax.train.config import ObjectiveConfig
from scanmax.train.teachers import Told
from scanmax.train.terms.dist import Dist
from scanmax.train.terms.distance_correlation import (
    DistanceCorrelation,
    distance_correlation,
)
from scanmax.train.terms.diswot import DisWot, classifier_slope
from scanmax.train.terms.relations import Congruence, Rkd, Similarity

DIST = {"beta": 0.5, "gamma": 2.0, "temperature": 3.0}
RKD = {"distance": 3.0, "angle": 2.0}
TAPS = {"student_tap": "output", "teacher_tap": "stem"}


def correlation(x, y):
    x, y = x - sum(x) / len(x), y - sum(y) / len(y)
    return sum(x * y) / jnp.sqrt(sum(x * x) * sum(y * y))


def dist(own, told):
    own, told = (jnp.stack([jnp.exp(z / 3) / jnp.exp(z / 3).sum() for z in x]) for x in (own, told))
    rows, classes = own.shape
    between_classes = sum(1 - correlation(own[i], told[i]) for i in range(rows)) / rows
    between_rows = sum(1 - correlation(own[:, c], told[:, c]) for c in range(classes)) / classes
    return 9 * (0.5 * between_classes + 2 * between_rows)


def smooth(x, y):
    size = abs(x - y)
    return jnp.where(size < 1, size**2 / 2, size - 0.5)


def rkd(own, told):
    count = len(own)
    pairs = list(itertools.permutations(range(count), 2))

    def distances(x):
        found = {(i, j): jnp.sqrt(sum((x[i] - x[j]) ** 2)) for i, j in pairs}
        mean = sum(found.values()) / len(found)
        return {pair: distance / mean for pair, distance in found.items()}

    def cosine(x, i, j, k):
        a, b = x[j] - x[i], x[k] - x[i]
        return sum(a * b) / jnp.sqrt(sum(a * a) * sum(b * b))

    ours, theirs = distances(own), distances(told)
    far = sum(smooth(ours[pair], theirs[pair]) for pair in pairs) / count**2
    turned = sum(
        smooth(cosine(own, i, j, k), cosine(told, i, j, k))
        for i, j, k in itertools.product(range(count), repeat=3)
        if i not in (j, k)
    )
    return 3 * far + 2 * turned / count**3


def similarity(own, told):
    def rows(x):
        products = jnp.stack([jnp.stack([sum(a * b) for b in x]) for a in x])
        return products / jnp.sqrt((products**2).sum(-1))[:, None]

    return ((rows(own) - rows(told)) ** 2).sum() / len(own) ** 2


@jax.jit
def congruence(own, told):
    def kernel(x, y):
        cosine = sum(x * y) / jnp.sqrt(sum(x * x) * sum(y * y))
        series = 1 + 0.8 * cosine + (0.8 * cosine) ** 2 / 2 + (0.8 * cosine) ** 3 / 6
        return jnp.exp(-0.8) * series

    both = [jnp.stack([jnp.stack([kernel(a, b) for b in x]) for a in x]) for x in (own, told)]
    return ((both[0] - both[1]) ** 2).sum() / len(own) ** 2


def slopes(logits, features, labels):
    """The gradient of the mean cross-entropy by the kernel that made the logits, row by row."""
    total = 0.0
    for row, label in enumerate(labels):
        shares = jnp.exp(logits[row]) / jnp.exp(logits[row]).sum()
        wrong = jnp.stack([share - (label == c) for c, share in enumerate(shares)])
        total += wrong[:, None] * features[row][None] / len(labels)
    return total


def diswot(own, told, labels):
    angles = []
    for logits, features in (own, told):
        found = unit(slopes(logits, features, labels))
        angles.append(jnp.stack([jnp.stack([sum(a * b) for b in found]) for a in found]))
    semantic = ((angles[0] - angles[1]) ** 2).sum() / len(angles[0])
    return 2 * semantic + 0.5 * similarity(own[1], told[1])


def correlated(x, y):
    count, centred = len(x), []
    for rows in (x, y):
        far = [[jnp.sqrt(sum((a - b) ** 2) + (i == j)) - (i == j) for j, b in enumerate(rows)]
               for i, a in enumerate(rows)]  # fmt: skip
        means = [sum(row) / count for row in far]
        whole = sum(means) / count
        centred.append({
            (i, j): far[i][j] - means[i] - means[j] + whole
            for i, j in itertools.product(range(count), repeat=2)
        })  # fmt: skip
    a, b = centred
    shared, own, other = (sum(p[k] * q[k] for k in a) for p, q in ((a, b), (a, a), (b, b)))
    return jnp.sqrt(shared / jnp.sqrt(own * other))


def unit(x):
    return x / jnp.sqrt((x * x).sum(-1, keepdims=True))


@jax.jit
def wcord(own, told, params):
    """Critics whose largest stretch is 1 tell pairs; scalings move one set to the other."""
    heads = []
    for name, x in (("student_head", own), ("teacher_head", told)):
        kernel = params[name]["kernel"]
        fixed = jax.lax.stop_gradient(kernel)
        right = jnp.full(8, 8**-0.5)
        for _ in range(8):
            left = unit(fixed @ right)
            right = unit(fixed.T @ left)
        heads.append(unit(x @ kernel / (left @ kernel @ right)))
    count, total = len(own), 0.0
    for i in range(count):
        for j in range(count):
            score = 2 * (heads[0][i] @ heads[1][j]) - jnp.log(count - 1.0)
            total += jnp.log1p(jnp.exp(-score if i == j else score)) / count
    moved = own @ params["projector"]["kernel"] + params["projector"]["bias"]
    cost = 1 - unit(moved) @ unit(told).T
    kernel = jax.lax.stop_gradient(jnp.exp(-cost / 0.3))
    v = jnp.ones(count)
    for _ in range(8):
        u = 1 / count / (kernel @ v)
        v = 1 / count / (kernel.T @ u)
    return total + (u[:, None] * kernel * v[None] * cost).sum()


class BatchTermsSuite(ObjectiveSuite):
    """All at once, on layers of different widths."""

    terms = (
        ("dist", {"weight": 0.1, **DIST}),
        ("rkd", {"weight": 0.1, **RKD, **TAPS}),
        ("similarity", {"weight": 0.4, **TAPS}),
        ("congruence", {"weight": 3.0, "order": 3, **TAPS}),
        ("diswot", {"weight": 0.2, "semantic": 2.0, "relation": 0.5, **TAPS}),
        ("distance_correlation", {"weight": 2.0, **TAPS}),
        ("wcord", {"width": 8, "temperature": 0.5, "epsilon": 0.3, "iterations": 8, **TAPS}),
    )
    fields = {"objective": ObjectiveConfig(weight=0.0, terms=terms)}
    model = SmallNet()
    teacher = SmallNet(width=6)
    frozen = ("head_dist",)

    def reference(self, variables, batch, teachers):
        kept = np.flatnonzero(batch["mask"])
        found = []
        for net, params, path in (
            (self.model, {"params": variables["params"]["model"]}, "output"),
            (self.teacher, teachers[0], "stem"),
        ):
            logits, taps = net.clone(dtype=jnp.float64).apply(
                params, batch["image"], train=True, mutable=["intermediates"]
            )
            found.append((logits[kept], jax.tree.leaves(taps["intermediates"][path])[0][kept]))
        (logits, tap), (told_logits, told_tap) = found
        compared = dist(logits, told_logits) + rkd(tap, told_tap) + 4 * similarity(tap, told_tap)
        total = 0.1 * compared + 3 * congruence(tap, told_tap)
        both = (logits, tap), (told_logits, told_tap)
        total += 0.2 * diswot(*both, batch["label"][kept])
        total += 2 * (1 - correlated(tap, told_tap))
        return total + wcord(tap, told_tap, variables["params"]["wcord"])


def told(seed, rows=6, width=5):
    x = jnp.asarray(np.random.default_rng(seed).normal(size=(rows, width)))
    return Told(x, {"pre_logits": x})


MASK = {"mask": jnp.ones(6, bool)}


def test_dist_is_blind_to_size_and_mean_of_a_sure_student():
    with jax.enable_x64(True):
        teacher = told(1)
        shares = jax.nn.softmax(teacher.logits)
        # Shares mixed evenly with the uniform ones have another size and another mean.
        flat = teacher._replace(logits=jnp.log(0.5 * shares + 0.1))
        assert jnp.abs(Dist()(flat, teacher, MASK)).max() < 1e-6
        assert Dist()(told(2), teacher, MASK).min() > 0.1


def test_relations_are_blind_to_turns_and_scale():
    with jax.enable_x64(True):
        teacher, turn = told(1), jnp.linalg.qr(told(3, 5).logits)[0]
        turned = teacher._replace(taps={"pre_logits": 3 * teacher.logits @ turn})
        for term in (Rkd(), Similarity(), Congruence(), DistanceCorrelation()):
            assert jnp.abs(term(turned, teacher, MASK)).max() < 1e-12
            assert term(told(2), teacher, MASK).min() > 1e-3


def test_a_long_series_is_the_gaussian_kernel():
    with jax.enable_x64(True):
        own, teacher = told(0), told(1)
        found = Congruence(gamma=0.7, order=30)(own, teacher, MASK)
        kernels = []
        for x in (own.logits, teacher.logits):
            x = x / jnp.linalg.norm(x, axis=1, keepdims=True)
            kernels.append(jnp.exp(-0.7 * jnp.sum((x[:, None] - x[None]) ** 2, -1)))
        expected = jnp.mean((kernels[0] - kernels[1]) ** 2, axis=1)
        np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize(
    "term", [Dist(), Rkd(), Similarity(), Congruence(), DistanceCorrelation(), DisWot()]
)
def test_rows_that_do_not_count_reach_nothing(term):
    mask = {"mask": jnp.arange(6) < 4, "label": jnp.arange(6) % 5}

    def total(x, filler):
        x = jnp.where(mask["mask"][:, None], x, filler)
        found = term(Told(x, {"pre_logits": x}), told(1), mask)
        return jnp.where(mask["mask"], found, 0).sum()

    x = told(0).logits
    for filler in (0.0, 1e9, jnp.nan):
        value, slope = jax.value_and_grad(total)(x, filler)
        expected, _ = jax.value_and_grad(total)(x, 0.0)
        np.testing.assert_allclose(value, expected, rtol=1e-6)
        assert np.isfinite(slope).all()


@pytest.mark.parametrize("term", [Rkd(), Similarity(), Congruence(), DistanceCorrelation()])
def test_equal_examples_have_gradients(term):
    x = jnp.ones((6, 5))
    slope = jax.grad(lambda x: term(Told(x, {"pre_logits": x}), told(1), MASK).sum())(x)
    assert np.isfinite(slope).all()


def test_the_classes_of_diswot_are_those_of_the_classifiers_gradient():
    """Examples that do not count left out; a student that is its teacher has nothing to learn."""
    rng, kept = np.random.default_rng(0), jnp.arange(6) < 5
    features, kernel = (jnp.asarray(rng.normal(size=shape)) for shape in ((6, 5), (5, 3)))
    labels = jnp.array([0, 2, 1, 1, 0, 2])

    def loss(kernel):
        logs = jax.nn.log_softmax(features @ kernel)[jnp.arange(6), labels]
        return -jnp.sum(jnp.where(kept, logs, 0)) / 5

    found = classifier_slope(features @ kernel, features, labels, kept)
    np.testing.assert_allclose(found, jax.grad(loss)(kernel).T, rtol=1e-5, atol=1e-7)
    student = Told(features @ kernel, {"pre_logits": features})
    batch = {"mask": kept, "label": labels}
    np.testing.assert_array_equal(DisWot()(student, student, batch), 0)
    wider = jnp.asarray(rng.normal(size=(6, 9)))
    teacher = Told(wider[:, :3], {"pre_logits": wider})
    assert DisWot(relation=0.0)(student, teacher, batch).min() > 0.01


def test_distances_of_independent_examples_are_not_correlated():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 2)).astype(np.float32)
    assert distance_correlation(x, rng.normal(size=(300, 3)).astype(np.float32)) < 0.2
    # No line joins them, and yet one is known of the other.
    assert distance_correlation(x[:, :1], x[:, :1] ** 2) > 0.45
