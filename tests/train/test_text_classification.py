"""Text with one label: every family that reads it trains by one objective."""

import jax
import numpy as np
import pytest

from scanmax.data import DataConfig, load
from scanmax.errors import UserError
from scanmax.train.build import build
from scanmax.train.config import Config, ModelConfig, ObjectiveConfig

ENCODER = {"dim": 8, "embedding_dim": 8, "depth": 1, "heads": 4, "mlp_hidden": 8, "max_length": 8}
MODELS = {
    "textcnn_static": {"dim": 3, "filters": 2},
    "char_cnn_small": {"dim": 2, "hidden_dim": 2, "length": 8, "kernels": (3,), "pools": (2,)},
    "dcnn_sst_fine": {"dim": 2, "widths": (2, 2), "maps": (1, 2)},
    "squeezebert_base": ENCODER,
    "convbert_small": ENCODER,
}


WORDS = DataConfig(
    name="word_order", sequence_length=8, kwargs={"examples": 16, "eval_examples": 8}
)


def config(name, objective="text_classification", data=WORDS, **fields):
    return Config(
        objective=ObjectiveConfig(name=objective),
        model=ModelConfig(name=name, kwargs=fields),
        data=data,
        batch_size=8,
        duration="2 steps",
    )


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_family_takes_a_step(name):
    run = build(config(name, **MODELS[name]))
    assert run.model.vocab_size == 16
    assert run.classes == run.model.num_classes == 2
    state, metrics = jax.eval_shape(run.train_step, run.shapes, run.pipeline.train_spec, ())
    assert metrics["loss"].shape == metrics["accuracy"].shape == ()
    assert jax.tree.structure(state) == jax.tree.structure(run.shapes)


def test_data_and_model_must_speak_of_the_same():
    with pytest.raises(UserError, match=r"needs image data; .*'word_order' holds labelled_text"):
        build(config("textcnn_rand", objective="classification"))
    with pytest.raises(UserError, match=r"needs labelled_text data; .*'synthetic' holds image"):
        build(config("textcnn_rand", data=DataConfig(name="synthetic")))
    with pytest.raises(UserError, match="no field 'vocab_size'"):
        build(config("vgg11"))
    with pytest.raises(UserError, match="lm_tiny is a language model"):
        build(config("lm_tiny"))


def test_labels_outside_the_classes_are_refused():
    run = build(config("dcnn_sst_fine", **MODELS["dcnn_sst_fine"]))
    batch = next(run.pipeline.train_iterator())
    run.check(batch)
    with pytest.raises(UserError, match="holds label 2, outside the model's 2 classes"):
        run.check({**batch, "label": np.full(8, 2, np.int32)})


def test_the_task_is_what_it_says():
    data = DataConfig(name="word_order", sequence_length=24, kwargs={"span": 3})
    batch = next(load(data, seed=0, batch_size=256).train_iterator())
    tokens, labels = batch["tokens"], batch["label"]
    first, second = np.argmax(tokens == 1, 1), np.argmax(tokens == 2, 1)
    np.testing.assert_array_equal(first < second, labels)
    assert set(np.abs(first - second)) == {1, 2}
    assert ((tokens == 1).sum(1) == 1).all()
    assert ((tokens == 2).sum(1) == 1).all()
    words = (tokens > 0).sum(1)
    assert words.min() >= 12
    assert set(words) > {12, 24}
    assert (np.minimum(first, second) >= words // 4).all()
    assert (np.maximum(first, second) < words - words // 4).all()
