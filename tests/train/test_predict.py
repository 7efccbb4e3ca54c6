"""Predictions of a trained classifier: of files, folders and arrays, and what is said of others."""

import csv
import warnings

import flax.linen as nn
import jax
import numpy as np
import pytest
from PIL import Image
from toy_run import toy_config

from scanmax import cli
from scanmax.data.preprocessing import Preprocessing
from scanmax.errors import UserError
from scanmax.train import predict
from scanmax.train.config import ObjectiveConfig
from scanmax.train.inference import Trained

PREPARE = Preprocessing((4, 4), 3, np.float32([0.5] * 3), np.float32([0.25] * 3))


class Brightness(nn.Module):
    """Says "dark" or "bright" of normalised images."""

    @nn.compact
    def __call__(self, images):
        mean = images.mean(axis=(1, 2, 3))
        return jax.numpy.stack([-mean, mean], axis=-1)


@pytest.fixture(scope="module")
def trained():
    data = {
        "kind": "image",
        "input": {"shape": [4, 4, 3], "dtype": "float32"},
        "class_names": ["dark", "bright"],
        "preprocessing": PREPARE.to_dict(),
    }
    return Trained(Brightness(), {}, toy_config(), 10, data)


@pytest.fixture
def folder(tmp_path):
    """Four images of every kind, bright and dark by turns, and a file that is none."""
    kinds = (("L", 20), ("RGB", (200, 250, 220)), ("RGBA", (9, 9, 9, 0)), ("L", 240))
    for index, (mode, colour) in enumerate(kinds):
        Image.new(mode, (7, 5 + index), colour).save(tmp_path / f"{index}.png")
    (tmp_path / "notes.txt").write_text("")
    return tmp_path


def test_what_is_asked_for_one_gets_one_answer(trained, folder):
    found = trained.predict(str(folder / "1.png"))
    assert (found.label, found.name, found.path) == (1, "bright", str(folder / "1.png"))
    assert found.probability == found.probabilities[1] > 0.9
    assert trained.predict(folder / "0.png").name == "dark"
    whole = trained.predict(folder, batch_size=3)
    assert [each.name for each in whole] == ["dark", "bright"] * 2
    mixed = trained.predict([folder, folder / "1.png", np.zeros((9, 9), np.uint8)])
    assert [each.name for each in mixed] == [*["dark", "bright"] * 2, "bright", "dark"]


def test_arrays_are_normalised_as_in_training(trained):
    images = np.arange(256, dtype=np.uint8).reshape(4, 8, 8)
    grey = np.stack([each.probabilities for each in trained.predict(images)])
    mean = (images.reshape(4, -1).mean(axis=-1) / 255 - 0.5) / 0.25
    np.testing.assert_allclose(grey[:, 1], 1 / (1 + np.exp(-2 * mean)), atol=0.01)
    for same in (
        np.repeat(images[..., None], 3, -1),
        images / 255,
        images.astype(np.uint16) * 256,
        jax.numpy.asarray(images),
        list(images),
    ):
        with warnings.catch_warnings(action="error"):
            found = [each.probabilities for each in trained.predict(same)]
        np.testing.assert_allclose(found, grey, rtol=1e-5)
    assert trained.predict(images[0]).label == 0
    with pytest.warns(UserWarning, match=r"floats from -2 to 2 are cut off to \[0, 1\]"):
        trained.predict(np.linspace(-2, 2, 64).reshape(8, 8))


def test_crop_and_channels_are_those_of_training():
    image = np.zeros((8, 8, 3), np.uint8)
    image[2:6, 2:6, 2] = 255
    prepare = Preprocessing.from_dict(
        {**PREPARE.to_dict(), "crop": 0.5, "channels": 1, "mean": [0.0], "std": [1.0]}
    )
    # Blue alone as grey, and only the centre of the image.
    np.testing.assert_allclose(prepare(image), np.full((4, 4, 1), 29 / 255), atol=1e-6)
    with pytest.raises(UserError, match="another version"):
        Preprocessing.from_dict({**PREPARE.to_dict(), "resize": "area"})


def test_mistakes_are_told_in_a_line(trained, folder):
    (folder / "broken.png").write_bytes(b"no image")
    empty = folder / "none"
    empty.mkdir()
    for inputs, told in (
        (folder / "x.png", "no file or folder '.*x.png'"),
        (folder, r"broken\.png"),
        (empty, "holds no image"),
        (np.zeros((1, 2, 3, 5)), r"an array \[1, 2, 3, 5\] of float64 is no image"),
        (np.zeros((4, 4), np.int64), "images are int64"),
        (np.full((4, 4), np.nan), "floats from nan"),
    ):
        with pytest.raises(UserError, match=told):
            trained.predict(inputs)


def test_runs_that_are_no_classifiers_or_do_not_know(trained):
    for data, told in (
        ({**trained.data, "kind": "tokens"}, "is of classifiers of images"),
        ({**trained.data, "preprocessing": None}, "does not say how its images are prepared"),
    ):
        other = Trained(Brightness(), {}, toy_config(), 10, data)
        with pytest.raises(UserError, match=told):
            other.predict(np.zeros((4, 4), np.uint8))
    angles = toy_config(objective=ObjectiveConfig(name="cosine_classification"))
    other = Trained(Brightness(), {}, angles, 10, trained.data)
    with pytest.raises(UserError, match="leaves one without, whose features"):
        other.predict(np.zeros((4, 4), np.uint8))


def test_the_command_writes_a_table(trained, folder, monkeypatch, capsys):
    monkeypatch.setattr(predict, "load_for_inference", lambda run, step: trained)
    assert cli.run_main(predict.main, ["run", str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "path,label,name,probability"
    assert lines[2].startswith(f"{folder / '1.png'},1,bright,0.9")
    out = folder / "found.csv"
    assert cli.run_main(predict.main, ["run", str(folder), f"--out={out}"]) == 0
    assert capsys.readouterr().out == f"4 predictions in {out}\n"
    with out.open() as file:
        assert [row["name"] for row in csv.DictReader(file)] == ["dark", "bright"] * 2
    for argv, told in (
        (["run"], "usage: python -m scanmax.train.predict RUN PATH"),
        (["run", str(folder / "x")], "no file or folder"),
        (["run", str(folder), "--batch_size=0"], "batch_size"),
        (["run", str(folder), f"--out={folder / 'no' / 'x.csv'}"], "cannot write"),
    ):
        assert cli.run_main(predict.main, argv) == 2
        assert told in capsys.readouterr().err
