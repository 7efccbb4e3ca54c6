"""Terms on what models answer and attend to, against loops from their equations; their limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scanmax.errors import UserError
from scanmax.testing import ObjectiveSuite, SmallMaps
from scanmax.train.config import ObjectiveConfig
from scanmax.train.losses import soft_distillation
from scanmax.train.losses.base import class_weights
from scanmax.train.teachers import Told
from scanmax.train.terms import TERMS
from scanmax.train.terms.cskd import FALL

COUNTS = (50, 20, 5, 2)


def softmax(x):
    return jnp.exp(x) / jnp.exp(x).sum(-1, keepdims=True)


def ofa(own, told, label, gamma=1.3):
    total, p, q = 0.0, softmax(told / 2), softmax(own / 2)
    for c in range(4):
        target = jnp.where(c == label, (1 + p[c]) ** gamma - 1, p[c] ** gamma)
        total -= target * jnp.log(q[c])
    return total


def cskd(patches, dense):
    """At the start of a run each patch learns what is said of its own place."""
    total = 0.0
    for place in range(4):
        total -= jnp.log(softmax(patches[place]))[jnp.argmax(dense[place])] / 4
    return total


def topkld(own, told):
    p, q = softmax(told), softmax(own)
    order = jnp.argsort(-told)
    best, rest = order[:2], order[2:]
    share, own_share = p[rest].sum(), q[rest].sum()
    explicit = (p[best] * jnp.log(p[best] / q[best])).sum()
    explicit += share * jnp.log(share / own_share)
    # Reverse: the student's own conditional distribution and share stand before it.
    implicit = (q[rest] * (jnp.log(q[rest] / own_share) - jnp.log(p[rest] / share))).sum()
    return 0.5 * explicit + 2 * implicit


def deviation_aware(own, told):
    p, q = softmax(told), softmax(own)
    weight = 1.0
    for x in (p, q):
        weight *= -(x * jnp.log(x)).sum() / jnp.log(4.0)
    return jax.lax.stop_gradient(weight) ** 1.5 * (p * jnp.log(p / q)).sum()


def discriminator(own, told, params):
    def judge(x):
        for name in ("fc0", "fc1", "fc2"):
            x = jnp.maximum(x, 0) if name != "fc0" else x
            x = x @ params[name]["kernel"] + params[name]["bias"]
        return x[0]

    turned = 2 * jax.lax.stop_gradient(own) - own
    return (jnp.log1p(jnp.exp(-judge(told))) + jnp.log1p(jnp.exp(judge(turned)))) / 2


def mean_over_rows(of_row, batch, *given):
    """The mean of a row's loss over those that count; compiled at once, not each operation."""
    kept = np.flatnonzero(batch["mask"])
    given = jax.tree.map(lambda x: jnp.asarray(x)[kept], given)
    return jax.jit(jax.vmap(of_row))(*given).mean()


class AnswersSuite(ObjectiveSuite):
    """All that take a batch in parts, at the start of a run."""

    terms = (
        ("hard", {"counts": COUNTS, "beta": 0.9, "schedule": ((0, 2), (1, 0))}),
        ("ofa", {"taps": ("stem",), "gamma": 1.3, "temperature": 2.0}),
        ("cskd", {"student_tap": "output", "teacher_tap": "output"}),
        ("topkld", {"k": 2, "alpha": 0.5, "beta": 2.0, "implicit": "reverse"}),
        ("deviation_aware", {"gamma": 1.5}),
        ("attention_map", {"maps": 2.0, "outputs": 0.3}),
        ("discriminator", {"width": 8}),
    )
    fields = {"objective": ObjectiveConfig(weight=0.0, terms=terms)}
    model = SmallMaps()
    teacher = SmallMaps()

    def reference(self, variables, batch, teachers):
        params = variables["params"]
        net = self.model.clone(dtype=jnp.float64)
        answers, taps = [], []
        for own in ({"params": params["model"]}, teachers[0]):
            logits, sown = net.apply(own, batch["image"], mutable=["intermediates"])
            answers.append(logits)
            taps.append({name: value[0] for name, value in sown["intermediates"].items()})
        head, branch = params["cskd"]["head"], params["ofa"]["branch_0"]["fc"]
        told_head = teachers[0]["params"]["head"]
        weights = jnp.asarray(class_weights(COUNTS, 0.9))

        def of_row(own, told, mine, theirs, label):
            decision = jnp.argmax(told)
            total = -2 * weights[decision] * jnp.log(softmax(own))[decision]
            early = mine["stem"].mean(0) @ branch["kernel"] + branch["bias"]
            total += ofa(own, told, label) + ofa(early, told, label)
            patches = mine["output"] @ head["kernel"] + head["bias"]
            total += cskd(patches, theirs["output"] @ told_head["kernel"] + told_head["bias"])
            total += topkld(own, told) + deviation_aware(own, told)
            for query in range(4):
                a, b = theirs["attention"][0, query], mine["attention"][0, query]
                total += 2 * (a * jnp.log(a / b)).sum() / 4
            total += 0.3 * ((mine["output"] - theirs["output"]) ** 2).mean()
            return total + discriminator(own, told, params["discriminator"])

        return mean_over_rows(of_row, batch, *answers, *taps, batch["label"])


def told(seed, classes=6):
    logits = 2 * np.random.default_rng(seed).normal(size=(5, classes)).astype(np.float32)
    return Told(jnp.asarray(logits), {})


LABELS = {"label": jnp.array([0, 5, 2, 2, 1])}
OWN, TEACHER = told(0), told(1)
PLAIN = soft_distillation(OWN.logits, TEACHER.logits, temperature=1.0)


def value(name, *given, **options):
    """What a term says, of parameters of a fixed seed."""
    given = given or (OWN, TEACHER, LABELS)
    return TERMS[name](name=name, **options).init_with_output(jax.random.key(0), *given)[0]


def entropy(logits):
    return -jnp.sum(softmax(logits) * jnp.log(softmax(logits)), -1)


def test_limits_are_plain_distillation():
    np.testing.assert_allclose(value("topkld", k=3), PLAIN, rtol=1e-4)
    np.testing.assert_allclose(value("deviation_aware", gamma=0.0), PLAIN, rtol=1e-5)
    # The released form is then the soft cross-entropy, the paper's that and the label's.
    soft = PLAIN + entropy(TEACHER.logits)
    np.testing.assert_allclose(value("ofa", gamma=1.0), soft, rtol=1e-4)
    hard = -jnp.log(softmax(OWN.logits))[jnp.arange(5), LABELS["label"]]
    np.testing.assert_allclose(value("ofa", gamma=1.0, form="paper"), soft + hard, rtol=1e-4)


def test_parts_of_topkld_are_each_of_their_own_way():
    forward = value("topkld", k=3, beta=0.0), value("topkld", k=3, alpha=0.0)
    options = {"explicit": "reverse", "implicit": "reverse"}
    swapped = (TEACHER, OWN, LABELS)
    # The likeliest are the teacher's: of two that agree on them, swapping models is reversing.
    near = Told(TEACHER.logits * 0.7, {})
    both = value("topkld", near, TEACHER, LABELS, k=3, **options)
    np.testing.assert_allclose(both, value("topkld", TEACHER, near, LABELS, k=3), rtol=1e-4)
    assert not np.allclose(sum(forward), value("topkld", *swapped, k=3), rtol=0.1)
    with pytest.raises(UserError, match="parts k=6 classes from the rest, and there are 6"):
        value("topkld", k=6)


def test_uncertain_rows_count_more():
    plain = value("deviation_aware", gamma=0.0)
    weights = value("deviation_aware", gamma=2.0, unsure="teacher") / plain
    np.testing.assert_allclose(weights, (entropy(TEACHER.logits) / jnp.log(6.0)) ** 2, rtol=1e-4)


def test_weights_of_the_teachers_class_wait_until_they_count():
    counts = (100, 50, 20, 10, 5, 1)
    plain = value("hard")
    options = {"counts": counts, "beta": 0.99, "defer": 0.5}
    early = TERMS["hard"](name="hard", **options)
    np.testing.assert_array_equal(early(OWN, TEACHER, LABELS, progress=0.4), plain)
    weights = class_weights(counts, 0.99)[np.argmax(TEACHER.logits, -1)]
    np.testing.assert_allclose(
        early(OWN, TEACHER, LABELS, progress=0.5), weights * plain, rtol=1e-6
    )
    with pytest.raises(UserError, match="weighs 4 classes, and the teacher answers with 6"):
        value("hard", counts=COUNTS, beta=0.9)
    with pytest.raises(UserError, match="by counts and beta together"):
        TERMS["hard"](name="hard", beta=0.9).check(1)


def test_several_teachers_are_heard_as_the_mean_of_their_distributions():
    other = told(2)
    term = TERMS["kd"](name="kd", teacher=(0, 2), shares=(3.0, 1.0), temperature=1.0)
    heard = term.hear({0: TEACHER, 2: other})
    mean = 0.75 * softmax(TEACHER.logits) + 0.25 * softmax(other.logits)
    np.testing.assert_allclose(jnp.exp(heard.logits), mean, rtol=1e-5)
    alike = TERMS["kd"](name="kd", teacher=(0, 2)).hear({0: TEACHER, 2: TEACHER})
    np.testing.assert_allclose(softmax(alike.logits), softmax(TEACHER.logits), rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"teacher": (0, 2)}, "asks teacher 2, and config.objective.teachers names 2"),
        ({"teacher": ()}, r"teacher=\(\) names none"),
        ({"teacher": (0, 1), "shares": (1.0,)}, "must be a number of each of the 2 teachers"),
        ({"schedule": (0.5, 1.0)}, "must hold pairs of a share of the run and a factor"),
        ({"schedule": ((0.5, 1.0), (0.1, 1.0))}, "must name ascending shares of the run"),
    ],
)
def test_teachers_and_schedules_that_do_not_fit_are_one_line(options, message):
    with pytest.raises(UserError, match=message):
        TERMS["kd"](name="kd", **options).check(2)


def test_a_schedule_is_lines_between_its_points():
    term = TERMS["kd"](name="kd", weight=2.0, schedule=((0.1, 0.0), (0.5, 1.0)))
    found = [float(term.weight_at(share)) for share in (0.0, 0.1, 0.3, 0.5, 1.0)]
    np.testing.assert_allclose(found, [0, 0, 1, 2, 2], rtol=1e-6)


def maps(seed, side, width=3):
    x = np.random.default_rng(seed).normal(size=(2, 1 + side * side, width))
    return jnp.asarray(x, jnp.float32)


def test_patches_learn_of_their_place_first_and_of_the_image_last():
    """A finer grid of patches behind a class token, a teacher that answers with its mean place."""
    seen = maps(0, 2)[:, 1:].reshape(2, 2, 2, 3)

    def resume(path, x):
        return Told(10 * x.mean((1, 2)), {})

    teacher = Told(10 * seen.mean((1, 2)), {"map": seen}, resume)
    student = Told(None, {"patches": maps(1, 4)})
    term = TERMS["cskd"](name="cskd", student_tap="patches", teacher_tap="map")
    variables = term.init(jax.random.key(0), student, teacher, {})
    head = jax.tree.map(
        lambda box: box.value,
        variables["params"]["head"],
        is_leaf=lambda leaf: hasattr(leaf, "value"),
    )
    answers = student.taps["patches"][:, 1:] @ head["kernel"] + head["bias"]
    cells = answers.reshape(2, 2, 2, 2, 2, 3).mean((2, 4))
    logs = jnp.log(softmax(cells)).reshape(2, 4, 3)
    dense = 10 * seen.reshape(2, 4, 3)
    for share in (0.0, 0.5, 1.0):
        target = (1 - share) * dense + share * dense.mean(1, keepdims=True)
        expected = -jnp.take_along_axis(logs, target.argmax(-1)[..., None], -1).mean((1, 2))
        found = term.apply(variables, student, teacher, {}, progress=share)
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    for fall in FALL.values():
        np.testing.assert_allclose([fall(0.0), fall(1.0)], [1, 0], atol=1e-7)
    odd = student._replace(taps={"patches": maps(1, 3)})
    with pytest.raises(UserError, match=r"a map of 3 x 3 does not divide into \(2, 2\)"):
        value("cskd", odd, teacher, {}, student_tap="patches", teacher_tap="map")


def test_layers_are_matched_from_the_last():
    def layers(seed, count, heads=2):
        rng = np.random.default_rng(seed)
        found = {
            f"block_{index:02d}/mixer/attention": softmax(rng.normal(size=(2, heads, 3, 3)))
            for index in range(count)
        }
        return Told(jnp.zeros((2, 4)), found)

    own, teacher = layers(0, 2), layers(1, 4)
    expected = 0.0
    for mine, theirs in ((0, 1), (1, 3)):
        a, b = (
            each.taps[f"block_{index:02d}/mixer/attention"]
            for each, index in ((teacher, theirs), (own, mine))
        )
        expected += jnp.sum(a * jnp.log(a / b), -1).mean((1, 2)) / 2
    np.testing.assert_allclose(value("attention_map", own, teacher, {}), expected, rtol=1e-4)
    assert jnp.abs(value("attention_map", own, own, {})).max() < 1e-6
    assert value("attention_map", own, layers(1, 2, heads=3), {}).shape == (2,)
    with pytest.raises(UserError, match="2 layers of the student give 'attention' against 3"):
        value("attention_map", own, layers(1, 3), {})
