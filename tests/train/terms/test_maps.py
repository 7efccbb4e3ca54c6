"""Terms on maps of activations against loops from their equations; what they are blind to."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.fft

from scanmax.errors import UserError
from scanmax.models.registry import create_model
from scanmax.testing import ObjectiveSuite, SmallMaps
from scanmax.train.config import ObjectiveConfig
from scanmax.train.losses import soft_distillation
from scanmax.train.teachers import Teacher, Told
from scanmax.train.terms import TERMS
from scanmax.train.terms.maps import as_map, with_places
from scanmax.train.terms.scalekd import without_mean
from scanmax.train.terms.selective_fusion import averaged


def dense(params, x):
    return x @ params["kernel"] + params["bias"]


def norm(params, x):
    x = x - x.mean(-1, keepdims=True)
    scaled = x / jnp.sqrt((x * x).mean(-1, keepdims=True) + 1e-6)
    return scaled * params["scale"] + params["bias"]


def convolve(params, tokens):
    """3 x 3 on a map of 2 x 2, zeros around it."""
    x = jnp.pad(tokens.reshape(2, 2, -1), ((1, 1), (1, 1), (0, 0)))
    rows = []
    for down in range(2):
        for right in range(2):
            window = x[down : down + 3, right : right + 3]
            rows.append(jnp.einsum("yxc,yxco->o", window, params["kernel"]) + params["bias"])
    return jnp.stack(rows)


def ahead(params, tokens):
    """The rest of SmallMaps behind its stem: (last map, answer)."""
    weights = jax.nn.softmax(dense(params["query"], tokens) @ tokens.T)
    last = tokens + dense(params["hidden"], jax.nn.gelu(weights @ tokens))
    return last, dense(params["head"], last.mean(0))


def projected(params, tokens):
    x = jnp.maximum(norm(params["norm0"], convolve(params["conv"], tokens)), 0)
    x = x + params["pos_embed"]
    asked = jnp.maximum(dense(params["ask"], params["queries"]), 0)
    scores = dense(params["query"], asked) @ (x @ params["key"]["kernel"]).T / 4
    y = asked + dense(params["out"], jax.nn.softmax(scores) @ dense(params["value"], x))
    hidden = jax.nn.gelu(dense(params["fc0"], norm(params["norm1"], y)))
    return y + hidden @ params["fc1"]["kernel"]


def apart(x, y):
    x, y = (z / jnp.sqrt((z * z).sum(-1, keepdims=True)) for z in (x, y))
    return ((x - y) ** 2).sum()


def hierarchical(x, y):
    """On 2 x 2: the map itself, and its mean at half the weight."""
    whole = ((x - y) ** 2).mean()
    return (whole + 0.5 * ((x.mean(0) - y.mean(0)) ** 2).mean()) / 1.5


class MapsSuite(ObjectiveSuite):
    """From a student of eight channels to a teacher of sixteen."""

    terms = (
        ("crosskd", {"student_tap": "stem", "teacher_tap": "stem", "temperature": 2.0}),
        (
            "scalekd",
            {
                "student_tap": "output",
                "teacher_tap": "output",
                "early_student_tap": "stem",
                "early_teacher_tap": "stem",
                # Maps of norm 1 that begin near 0 have gradients of some hundreds.
                "weight": 0.01,
                # The same projector and distance as of the others, at a third of their cost.
                "direct": 0.0,
                "residue": 2.0,
                "proxy": 0.5,
            },
        ),
        ("channelwise", {"temperature": 2.0}),
        (
            "selective_fusion",
            {
                "student_taps": ("stem", "output"),
                "teacher_taps": ("stem", "output"),
                "stage_weights": (0.5, 1.0),
                "width": 8,
            },
        ),
    )
    fields = {"objective": ObjectiveConfig(weight=0.0, terms=terms)}
    model = SmallMaps()
    teacher = SmallMaps(width=16)
    # The student's head: no term reads its answer.
    frozen = ("model/head",)

    def reference(self, variables, batch, teachers):
        params, told_params = variables["params"], teachers[0]["params"]
        taps = []
        for net, own in ((self.model, params["model"]), (self.teacher, told_params)):
            net = net.clone(dtype=jnp.float64)
            _, sown = net.apply({"params": own}, batch["image"], mutable=["intermediates"])
            taps.append({name: value[0] for name, value in sown["intermediates"].items()})

        def of_row(mine, theirs):
            _, crossed = ahead(told_params, dense(params["crosskd"]["adapter"], mine["stem"]))
            _, told = ahead(told_params, theirs["stem"])
            p, q = jax.nn.softmax(told / 2), jax.nn.softmax(crossed / 2)
            total = 4 * (p * jnp.log(p / q)).sum()

            views = params["scalekd"]
            second = projected(views["second"], mine["output"])
            pair = (x - x.mean(0) for x in (second, theirs["output"]))
            total += 0.02 * apart(*pair)
            last, _ = ahead(told_params, projected(views["third"], mine["stem"]))
            total += 0.005 * apart(last, theirs["output"])

            own = dense(params["channelwise"]["projector"], mine["stem"])
            for channel in range(16):
                p, q = (jax.nn.softmax(x[:, channel] / 2) for x in (theirs["stem"], own))
                total += 4 * (p * jnp.log(p / q)).sum() / 16

            fuse = params["selective_fusion"]
            deep, shallow = fuse["fuse_1"], fuse["fuse_0"]
            x = norm(deep["norm0"], dense(deep["reduce"], mine["output"]))
            answer = norm(deep["norm1"], convolve(deep["expand"], x))
            total += hierarchical(answer, theirs["output"])
            y = norm(shallow["norm0"], dense(shallow["reduce"], mine["stem"]))
            chosen = jnp.maximum(dense(shallow["squeeze"], (x + y).mean(0)), 0)
            chosen = jax.nn.softmax(dense(shallow["choose"], chosen).reshape(2, 8), axis=0)
            y = chosen[0] * y + chosen[1] * x
            answer = norm(shallow["norm1"], convolve(shallow["expand"], y))
            return total + 0.5 * hierarchical(answer, theirs["stem"])

        kept = np.flatnonzero(batch["mask"])
        taps = jax.tree.map(lambda x: x[kept], taps)
        # Compiled at once, not each operation by itself.
        return jax.jit(jax.vmap(of_row))(*taps).mean()


RNG = np.random.default_rng(0)
MAP = jnp.asarray(RNG.normal(size=(2, 4, 4, 3)), jnp.float32)
OTHER = jnp.asarray(RNG.normal(size=(2, 4, 4, 3)), jnp.float32)


def value(name, own, told, **options):
    """What a term says, of parameters of a fixed seed."""
    student, teacher = Told(None, {"map": own}), Told(None, {"map": told})
    taps = {"student_tap": "map", "teacher_tap": "map"}
    term = TERMS[name](name=name, **taps, **options)
    return term.init_with_output(jax.random.key(0), student, teacher, {})[0]


def test_the_second_view_is_what_a_cosine_transform_leaves_without_its_first_coefficient():
    spectrum = scipy.fft.dctn(np.asarray(MAP, np.float64), axes=(1, 2), norm="ortho")
    spectrum[:, 0, 0] = 0
    expected = scipy.fft.idctn(spectrum, axes=(1, 2), norm="ortho")
    np.testing.assert_allclose(without_mean(MAP), expected, atol=1e-6)


def test_channelwise_is_blind_to_what_is_added_to_a_channel():
    shift = jnp.array([5.0, -2.0, 30.0])
    assert jnp.abs(value("channelwise", MAP + shift, MAP)).max() < 1e-4
    assert value("channelwise", OTHER, MAP).min() > 0.1
    with pytest.raises(UserError, match="map of 4 x 4 of the student against 2 x 2"):
        value("channelwise", MAP, MAP[:, :2, :2])


def test_averages_are_those_of_torchs_adaptive_pooling():
    """Cells overlap where they do not divide the map: rows 0-1, 1-3, 3-4 of five in three."""
    x = jnp.asarray(RNG.normal(size=(1, 5, 5, 1)), jnp.float32)
    rows = ((0, 2), (1, 4), (3, 5))
    for i, (top, bottom) in enumerate(rows):
        for j, (left, right) in enumerate(rows):
            mean = x[0, top:bottom, left:right, 0].mean()
            np.testing.assert_allclose(averaged(x, 3)[0, i, j, 0], mean, rtol=1e-5)


def test_maps_and_tokens_are_read_and_written_alike():
    tokens = jnp.arange(2 * 6 * 3.0).reshape(2, 6, 3)
    places = as_map(tokens, "tap")
    assert places.shape == (2, 2, 2, 3)
    np.testing.assert_array_equal(places.reshape(2, 4, 3), tokens[:, 2:])
    for seen in (tokens, MAP, MAP[:, 0, 0]):
        np.testing.assert_array_equal(with_places(seen, as_map(seen, "tap")), seen)
    with pytest.raises(UserError, match="tap holds 8 tokens, which are no square of patches"):
        as_map(jnp.ones((1, 8, 2)), "tap")


@pytest.mark.parametrize("scan_layers", [False, True])
def test_a_teacher_resumes_from_another_activation(scan_layers):
    """Of a real model, class token and scanned layers included."""
    sizes = {"img_size": 4, "patch_size": 2, "dim": 8, "depth": 2, "heads": 1}
    model = create_model("vit_tiny_patch16_224", num_classes=3, **sizes, scan_layers=scan_layers)
    images = jnp.asarray(RNG.normal(size=(2, 2, 4, 4, 1)), jnp.float32)
    variables = model.init(jax.random.key(0), images[0])
    teacher = Teacher("vit", model, reads_taps=True)
    first, second = (teacher(variables, each) for each in images)
    path = "block_00/output"
    crossed = first.resume(path, second.tap(path))
    # What stands behind the tap has seen the second images alone.
    np.testing.assert_allclose(crossed.logits, second.logits, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(
        crossed.tap("block_01/output"), second.tap("block_01/output"), rtol=1e-4, atol=1e-6
    )
    slope = jax.grad(lambda x: first.resume(path, x).logits.sum())(second.tap(path))
    assert np.abs(slope).max() > 0
    slope = jax.grad(lambda x: teacher(variables, x).resume(path, second.tap(path)).logits.sum())
    np.testing.assert_array_equal(slope(images[0]), 0)


def test_a_student_that_is_its_teacher_has_nothing_to_learn_across():
    rest = jnp.asarray(RNG.normal(size=(3, 5)), jnp.float32)

    def answer(x):
        return x.mean((1, 2)) @ rest

    def resume(path, x):
        return types.SimpleNamespace(logits=answer(x))

    options = {"name": "crosskd", "student_tap": "map", "teacher_tap": "map"}
    teacher = Told(answer(MAP), {"map": MAP}, resume)
    for distance in ("kl", "quality"):
        term = TERMS["crosskd"](distance=distance, **options)
        same, other = (term.apply({}, Told(None, {"map": x}), teacher, {}) for x in (MAP, OTHER))
        assert jnp.abs(same).max() < 1e-5
        if distance == "kl":
            # Behind a tap of the last layer it is plain distillation.
            plain = soft_distillation(answer(OTHER), answer(MAP), temperature=1.0)
            np.testing.assert_allclose(other, plain, rtol=1e-5)
        else:
            p, q = jax.nn.sigmoid(answer(MAP)), jax.nn.sigmoid(answer(OTHER))
            entropy = -p * jnp.log(q) - (1 - p) * jnp.log1p(-q)
            np.testing.assert_allclose(other, (jnp.abs(p - q) * entropy).sum(-1), rtol=1e-4)
