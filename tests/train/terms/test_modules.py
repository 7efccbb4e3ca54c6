"""Terms that put a student's parts beside a teacher's, against loops from their equations."""

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scanmax.errors import UserError
from scanmax.testing import ObjectiveSuite, SmallMaps
from scanmax.train.config import ObjectiveConfig
from scanmax.train.teachers import Teacher, Told
from scanmax.train.terms import TERMS
from scanmax.train.terms.cross_arch import PARTS, GroupwiseLinear, apart


def softmax(x):
    return jnp.exp(x) / jnp.exp(x).sum(-1, keepdims=True)


def dense(params, x):
    return x @ params["kernel"] + params.get("bias", 0)


def middle(params, tokens):
    """From the stem of SmallMaps to its last map."""
    weights = softmax(dense(params["query"], tokens) @ tokens.T)
    return tokens + dense(params["hidden"], jax.nn.gelu(weights @ tokens))


def head(params, tokens):
    return dense(params["head"], tokens.mean(0))


def convolve(params, tokens):
    """3 x 3 on a map of 2 x 2, zeros around it."""
    x = jnp.pad(tokens.reshape(2, 2, -1), ((1, 1), (1, 1), (0, 0)))
    rows = []
    for down, right in itertools.product(range(2), repeat=2):
        window = x[down : down + 3, right : right + 3]
        rows.append(jnp.einsum("yxc,yxco->o", window, params["kernel"]) + params["bias"])
    return jnp.stack(rows)


def cross_arch(params, mine, theirs):
    """One head, a linear map of each pixel, a net that tells which is whose."""
    ours = [convolve(params[part], mine["output"]) for part in PARTS]
    told = [theirs[part][:, 0] for part in PARTS]
    read = [softmax(q @ k.T / 4) @ v for q, k, v in (ours, told)]
    related = [v @ v.T / 4 for _, _, v in (ours, told)]
    total = 2 * (((read[0] - read[1]) ** 2).mean() + ((related[0] - related[1]) ** 2).mean())
    kernels = params["groups"]["kernel"].reshape(4, 8, 16)
    own = jnp.stack([x @ kernel for x, kernel in zip(mine["output"], kernels)])
    own = own + params["groups"]["bias"].reshape(4, 16)
    total += 0.5 * ((own - theirs["output"]) ** 2).mean()

    def judge(x):
        for name in ("fc0", "fc1", "fc2"):
            x = dense(params[name], jnp.maximum(x, 0) if name != "fc0" else x)
        return x[0]

    for own_place, told_place in zip(own, theirs["output"]):
        turned = 2 * jax.lax.stop_gradient(own_place) - own_place
        game = jnp.log1p(jnp.exp(-judge(told_place))) + jnp.log1p(jnp.exp(judge(turned)))
        total += 0.3 * game / 2 / 4
    return total


def m2mkd(params, student, frame, taught, stems, last, label):
    """Three modules, each in the frame: up to the stem, to the last map, to the answer."""
    total = 0.0
    mine, frame_stem, told_stem = stems
    answers = []
    for module in range(3):
        if module == 0:
            own, told = dense(params["stitch_out_0"], mine), told_stem
        elif module == 1:
            own = middle(student, dense(params["stitch_in_1"], frame_stem))
            own, told = dense(params["stitch_out_1"], own), middle(taught, frame_stem)
        else:
            own = head(student, dense(params["stitch_in_2"], last))
            answers.append((own, head(taught, last)))
            continue
        if module == 0:
            own, told = middle(frame, own), middle(frame, told)
        answers.append((head(frame, own), head(frame, told)))
    for own, told in answers:
        p, q = jax.lax.stop_gradient(softmax(told / 2)), softmax(own / 2)
        total += 0.75 * 4 * (p * jnp.log(p / q)).sum() - 0.25 * jnp.log(softmax(own))[label]
    return total


def proc_kd(params, student, mine, theirs, label):
    bank = params["prototypes"]
    made = softmax(theirs @ bank.T / 4) @ bank
    frozen = jax.lax.stop_gradient(bank)
    read = softmax(dense(params["ask"], mine) @ frozen.T / 4) @ frozen
    own = head(student, middle(student, mine + read @ params["add"]["kernel"]))
    return 0.5 * ((theirs - made) ** 2).mean() - jnp.log(softmax(own))[label]


class ModulesSuite(ObjectiveSuite):
    """From a student of eight channels to a frame and a teacher of sixteen."""

    cuts = {f"{name}_cuts": ("stem", "output") for name in ("student", "meta", "teacher")}
    cross_arch = {
        "student_tap": "output",
        "teacher_tap": "output",
        "teacher_mixer": "",
        "teacher": 1,
        # What is drawn has a test of its own.
        "swap": 0.0,
        # Plain descent at rate one goes far.
        "weight": 0.05,
        "attention": 2.0,
        "tokens": 0.5,
        "adversarial": 0.3,
        "group": 1,
        "width": 8,
    }
    terms = (
        ("cross_arch", cross_arch),
        ("m2mkd", {"share": 0.25, "temperature": 2.0, "weight": 0.02, **cuts}),
        (
            "proc_kd",
            {"student_tap": "stem", "teacher_tap": "stem", "teacher": 1, "prototypes": 5}
            | {"bank": 0.5, "weight": 0.1},
        ),
    )
    fields = {"objective": ObjectiveConfig(weight=0.0, terms=terms)}
    model = SmallMaps()
    teacher = SmallMaps(width=16)

    def teachers(self):
        frame = self.teacher_variables()
        return frame, jax.tree.map(lambda x: x[..., ::-1], frame)

    def reference(self, variables, batch, teachers):
        params, taps = variables["params"], []
        student, (frame, taught) = params["model"], (each["params"] for each in teachers)
        for net, own in ((self.model, student), (self.teacher, frame), (self.teacher, taught)):
            net = net.clone(dtype=jnp.float64)
            _, sown = net.apply({"params": own}, batch["image"], mutable=["intermediates"])
            taps.append({name: value[0] for name, value in sown["intermediates"].items()})

        def of_row(mine, meta, theirs, label):
            stems = mine["stem"], meta["stem"], theirs["stem"]
            total = 0.05 * cross_arch(params["cross_arch"], mine, theirs)
            modules = params["m2mkd"], student, frame, taught, stems, meta["output"], label
            total += 0.02 * m2mkd(*modules)
            return total + 0.1 * proc_kd(params["proc_kd"], student, stems[0], stems[2], label)

        kept = np.flatnonzero(batch["mask"])
        given = jax.tree.map(lambda x: jnp.asarray(x)[kept], (*taps, batch["label"]))
        # Compiled at once, not each operation by itself.
        return jax.jit(jax.vmap(of_row))(*given).mean()


RNG = np.random.default_rng(0)


def projections(seed):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(2, 5, 2, 3)).astype(np.float32) for _ in PARTS]


def test_each_part_of_the_attention_is_drawn_to_be_the_teachers():
    """All eight ways against a loop; where all are the teacher's nothing is lost of attention."""
    ours, theirs = projections(1), projections(2)
    found, compiled = [], jax.jit(apart)
    for swapped in itertools.product((False, True), repeat=3):
        parts = [told if swap else own for swap, own, told in zip(swapped, ours, theirs)]
        expected = np.zeros(2)
        for row, head_ in itertools.product(range(2), repeat=2):
            read, related = [], []
            for q, k, v in (parts, theirs):
                q, k, v = (x[row, :, head_] for x in (q, k, v))
                weights = np.exp(q @ k.T / 3**0.5)
                read.append(weights / weights.sum(-1, keepdims=True) @ v)
            for v in (ours[2], theirs[2]):
                related.append(v[row, :, head_] @ v[row, :, head_].T / 3**0.5)
            expected[row] += ((read[0] - read[1]) ** 2).mean() / 2
            expected[row] += ((related[0] - related[1]) ** 2).mean() / 2
        found.append(compiled(ours, theirs, np.asarray(swapped)))
        np.testing.assert_allclose(found[-1], expected, rtol=1e-5)
    assert found[-1].min() > 0
    all_theirs = [*ours[:2], theirs[2]]
    np.testing.assert_array_equal(compiled(all_theirs, theirs, np.ones(3, bool)), 0)


def test_what_is_drawn_follows_the_probability_and_the_key():
    options = {"student_tap": "output", "teacher_tap": "output", "teacher_mixer": ""}
    term = TERMS["cross_arch"](name="cross_arch", **options, swap=0.7)
    draw = nn.apply(lambda term: term.draw(), term)
    drawn = [draw({}, rngs={"objective": jax.random.key(seed)}) for seed in range(60)]
    assert 0.6 < np.mean(drawn) < 0.8
    assert 1 < len({tuple(each.tolist()) for each in drawn}) <= 8
    np.testing.assert_array_equal(draw({}, rngs={"objective": jax.random.key(3)}), drawn[3])


def test_neighbourhoods_have_linear_maps_of_their_own():
    x = jnp.asarray(RNG.normal(size=(2, 5, 4, 3)), jnp.float32)
    module = GroupwiseLinear(2, 3)
    variables = nn.unbox(module.init(jax.random.key(0), x))
    kernel, bias = variables["params"]["kernel"], variables["params"]["bias"]
    assert kernel.shape == (2, 2, 3, 2)
    bias = bias + jnp.arange(4.0).reshape(2, 2, 1)
    found = np.asarray(module.apply({"params": {"kernel": kernel, "bias": bias}}, x))
    x, kernel, bias = (np.asarray(each) for each in (x, kernel, bias))
    for y, across in itertools.product(range(5), range(4)):
        place = y // 3, across // 3
        expected = x[:, y, across] @ kernel[place] + bias[place]
        np.testing.assert_allclose(found[:, y, across], expected, rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def net():
    """SmallMaps, its variables and images."""
    images = jnp.asarray(RNG.normal(size=(3, 4, 4, 1)), jnp.float32)
    model = SmallMaps()
    return model, nn.unbox(jax.jit(model.init)(jax.random.key(0), images)), images


def test_modules_that_are_those_of_the_frame_give_its_own_answer(net):
    model, variables, images = net
    told = Teacher("maps", model, reads_taps=True)(variables, images)
    cuts = {f"{name}_cuts": ("stem", "output") for name in ("student", "meta", "teacher")}
    term = TERMS["m2mkd"](name="m2mkd", share=0.0, **cuts)
    both, labels = term.hear((told, told)), {"label": jnp.array([0, 1, 2])}
    # Nothing is stitched where widths are the same.
    assert jnp.abs(term.apply({}, told, both, labels)).max() < 1e-6
    plain = term.clone(share=1.0).apply({}, told, both, labels)
    own = -jax.nn.log_softmax(told.logits)[jnp.arange(3), labels["label"]]
    np.testing.assert_allclose(plain, 3 * own, rtol=1e-5)
    other = Teacher("maps", model, reads_taps=True)(variables, images[::-1] + 1)
    assert term.apply({}, other, both, labels).min() > 1e-4


def test_mistakes_of_cuts_are_one_line():
    def refused(match, **options):
        with pytest.raises(UserError, match=match):
            TERMS["m2mkd"](name="m2mkd", **options).check(2)

    refused("asks a meta model and a teacher", teacher=0)
    refused("as many cuts of each model", student_cuts=("stem", "output"))
    refused("at least one", student_cuts=(), meta_cuts=(), teacher_cuts=())
    refused("asks teacher 2", teacher=(0, 2))


def test_a_bank_that_is_not_read_leaves_the_students_own_loss(net):
    """And a bank of one prototype recalls it, whatever the teacher sees, of any classes."""
    model, variables, images = net
    student = Teacher("maps", model, reads_taps=True)(variables, images)
    teacher = Told(jnp.ones((3, 9)), {"map": jnp.asarray(RNG.normal(size=(3, 2, 2, 6)))})
    taps = {"student_tap": "stem", "teacher_tap": "map"}
    term = TERMS["proc_kd"](name="proc_kd", prototypes=1, **taps)
    labels = {"label": jnp.array([0, 1, 2])}
    params = nn.unbox(term.init(jax.random.key(1), student, teacher, labels))["params"]
    params["add"]["kernel"] = jnp.zeros_like(params["add"]["kernel"])
    found = term.apply({"params": params}, student, teacher, labels)
    own = -jax.nn.log_softmax(student.logits)[jnp.arange(3), labels["label"]]
    squares = jnp.square(teacher.taps["map"] - params["prototypes"]).mean((1, 2, 3))
    np.testing.assert_allclose(found, own + squares, rtol=1e-5)
