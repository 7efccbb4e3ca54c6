"""Level 9: image models that learn what classes are called from two towers."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_towers import TowersSuite, two_towers, unit

from scanmax.errors import UserError
from scanmax.models.parts.heads import DualHead, UnitProjection
from scanmax.models.towers import Captions, ZeroShot
from scanmax.models.weights import load_weights
from scanmax.testing import SmallMaps, SmallNet, SmallPairs, SmallText
from scanmax.train.build import build
from scanmax.train.config import Config, ModelConfig, ObjectiveConfig
from scanmax.train.objectives.text_alignment import FORMS, TextAlignment

CAPTIONS = Captions(SmallPairs.class_tokens)


def teacher(**fields):
    fields = {"width": 6, "dim": 6, "init_scale": 3.0, "captions": CAPTIONS, **fields}
    return two_towers(kind=ZeroShot, **fields)


def logarithms(logits):
    total = sum(jnp.exp(value) for value in logits)
    return [value - jnp.log(total) for value in logits]


def divergence(told, own):
    pairs = list(zip(logarithms(told), logarithms(own)))
    return sum(jnp.exp(t) * (t - s) for t, s in pairs)


def named(params, images, width=6):
    """What a teacher says of images: unit vectors of them and of classes, and its scale."""
    wide = {"num_classes": 0, "width": width, "dtype": jnp.float64}
    features = SmallNet(**wide).apply({"params": params["image"]}, images)
    found = [unit(row @ params["image_projection"]["kernel"]) for row in features]
    # Each class has one caption.
    texts = SmallText(**wide).apply({"params": params["text"]}, SmallPairs.class_tokens[:, 0])
    classes = [unit(row @ params["text_projection"]["kernel"]) for row in texts]
    return found, classes, jnp.exp(params["logit_scale"])


class NamedSuite(TowersSuite):
    """A student that is a plain image model; some labels are not told."""

    __test__ = False
    model = SmallNet()
    frozen = ("image/head",)

    def batch(self, step=3, size=16):
        batch = super().batch(step, size)
        batch["label"][::3] = -1
        return batch

    def features(self, variables, batch):
        model = SmallNet(num_classes=0, dtype=jnp.float64)
        params = variables["params"]["model"]["image"]
        return model.apply({"params": params}, batch["image"], train=True)


class DualHeadSuite(NamedSuite):
    terms = (("kd", {"weight": 0.7, "temperature": 2.0}),)
    fields = {"objective": ObjectiveConfig(name="dual_head", weight=0.3, terms=terms)}
    teacher = teacher()

    def reference(self, variables, batch, teachers):
        found, classes, scale = named(teachers[0]["params"], batch["image"])
        own, total = variables["params"]["model"], 0.0
        features = self.features(variables, batch)
        kept = [row for row in range(len(found)) if batch["mask"][row]]
        for row in kept:
            x, label = features[row], int(batch["label"][row])
            heads = [own[name]["kernel"].T @ x + own[name]["bias"] for name in HEADS]
            told = [scale * (vector @ found[row]) / 2 for vector in classes]
            total += 0.7 * 4 * divergence(told, heads[1] / 2)
            if label >= 0:
                total -= 0.3 * logarithms(heads[0])[label]
        return total / len(kept)


class CaptionedClassesSuite(NamedSuite):
    """Two towers that learn their own vectors of classes."""

    fields = {"objective": ObjectiveConfig(name="captioned_classes", weight=0.3)}
    model = two_towers()

    def reference(self, variables, batch, teachers):
        found, classes, scale = named(variables["params"]["model"], batch["image"], width=8)
        kept = [row for row in range(len(found)) if batch["mask"][row]]
        total = 0.0
        for row in kept:
            if batch["label"][row] >= 0:
                logits = [scale * (vector @ found[row]) for vector in classes]
                total -= 0.3 * logarithms(logits)[int(batch["label"][row])]
        return total / len(kept)


HEADS = ("label_head", "taught_head")


class TextAlignmentSuite(TowersSuite):
    """A classifier beside a teacher of whom the texts alone are asked; some labels are not told."""

    kwargs = {"dim": 8, "align": 0.5, "temperature": 0.5}
    fields = {"objective": ObjectiveConfig(name="text_alignment", weight=0.3, kwargs=kwargs)}
    model = SmallMaps()
    teacher = two_towers(width=6, init_scale=3.0)
    frozen = ()

    def batch(self, step=3, size=16):
        batch = super().batch(step, size)
        batch["label"][::3] = -1
        return batch

    def reference(self, variables, batch, teachers):
        params, own, total = variables["params"], self.model.clone(dtype=jnp.float64), 0.0
        logits, sown = own.apply(
            {"params": params["model"]}, batch["image"], mutable=["intermediates"]
        )
        features = sown["intermediates"]["pre_logits"][0]
        texts = self.embedded(self.teacher, teachers[0]["params"], batch)[1]
        kept = [row for row in range(len(logits)) if batch["mask"][row]]
        found = []
        for row in kept:
            hidden, last = params["projector"]["fc0"], params["projector"]["fc1"]
            x = jnp.maximum(features[row] @ hidden["kernel"] + hidden["bias"], 0)
            found.append(unit(x @ last["kernel"]))
            if batch["label"][row] >= 0:
                total -= 0.3 * logarithms(logits[row])[int(batch["label"][row])]
        for place in range(len(kept)):
            images = [(found[place] @ text) / 0.5 for text in texts]
            others = [(image @ texts[place]) / 0.5 for image in found]
            total -= 0.5 * (logarithms(images)[place] + logarithms(others)[place]) / 2
        return total / len(kept)


class SharedVectorsSuite(NamedSuite):
    kwargs = {"dim": 6, "hidden": 8, "coherence": 2.0, "mimicry": 0.5, "neighbours": 0.25}
    fields = {"objective": ObjectiveConfig(name="shared_vectors", weight=0.3, kwargs=kwargs)}
    teacher = teacher(whole=True)

    def reference(self, variables, batch, teachers):
        found, classes, scale = named(teachers[0]["params"], batch["image"])
        own, total = variables["params"]["model"], 0.0
        features = self.features(variables, batch)
        kept = [row for row in range(len(found)) if batch["mask"][row]]
        for row in kept:
            x = jax.nn.gelu(features[row] @ own["fc0"]["kernel"] + own["fc0"]["bias"])
            x = unit(x @ own["fc1"]["kernel"] + own["fc1"]["bias"])
            logits = [scale * (vector @ x) for vector in classes]
            told = [scale * (vector @ found[row]) for vector in classes]
            near = [scale * (found[other] @ x) for other in kept]
            total += 2 * divergence(told, logits) + 0.5 * sum((x - found[row]) ** 2)
            total -= 0.25 * logarithms(near)[kept.index(row)]
            if batch["label"][row] >= 0:
                total -= 0.3 * logarithms(logits)[int(batch["label"][row])]
        return total / len(kept)


def test_both_heads_answer_by_their_shares():
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.normal(size=(3, 4, 4, 1)), jnp.float32)
    model = DualHead(SmallNet(num_classes=0), 5, share=0.25, temperature=2.0)
    variables = model.init(jax.random.key(0), images)
    labels, taught = model.apply(variables, images, train=True)
    expected = 0.25 * jax.nn.softmax(labels) + 0.75 * jax.nn.softmax(taught / 2)
    np.testing.assert_allclose(jnp.exp(model.apply(variables, images)), expected, rtol=1e-5)
    for share, alone in ((1.0, labels), (0.0, taught)):
        found = model.clone(share=share, temperature=1.0).apply(variables, images)
        np.testing.assert_allclose(jnp.exp(found), jax.nn.softmax(alone), rtol=1e-5)


def test_forms_of_the_alignment_meet_in_their_limits():
    """Of one image a contrast is nothing; a cosine is the squared distance of unit vectors."""
    rng = np.random.default_rng(0)
    own, text = (unit(jnp.asarray(rng.normal(size=(1, 5)))[0])[None] for _ in range(2))
    batch, found = {"mask": jnp.ones(1, bool), "tokens": jnp.ones((1, 2), int)}, {}
    for form in FORMS:
        objective = TextAlignment(None, ObjectiveConfig(), form=form)
        found[form] = TextAlignment.distance(objective, own, text, batch)[0]
    assert found["clip"] == found["images"] == 0
    np.testing.assert_allclose(found["cosine"], jnp.square(own - text).sum(), rtol=1e-5)


def test_heads_apart_do_not_pull_at_each_other():
    """The gradient of either loss is nothing at the other's head, and both reach the features."""
    images = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4, 4, 1)), jnp.float32)
    model = DualHead(SmallNet(num_classes=0), 5)
    params = model.init(jax.random.key(0), images)["params"]
    for head, other in ((0, "taught_head"), (1, "label_head")):
        slopes = jax.grad(
            lambda p, head=head: (model.apply({"params": p}, images, train=True)[head] ** 2).sum()
        )(params)
        assert all((leaf == 0).all() for leaf in jax.tree.leaves(slopes[other]))
        assert any((leaf != 0).any() for leaf in jax.tree.leaves(slopes["image"]))


def test_a_class_is_the_mean_of_its_captions():
    tokens = np.asarray([[[1, 2, 3, 4], [2, 3, 1, 1]], [[5, 5, 5, 5], [6, 1, 2, 2]]])
    model = two_towers(kind=ZeroShot, captions=Captions(tokens), whole=True)
    images = jnp.ones((3, 4, 4, 1))
    variables = model.init(jax.random.key(0), images)
    found = model.apply(variables, images)
    for number, captions in enumerate(tokens):
        vectors = model.apply(variables, captions, method="encode_text")
        np.testing.assert_allclose(found.classes[number], unit(sum(vectors)), rtol=1e-5, atol=1e-6)
    expected = 5 * found.image @ found.classes.T
    np.testing.assert_allclose(found.logits, expected, rtol=1e-5)
    # What is found once is not found again: the texts' tower is not asked.
    settled = model.settled(variables)
    params = {k: v for k, v in settled["params"].items() if not k.startswith("text")}
    again = model.apply({**settled, "params": params}, images)
    chex.assert_trees_all_close(again, found, rtol=1e-6, atol=1e-6)
    # The same parameters as those of the towers that learned.
    plain = jax.eval_shape(two_towers().init, jax.random.key(0), images)
    chex.assert_trees_all_equal_shapes(plain, variables)


def test_a_student_begins_as_the_image_tower_of_two():
    """What stood on the image model is dropped, and what stands there now starts afresh."""
    images = jnp.asarray(np.random.default_rng(0).normal(size=(5, 4, 4, 1)), jnp.float32)
    told = nn.unbox(two_towers().init(jax.random.key(0), images))
    student = UnitProjection(SmallNet(num_classes=0), dim=6, hidden=8, batch_norm=True)
    with pytest.raises(UserError, match=r"image_projection/kernel.*adapt=\['head'\]"):
        load_weights(student, told, (4, 4, 1))
    variables = nn.unbox(load_weights(student, told, (4, 4, 1), adapt="head"))
    chex.assert_trees_all_equal(variables["params"]["image"], told["params"]["image"])
    found, updates = student.apply(variables, images, train=True, mutable=["batch_stats"])
    own, image = variables["params"], {"params": told["params"]["image"]}
    x = SmallNet(num_classes=0).apply(image, images) @ own["fc0"]["kernel"]
    x = jnp.maximum((x - x.mean(axis=0)) / jnp.sqrt(x.var(axis=0) + 1e-5), 0)
    expected = [unit(row @ own["fc1"]["kernel"] + own["fc1"]["bias"]) for row in x]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert updates["batch_stats"]["norm0"]


def test_mistakes_are_one_line():
    size = {"img_size": 4, "patch_size": 2, "dim": 8, "depth": 1, "heads": 2}
    options = {"weights": "x", "kwargs": size, "towers": {"dim": 6}}
    one = (("deit_tiny_patch16_224", options),)

    class Unnamed(SmallPairs):
        class_tokens = None

    def refused(match, name="shared_vectors", data=SmallPairs, **fields):
        own = ObjectiveConfig(name=name, **{"teachers": one, **fields})
        config = Config(
            objective=own, model=ModelConfig(name="small"), batch_size=16, duration="2 steps"
        )
        with pytest.raises(UserError, match=match):
            build(config, pipeline=data(16), model=SmallNet(), devices=jax.devices()[:1])

    refused("these data hold none", data=Unnamed)
    refused("these data hold none", name="captioned_classes", data=Unnamed, teachers=())
    refused("learns from one teacher, and takes no terms", teachers=one * 2)
    refused("learns from one teacher, and takes no terms", terms=("kd",))
    refused("one teacher, and takes no terms", name="text_alignment", terms=("kd",))
    refused("dim=8, and the teacher's space has 6", name="text_alignment", kwargs={"dim": 8})
    refused("no weight is above 0", weight=0.0, kwargs={"coherence": 0.0})
    refused("dim=8, and the teacher's space has 6", kwargs={"dim": 8})
    refused("asks teacher 0", name="dual_head", terms=("kd",), teachers=())
