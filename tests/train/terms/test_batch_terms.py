"""DIST, RKD and similarity against loops over pairs and triplets; what they are blind to."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scanmax.testing import ObjectiveSuite, SmallNet
from scanmax.train.config import ObjectiveConfig
from scanmax.train.teachers import Told
from scanmax.train.terms.dist import Dist
from scanmax.train.terms.relations import Rkd, Similarity

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


class BatchTermsSuite(ObjectiveSuite):
    """All three at once, on layers of different widths."""

    terms = (
        ("dist", {"weight": 0.1, **DIST}),
        ("rkd", {"weight": 0.1, **RKD, **TAPS}),
        ("similarity", {"weight": 0.4, **TAPS}),
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
        return 0.1 * (
            dist(logits, told_logits) + rkd(tap, told_tap) + 4 * similarity(tap, told_tap)
        )


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
        for term in (Rkd(), Similarity()):
            assert jnp.abs(term(turned, teacher, MASK)).max() < 1e-12
            assert term(told(2), teacher, MASK).min() > 1e-3


@pytest.mark.parametrize("term", [Dist(), Rkd(), Similarity()])
def test_rows_that_do_not_count_reach_nothing(term):
    mask = {"mask": jnp.arange(6) < 4}

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


@pytest.mark.parametrize("term", [Rkd(), Similarity()])
def test_equal_examples_have_gradients(term):
    x = jnp.ones((6, 5))
    slope = jax.grad(lambda x: term(Told(x, {"pre_logits": x}), told(1), MASK).sum())(x)
    assert np.isfinite(slope).all()
