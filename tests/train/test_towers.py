"""Level 9: two towers by CLIP's and SigLIP's losses, what they know, and the data of pairs."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_towers import TowersSuite, two_towers

from scanmax.errors import UserError
from scanmax.models.analysis import count_multiply_adds
from scanmax.models.registry import create_model
from scanmax.models.towers import Pairs, TwoTowers, no_higher
from scanmax.testing import SmallImages, SmallNet, SmallPairs
from scanmax.train.build import build
from scanmax.train.config import CheckpointConfig, Config, ModelConfig, ObjectiveConfig
from scanmax.train.evaluation import evaluate
from scanmax.train.evaluators.towers import recall
from scanmax.train.losses.contrast import sigmoid_contrast, softmax_contrast
from scanmax.train.objectives.contrastive import matched
from scanmax.train.throughput import step_flops

TEXT = ("textcnn_rand", {"dim": 4, "filters": 3, "widths": (2, 3)})
KWARGS = {"text": TEXT, "dim": 6}


class ClipSuite(TowersSuite):
    model = two_towers()
    fields = {"objective": ObjectiveConfig(name="clip")}

    def reference(self, variables, batch, teachers):
        images, texts = self.embedded(self.model, variables["params"]["model"], batch)
        scale = jnp.exp(variables["params"]["model"]["logit_scale"])
        total = 0.0
        for ours, theirs in ((images, texts), (texts, images)):
            for row, own in enumerate(ours):
                near = [jnp.exp(scale * (own @ other)) for other in theirs]
                total -= jnp.log(near[row] / sum(near)) / 2
        return total / len(images)


class SiglipSuite(TowersSuite):
    """Another loss, and a bias; all else is as ClipSuite has it."""

    test_a_run_continues_bit_for_bit_and_exports_the_model = None
    test_eight_devices_equal_one = None
    model = two_towers(init_bias=-2.0)
    fields = {"objective": ObjectiveConfig(name="siglip")}

    def reference(self, variables, batch, teachers):
        images, texts = self.embedded(self.model, variables["params"]["model"], batch)
        own = variables["params"]["model"]
        total = 0.0
        for i, image in enumerate(images):
            for j, text in enumerate(texts):
                logit = jnp.exp(own["logit_scale"]) * (image @ text) + own["logit_bias"]
                total += jnp.log(1 + jnp.exp(-logit if i == j else logit))
        return total / len(images)


def random_pairs(rows=5, width=4, scale=3.0):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, rows, width))
    image, text = x / np.linalg.norm(x, axis=-1, keepdims=True)
    return Pairs(jnp.asarray(image), jnp.asarray(text), jnp.asarray(scale), jnp.zeros(()))


def test_no_two_alike_is_the_logarithm_of_their_number():
    zeros, everything = jnp.zeros((6, 6)), jnp.ones(6, bool)
    np.testing.assert_allclose(softmax_contrast(zeros, everything), math.log(6), rtol=1e-6)
    np.testing.assert_allclose(sigmoid_contrast(zeros, everything), 6 * math.log(2), rtol=1e-6)


@pytest.mark.parametrize("contrast", [softmax_contrast, sigmoid_contrast])
def test_rows_that_do_not_count_are_no_negatives(contrast):
    mask = jnp.arange(5) < 3
    whole = random_pairs().logits
    few = contrast(whole[:3, :3], jnp.ones(3, bool))

    def total(logits):
        return jnp.where(mask, contrast(logits, mask), 0).sum()

    value, slope = jax.value_and_grad(total)(whole)
    np.testing.assert_allclose(value, few.sum(), rtol=1e-6)
    assert np.isfinite(slope).all()
    assert (np.asarray(slope)[3:, :] == 0).all()
    assert (np.asarray(slope)[:, 3:] == 0).all()


def test_a_pair_is_matched_by_half_where_one_finds_the_other():
    image = jnp.eye(3)
    text = jnp.eye(3)[jnp.asarray([0, 0, 2])]
    one, mask = jnp.ones(()), jnp.ones(3, bool)
    found = matched(Pairs(image, text, one, 0 * one), mask)
    # Text 1 is text 0: it finds image 0 first, and image 1 finds all texts alike.
    np.testing.assert_allclose(found, [1, 0.5, 1])


def test_the_scale_stops_where_it_may_come_back():
    for x, expected, rise, fall in ((1.0, 1.0, 2.0, -2.0), (3.0, 2.0, 2.0, 0.0)):
        value, slope = jax.value_and_grad(lambda x: 2 * no_higher(x, 2.0))(x)
        assert (value, slope) == (2 * expected, rise)
        assert jax.grad(lambda x: -2 * no_higher(x, 2.0))(x) == fall


def test_a_language_model_speaks_by_its_last_token_and_padding_says_nothing():
    text = create_model("lm_tiny", vocab_size=7, dim=8, depth=1, heads=2)
    model = TwoTowers(SmallNet(num_classes=0), text, dim=6, text_length=5)
    images = jnp.ones((2, 4, 4, 1))
    variables = model.init(jax.random.key(0), images)
    encode = jax.jit(lambda tokens: model.apply(variables, tokens, method="encode_text"))
    padded = encode(jnp.asarray([[3, 2, 1, 0, 0], [1, 0, 0, 0, 0]]))
    short = encode(jnp.asarray([[3, 2, 1], [3, 0, 1]]))
    np.testing.assert_allclose(padded[0], short[0], rtol=1e-5, atol=1e-6)
    # What stands before a 0 within a text counts.
    assert np.abs(short[1] - short[0]).max() > 1e-3
    np.testing.assert_allclose(jnp.linalg.norm(padded, axis=1), 1, rtol=1e-6)


def config_of(**fields):
    own = ObjectiveConfig(name="clip", kwargs=KWARGS)
    sizes = {"batch_size": 16, "duration": "2 steps"}
    return Config(**{"objective": own, "model": ModelConfig(name="small"), **sizes, **fields})


def built(config, data=SmallPairs):
    return build(config, pipeline=data(16), model=SmallNet(), devices=jax.devices()[:1])


def test_evaluators_tell_classes_and_whose_text_is_whose():
    evaluators = ("zero_shot", ("retrieval", {"k": 2}))
    best = CheckpointConfig(metric="image_to_text_recall_2", mode="max")
    run = built(config_of(evaluators=evaluators, checkpoint=best))
    state = run.init()
    found = evaluate(run, state)
    pipeline, variables = run.pipeline, run.model_variables(state)
    parts = list(pipeline.eval_batches())
    rows = {name: np.concatenate([p[name][p["mask"]] for p in parts]) for name in parts[0]}
    pairs = run.model.apply(variables, rows["image"], tokens=rows["tokens"])
    classes = run.model.apply(variables, pipeline.class_tokens[:, 0], method="encode_text")
    right = jnp.argmax(pairs.image @ classes.T, axis=1) == rows["label"]
    assert found["zero_shot_accuracy"] == pytest.approx(float(right.mean()))
    for way, x, y in (("image_to_text", *pairs[:2]), ("text_to_image", *pairs[1::-1])):
        hits = 0
        for row in range(len(x)):
            order = np.argsort(-(np.asarray(y) @ np.asarray(x)[row]))[:2]
            hits += any((rows["tokens"][row] == rows["tokens"][place]).all() for place in order)
        assert found[f"{way}_recall_2"] == pytest.approx(hits / len(x)), way
    assert {"loss", "matched"} <= set(found)


def test_words_beyond_the_text_tower_are_refused():
    run = built(config_of())
    batch = next(run.pipeline.train_iterator())
    run.check(batch)
    with pytest.raises(UserError, match="token 7, outside the model's vocabulary of 7"):
        run.check({**batch, "tokens": np.full((16, 4), 7, np.int32)})


def test_work_of_both_towers_counts():
    run = built(config_of())
    assert set(run.beside) == {"tokens"}
    alone = count_multiply_adds(run.model, run.example)
    both = count_multiply_adds(run.model, run.example, **run.beside)
    # The text tower: filters over every place, and its projection.
    filters = sum((4 + 2 * (3 - 1) - width + 1) * width * 4 * 3 for width in (2, 3))
    assert both - alone == filters + 6 * 6
    assert step_flops(run, both) == 6 * 16 * both


def test_equal_texts_are_as_good_as_the_own_one_and_ties_are_not():
    queries, keys = np.eye(3), np.eye(3)[[1, 0, 2]]
    assert recall(queries, keys, np.arange(3), 1) == pytest.approx(1 / 3)
    assert recall(queries, keys, np.asarray([0, 0, 1]), 1) == 1
    assert recall(queries, np.ones((3, 3)), np.arange(3), 2) == 0
    assert recall(queries, np.ones((3, 3)), np.arange(3), 3) == 1


def test_mistakes_are_one_line():
    def refused(match, data=SmallPairs, **fields):
        with pytest.raises(UserError, match=match):
            built(config_of(**fields), data)

    def clip(**kwargs):
        return ObjectiveConfig(name="clip", kwargs={**KWARGS, **kwargs})

    refused("holds image$", data=SmallImages)
    refused("'convnext_tiny' reads images", objective=clip(text="convnext_tiny"))
    refused("must be a pair of a model and its fields", objective=clip(text=("lm_tiny",)))
    refused("has no field 'depht'", objective=clip(text=("lm_tiny", {"depht": 2})))
    refused("scale", objective=clip(scale=0.0))
    refused("reads no labels", objective=ObjectiveConfig(name="clip", loss="focal", kwargs=KWARGS))
    terms = ObjectiveConfig(name="clip", kwargs=KWARGS, terms=("hard",), teachers=())
    refused("asks teacher 0", objective=terms)
    refused("config.mix changes images and labels", mix=("mixup",))
    knn = {"evaluators": ("knn",), "checkpoint": CheckpointConfig(metric="loss")}
    refused("reads images and their labels", **knn)
