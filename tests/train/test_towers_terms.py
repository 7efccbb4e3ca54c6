"""Level 9: what large towers teach small ones, against loops; the limits of each term."""

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn import drawn_variables
from small_towers import TowersSuite, two_towers, unit

from scanmax.errors import UserError
from scanmax.models.registry import create_model
from scanmax.models.towers import Pairs, TwoTowers
from scanmax.models.weights import fit_weights
from scanmax.testing import SmallNet, SmallPairs
from scanmax.train.build import build
from scanmax.train.config import Config, ModelConfig, ObjectiveConfig
from scanmax.train.losses.contrast import softmax_contrast
from scanmax.train.teachers import Told
from scanmax.train.terms.affinity import Affinity
from scanmax.train.terms.clip_kd import ClipKd, contrast_slopes
from scanmax.train.terms.similarity_matrix import SimilarityMatrix

WEIGHTS = {"features": 20.0, "interactive": 2.0, "relation": 3.0, "gradient": 50.0, "fused": 0.5}


def shares(row):
    return [jnp.exp(value) / sum(jnp.exp(other) for other in row) for value in row]


def table(images, texts, scale):
    return [[scale * (image @ text) for text in texts] for image in images]


def turned(rows):
    return [list(column) for column in zip(*rows)]


def clip_loss(images, texts, scale):
    logits = table(images, texts, scale)
    total = 0.0
    for rows in (logits, turned(logits)):
        total -= sum(jnp.log(shares(row)[place]) for place, row in enumerate(rows))
    return total / (2 * len(images))


def cross_entropy(told, own):
    """The mean over rows and columns of H(softmax(told), softmax(own))."""
    total = 0.0
    for ours, theirs in ((own, told), (turned(own), turned(told))):
        for row, aims in zip(ours, theirs):
            total -= sum(p * jnp.log(q) for p, q in zip(shares(aims), shares(row)))
    return total / (2 * len(own))


def mean_square(x, y):
    return sum((a - b) ** 2 for a, b in zip(x, y)) / len(x)


def clip_kd(own, told, scales, params):
    (images, texts), (told_images, told_texts) = own, told
    count = len(images)
    affinities = table(*told, scales[1])
    relation = cross_entropy(affinities, table(*own, scales[0]))
    relation -= cross_entropy(affinities, affinities)
    maps = {name: params[f"{name}_projector"] for name in ("image", "text")}
    images, texts = (
        [unit(x @ maps[name]["kernel"] + maps[name]["bias"]) for x in rows]
        for name, rows in (("image", images), ("text", texts))
    )
    features = sum(map(mean_square, images, told_images)) + sum(map(mean_square, texts, told_texts))
    crossed = jnp.exp(params["interactive_scale"])
    interactive = 0.0
    for ours, theirs in ((images, told_texts), (texts, told_images)):
        rows = table(ours, theirs, crossed)
        interactive -= sum(jnp.log(shares(row)[place]) for place, row in enumerate(rows)) / 2
    slopes = [
        jax.grad(lambda pair, scale=scale: clip_loss(*pair, scale))(pair)
        for pair, scale in (((images, texts), scales[0]), ((told_images, told_texts), scales[1]))
    ]
    gradient = sum(
        mean_square(mine, theirs)
        for ours, told_slopes in zip(*slopes)
        for mine, theirs in zip(ours, told_slopes)
    )
    fused = []
    for name, ours, theirs in (("image", images, told_images), ("text", texts, told_texts)):
        layer = params[f"{name}_fusion"]
        fused.append(
            [
                unit(jnp.concatenate([x, y]) @ layer["kernel"] + layer["bias"])
                for x, y in zip(ours, theirs)
            ]
        )
    found = {
        "features": features / count,
        "interactive": interactive / count,
        "relation": relation,
        "gradient": gradient / count,
        "fused": clip_loss(*fused, jnp.exp(params["fusion_scale"])),
    }
    return sum(WEIGHTS[name] * value for name, value in found.items())


def ranking(images, texts, margin):
    count, total = len(images), 0.0
    for i, j in itertools.permutations(range(count), 2):
        own = images[i] @ texts[i]
        total += jnp.maximum(0, margin + images[i] @ texts[j] - own)
        total += jnp.maximum(0, margin + images[j] @ texts[i] - own)
    return total / (2 * count * (count - 1))


def smooth(x):
    return jnp.where(abs(x) <= 1, x**2 / 2, abs(x) - 0.5)


class PairTermsSuite(TowersSuite):
    """All of them at once, from a teacher of another width, beside the ranking loss."""

    terms = (
        ("clip_kd", {"weight": 0.5, **WEIGHTS}),
        ("affinity", {"weight": 0.7}),
        ("similarity_matrix", {"weight": 4.0}),
    )
    own = {"margin": 0.3}
    fields = {"objective": ObjectiveConfig(name="max_margin", weight=0.4, terms=terms, kwargs=own)}
    model = two_towers()
    teacher = two_towers(width=6, dim=6, init_scale=3.0)

    def reference(self, variables, batch, teachers):
        params, taught = variables["params"], teachers[0]["params"]
        own = self.embedded(self.model, params["model"], batch)
        told = self.embedded(self.teacher, taught, batch)
        return loop(own, told, params, taught)


@jax.jit
def loop(own, told, params, taught):
    scales = jnp.exp(params["model"]["logit_scale"]), jnp.exp(taught["logit_scale"])
    total = 0.4 * ranking(*own, 0.3)
    total += 0.5 * clip_kd(own, told, scales, params["clip_kd"])
    total += 0.7 * cross_entropy(table(*told, scales[1]), table(*own, scales[0]))
    ours, theirs = (table(*pair, 1.0) for pair in (own, told))
    apart = [smooth(x - y) for row, aims in zip(ours, theirs) for x, y in zip(row, aims)]
    return total + 4 * sum(apart) / len(apart)


def pairs(seed, rows=5, width=4, scale=3.0):
    x = np.random.default_rng(seed).normal(size=(2, rows, width))
    image, text = (jnp.asarray(each) for each in x / np.linalg.norm(x, axis=-1, keepdims=True))
    return Pairs(image, text, jnp.asarray(scale, image.dtype), jnp.zeros((), image.dtype))


BATCH = {"mask": jnp.ones(5, bool)}


def value_of(term, own, told):
    """The term's values, of parameters that it draws."""
    both = (Told(own, {}), Told(told, {}), BATCH)
    return term.apply(term.init(jax.random.key(0), *both), *both)


def test_a_teacher_that_is_sure_teaches_clips_own_loss():
    own = pairs(0)
    sure = Pairs(jnp.eye(5), jnp.eye(5), jnp.asarray(1e3), jnp.zeros(()))
    expected = softmax_contrast(own.logits, BATCH["mask"])
    np.testing.assert_allclose(value_of(Affinity(), own, sure), expected, rtol=1e-6)


def test_towers_that_are_their_teacher_have_nothing_to_learn():
    own, nothing = pairs(0), {"interactive": 0.0, "features": 0.0, "relation": 0.0}
    for way in ("features", "relation", "gradient"):
        term = ClipKd(**{**nothing, way: 1.0})
        np.testing.assert_allclose(value_of(term, own, own), 0, atol=1e-6)
        assert value_of(term, own, pairs(1)).min() > 1e-4
        # Of equal widths nothing is projected.
        assert not term.init(jax.random.key(0), Told(own, {}), Told(own, {}), BATCH)


def test_the_closed_form_of_gradients_is_the_gradient():
    mask = jnp.arange(5) < 4

    def loss(image, text, own):
        logits = own._replace(image=image, text=text).logits
        return jnp.where(mask, softmax_contrast(logits, mask), 0).sum() / 4

    with jax.enable_x64(True):
        own = pairs(0)
        expected = jax.grad(loss, argnums=(0, 1))(own.image, own.text, own)
        for ours, theirs in zip(contrast_slopes(own, mask), expected):
            np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-12)


def test_a_matrix_of_similarities_is_blind_to_turns_and_is_the_mean_of_several():
    own, term = pairs(0), SimilarityMatrix(teacher=(0, 1), shares=(1.0, 3.0))
    turn = jnp.linalg.qr(jax.random.normal(jax.random.key(0), (4, 4)))[0]
    first, second = pairs(1), pairs(2)
    moved = first._replace(image=first.image @ turn, text=first.text @ turn)
    found = []
    for one in (first, moved):
        heard = term.hear({0: Told(one, {}), 1: Told(second, {})})
        found.append(term(Told(own, {}), heard, BATCH))
    np.testing.assert_allclose(*found, rtol=1e-5, atol=1e-6)
    mean = (first.image @ first.text.T + 3 * second.image @ second.text.T) / 4
    apart = smooth(own.image @ own.text.T - mean)
    np.testing.assert_allclose(found[0], apart.mean(axis=1), rtol=1e-5)


@pytest.mark.parametrize("term", [Affinity(), ClipKd(gradient=1e3), SimilarityMatrix()])
def test_rows_that_do_not_count_reach_nothing(term):
    batch, told = {"mask": jnp.arange(5) < 3}, pairs(1)
    if isinstance(term, SimilarityMatrix):
        told = (told,)
    own = pairs(0)
    given = (Told(told, {}), batch)
    variables = term.init(jax.random.key(0), Told(own, {}), *given)

    def total(image):
        found = term.apply(variables, Told(own._replace(image=image), {}), *given)
        return jnp.where(batch["mask"], found, 0).sum()

    slope = jax.grad(total)(own.image)
    assert np.isfinite(slope).all()
    assert (np.asarray(slope)[3:] == 0).all()
    assert (np.asarray(slope)[:3] != 0).any()


def test_a_student_inherits_of_a_larger_teacher():
    def towers(dim, depth, heads):
        image = {"img_size": 8, "patch_size": 4, "dim": dim, "depth": depth, "heads": heads}
        text = {"vocab_size": 7, "dim": dim, "depth": 1, "heads": heads}
        return TwoTowers(
            create_model("deit_tiny_patch16_224", 0, **image),
            create_model("lm_tiny", **text),
            dim=dim,
            text_length=4,
        )

    images = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
    large = drawn_variables(towers(12, 5, 3), images)
    small, fit = fit_weights(towers(8, 2, 2), large, (8, 8, 3), adapt="smaller")
    own, told = nn.unbox(small)["params"], large["params"]
    for place, source in ((0, 0), (1, 4)):
        ours = own["image"][f"block_{place:02d}"]["mlp"]["fc1"]["kernel"]
        theirs = told["image"][f"block_{source:02d}"]["mlp"]["fc1"]["kernel"]
        np.testing.assert_array_equal(ours, theirs[: ours.shape[0], : ours.shape[1]])
    ours, theirs = (x["text"]["block_00"]["mixer"]["qkv"]["kernel"] for x in (own, told))
    np.testing.assert_array_equal(ours, theirs[:8, :, :2])
    assert own["logit_scale"] == told["logit_scale"]
    assert not fit.fresh
    assert {path.split("/")[2] for path in fit.dropped} == {"block_01", "block_02", "block_03"}
    with pytest.raises(UserError, match="which is no part"):
        fit_weights(towers(12, 5, 3), nn.unbox(small), (8, 8, 3), adapt="smaller")


def test_mistakes_are_one_line():
    teachers = (("deit_tiny_patch16_224", {"weights": "x"}),) * 2

    def refused(match, *terms, name="clip", teachers=teachers, **kwargs):
        own = ObjectiveConfig(name=name, terms=terms, teachers=teachers, kwargs=kwargs)
        config = Config(
            objective=own, model=ModelConfig(name="small"), batch_size=16, duration="2 steps"
        )
        with pytest.raises(UserError, match=match):
            build(config, pipeline=SmallPairs(16), model=SmallNet(), devices=jax.devices()[:1])

    refused("'kd' reads answers, and the model of .*'clip' gives embeddings", "kd")
    refused("asks one teacher", ("affinity", {"teacher": (0, 1)}))
    nothing = {"features": 0.0, "interactive": 0.0, "relation": 0.0}
    refused("no weight above 0", ("clip_kd", nothing))
    refused("asks teacher 0", "affinity", teachers=())
    towers = ("deit_tiny_patch16_224", {"towers": {"width": 3}})
    refused("towers have no option 'width'", "affinity", teachers=(towers,))
    refused("patch=3 does not divide images of 4 x 4", teachers=(), hide=0.5, patch=3)
