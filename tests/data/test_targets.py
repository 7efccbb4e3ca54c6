"""What a batch asks for is among the classes, or the batch is refused in a line."""

import numpy as np
import pytest

from scanmax.data import AugmentConfig, DataConfig, load, sources, synthetic
from scanmax.data.targets import check_targets
from scanmax.errors import UserError


def batch(name, values, **others):
    return {name: np.asarray(values, np.int32), **others}


def test_what_is_among_the_classes_passes():
    check_targets(batch("label", [0, 4]), "image", 5, "here")
    # Rows that the mask drops, mixed labels and rows without any are not looked at.
    check_targets(batch("label", [0, 9], mask=np.array([True, False])), "image", 5, "here")
    check_targets({"label": np.eye(5, dtype=np.float32)}, "image", 3, "here")
    check_targets(batch("label", [7], mask=np.array([False])), "image", 5, "here")
    check_targets(batch("tokens", [[0, 255]]), "tokens", 256, "here")
    tokens = batch("tokens", [[1, 2]], targets=np.array([[-1, 2]], np.int32))
    check_targets(tokens, "labelled_tokens", 3, "here")
    check_targets({"series": np.zeros((1, 3, 2)), "target": np.ones(1)}, "series", 1, "here")


@pytest.mark.parametrize(
    ("wrong", "kind", "message"),
    [
        (batch("label", [0, 5]), "image", r"here holds label 5, outside the model's 5 classes \(0"),
        (batch("label", [0, -1]), "image", "holds label -1, outside the model's 5 classes"),
        (batch("label", [-1, -1]), "image", "holds label -1: it is unlabelled"),
        (batch("tokens", [[0, 5]]), "tokens", "token 5, outside the model's vocabulary of 5"),
        (batch("tokens", [[-1, 0]]), "tokens", "token -1, outside"),
        (
            batch("tokens", [[0, 1]], targets=np.array([[-2, 1]])),
            "labelled_tokens",
            "target -2, outside",
        ),
        (
            batch("tokens", [[0, 1]], targets=np.array([[-1, 5]])),
            "labelled_tokens",
            r"target 5, outside the model's vocabulary of 5 \(0 to 4\)",
        ),
    ],
)
def test_what_is_not_is_named(wrong, kind, message):
    with pytest.raises(UserError, match=message):
        check_targets(wrong, kind, 5, "here")


def relabelled(monkeypatch, part, label):
    """The source "relabelled", synthetic but for the labels of one part."""
    import dataclasses

    class Relabelled:
        def __init__(self, elements):
            self.elements = elements

        def __len__(self):
            return len(self.elements)

        def __getitem__(self, index):
            return {**self.elements[index], "label": np.int64(label)}

    def opened(config):
        source = synthetic.open_source(config)
        return dataclasses.replace(source, **{part: Relabelled(getattr(source, part))})

    monkeypatch.setitem(sources.SOURCES, "relabelled", opened)
    return DataConfig(name="relabelled", image_size=4, kwargs={"examples": 8, "eval_examples": 2})


def test_a_held_out_part_may_be_without_labels(monkeypatch):
    assert not load(relabelled(monkeypatch, "eval", -1), seed=0, batch_size=4).labelled
    assert load(relabelled(monkeypatch, "train", -1), seed=0, batch_size=4).labelled


def test_a_label_that_cannot_be_mixed_is_named(monkeypatch):
    for label in (-2, 10):
        data = relabelled(monkeypatch, "train", label)
        data.augment = AugmentConfig(mixup=0.5)
        batches = load(data, seed=0, batch_size=4).train_iterator()
        with pytest.raises(UserError, match=f"label {label}, outside the data set's 10 classes"):
            next(batches)
