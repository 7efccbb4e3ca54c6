"""Pairs of images and texts: made up, of arrays, of files and of shards."""

import io
import tarfile

import numpy as np
import pytest
from PIL import Image

from scanmax.data import DataConfig, load
from scanmax.data.captioned_shapes import CLASSES, COLOURS, GROUNDS, class_captions, decode
from scanmax.data.config import AugmentConfig
from scanmax.errors import UserError


def pipeline(name, path="", batch_size=8, data=None, augment=None, **kwargs):
    config = DataConfig(
        name=name,
        data_dir=str(path),
        image_size=0 if data is not None or name == "captioned_shapes" else 8,
        kwargs=kwargs,
        augment=augment or AugmentConfig(),
    )
    return load(config, data=data, seed=0, batch_size=batch_size)


def test_captions_say_what_pictures_show():
    made = pipeline("captioned_shapes", batch_size=256)
    batch = next(made.train_iterator())
    assert {name: made.train_spec[name].shape for name in batch} == {
        name: values.shape for name, values in batch.items()
    }
    images, lengths = made.to_display(batch["image"]), set()
    for image, tokens, label in zip(images, batch["tokens"], batch["label"]):
        shape, colour = CLASSES[label]
        words = decode(tokens).split()
        assert words[0] == "a"
        assert words[-1] == "."
        assert f"{colour} {shape}" in " ".join(words)
        lengths.add(len(words))
        # The corners and edges are ground, or the shape; most of the picture is ground.
        middle = np.median(image.reshape(-1, 3), axis=0)
        ground = min(GROUNDS, key=lambda name: abs(np.asarray(GROUNDS[name]) - middle).sum())
        if "on" in words:
            assert words[words.index("on") + 1] == ground
        is_shape = abs(image.astype(int) - COLOURS[colour]).max(axis=2) < 30
        assert is_shape.any()
        if "at" in words:
            rows, columns = np.nonzero(is_shape)
            third = len(image) / 3
            place = int((rows.min() + rows.max() + 1) / 2 // third)
            other = int((columns.min() + columns.max() + 1) / 2 // third)
            assert words[-3:-1] == [
                ("top", "middle", "bottom")[place],
                ("left", "centre", "right")[other],
            ]
    assert len(lengths) > 3
    assert set(batch["label"]) == set(range(24))
    assert made.class_tokens.shape == (24, 3, 11)
    told = [[decode(tokens) for tokens in captions] for captions in class_captions()]
    assert told[0] == ["a red circle .", "a small red circle .", "a large red circle ."]


def test_classes_that_no_training_picture_shows():
    made = pipeline("captioned_shapes", batch_size=128, unseen=6, examples=128, eval_examples=48)
    seen = set(next(made.train_iterator())["label"])
    assert len(seen) == 18
    held_out = {int(label) for batch in made.eval_batches() for label in batch["label"]}
    assert held_out == set(range(24))
    # Each colour and each shape is learned in other company.
    for part in (0, 1):
        assert {CLASSES[label][part] for label in seen} == {pair[part] for pair in CLASSES}
    assert len(made.notes[0].split(", ")) == 6


def test_only_some_classes_are_told():
    made = pipeline("captioned_shapes", batch_size=256, labelled=0.25)
    labels = next(made.train_iterator())["label"]
    assert 0.15 < (labels >= 0).mean() < 0.35
    assert all((batch["label"] >= 0).all() for batch in made.eval_batches())


def arrays(count=10):
    rng = np.random.default_rng(0)
    return {
        "image": rng.integers(0, 255, (count, 8, 8, 3)).astype(np.uint8),
        "tokens": rng.integers(1, 9, (count, 5)),
    }


def test_arrays_of_a_notebook_and_of_a_folder(tmp_path):
    own = arrays()
    for name, values in own.items():
        np.save(tmp_path / f"{name}.npy", values)
    found = []
    for made in (
        pipeline("pairs", data=own, batch_size=4, held_out=0.3),
        pipeline("pairs", tmp_path, batch_size=4, held_out=0.3),
    ):
        assert (made.kind, made.num_train, made.num_eval) == ("image_text", 7, 3)
        assert (made.vocab_size, made.text_length, made.class_tokens) == (9, 5, None)
        batch = next(made.train_iterator())
        shown = made.to_display(batch["image"])
        for image, tokens, label in zip(shown, batch["tokens"], batch["label"]):
            (place,) = np.flatnonzero((own["tokens"] == tokens).all(axis=1))
            np.testing.assert_array_equal(image, own["image"][place])
            assert label == -1
        found.append(batch)
    np.testing.assert_array_equal(found[0]["tokens"], found[1]["tokens"])


def test_arrays_with_a_part_and_captions_of_classes():
    own, other = arrays(), arrays(4)
    data = own | {f"eval_{name}": values for name, values in other.items()}
    data |= {"label": np.arange(10) % 2, "eval_label": np.arange(4) % 2}
    data |= {"class_tokens": np.ones((3, 5), int), "class_names": ["a", "b", "c"]}
    made = pipeline("pairs", data=data, batch_size=2, vocab_size=20)
    assert (made.num_train, made.num_eval, made.num_classes, made.vocab_size) == (10, 4, 3, 20)
    assert made.class_tokens.shape == (3, 1, 5)
    labels = np.concatenate([batch["label"] for batch in made.eval_batches()])
    np.testing.assert_array_equal(labels, [0, 1, 0, 1])


def png(value):
    out = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), value, np.uint8)).save(out, "PNG")
    return out.getvalue()


def test_captions_beside_files_and_in_shards(tmp_path):
    folder, shards = tmp_path / "folder", tmp_path / "shards"
    (folder / "deep").mkdir(parents=True)
    shards.mkdir()
    held = {}
    for place in range(10):
        parts = {"png": png(20 * place), "txt": f"grey of {20 * place}".encode()}
        for ending, content in parts.items():
            (folder / "deep" / f"{place}.{ending}").write_bytes(content)
            held[f"{place}.{ending}"] = content
    (folder / "alone.png").write_bytes(png(1))
    for part, names in (("train", sorted(held)[:16]), ("val", sorted(held)[16:])):
        with tarfile.open(shards / f"{part}-000.tar", "w") as tar:
            for name in names:
                entry = tarfile.TarInfo(name)
                entry.size = len(held[name])
                tar.addfile(entry, io.BytesIO(held[name]))
    for path in (folder, shards):
        made = pipeline("pairs", path, batch_size=4, length=12)
        assert (made.num_train, made.num_eval) == (8, 2)
        assert (made.vocab_size, made.text_length) == (257, 12)
        batch = next(made.train_iterator())
        for image, tokens in zip(made.to_display(batch["image"]), batch["tokens"]):
            assert made.decode(tokens) == f"grey of {image[0, 0, 0]}"[:11]
            assert tokens[np.flatnonzero(tokens)[-1]] == 256


def test_mistakes_are_one_line(tmp_path):
    def refused(match, data=None, path="", **kwargs):
        with pytest.raises(UserError, match=match):
            pipeline("pairs", path, data=data, **kwargs)

    own = arrays()
    refused("has no 'tokens'", {"image": own["image"]})
    refused("holds 'token'; did you mean 'tokens'", {"token": own["tokens"], **own})
    refused(r"expected integers \[N, T\]", own | {"tokens": own["tokens"][:, 0]})
    refused("for 9 labels|for 9", own | {"tokens": own["tokens"][1:]})
    refused("outside the vocabulary of 4", own, vocab_size=4)
    refused("class_tokens is", own | {"class_tokens": np.ones((2, 4), int)})
    refused("holds no image", path=tmp_path)
    refused("mixup mixes images and their labels", own, augment=AugmentConfig(mixup=0.2))
    with pytest.raises(UserError, match="is made up"):
        load(DataConfig(name="captioned_shapes", eval_split="test"), seed=0, batch_size=2)
