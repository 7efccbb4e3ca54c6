"""The report: pictures and a page that needs nothing beside it, from whatever a run left."""

import json
import re
import struct

import numpy as np
import pytest

from scanmax.cli import to_dict
from scanmax.errors import UserError
from scanmax.train.config import Config
from scanmax.train.report import duration, main, read_rows, to_uint8, write_report


def rows_of(steps=20, language=False):
    for step in range(1, steps + 1):
        loss = 2.3 / step**0.5
        row = {"step": step, "split": "train", "time": 1e9 + step, "loss": loss, "lr": 1e-3 / step}
        row |= {"epoch": step / 4, "examples_per_second": 900.0, "data_wait": 0.1}
        yield row | ({} if language else {"accuracy": 1 - loss / 3})
        if step % 5 == 0:
            row = {"step": step, "split": "eval", "time": 1e9 + step, "loss": loss}
            yield row | (
                {"bits_per_byte": loss / np.log(2), "accuracy": 0.5}
                if language
                else {"accuracy": 0.975}
            )


def write_rows(workdir, **options):
    lines = [json.dumps(row) for row in rows_of(**options)]
    # A run that is going may have written half a row.
    (workdir / "metrics.jsonl").write_text("\n".join([*lines, '{"step": 2']))


def write_predictions(workdir, classes, channels=1, count=48, mistakes=5):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes, count)
    predictions = labels.copy()
    predictions[:mistakes] = (labels[:mistakes] + 1) % classes
    probabilities = np.full((count, classes), 0.1 / classes)
    probabilities[np.arange(count), predictions] = 0.9
    confusion = np.zeros((classes, classes), np.int64)
    np.add.at(confusion, (labels, predictions), 1)
    np.savez(
        workdir / "predictions.npz",
        images=rng.integers(0, 256, (30, 8, 8, channels)).astype(np.uint8),
        shown=np.arange(30),
        labels=labels,
        predictions=predictions,
        probabilities=probabilities,
        confusion=confusion,
        class_names=np.array([f"class <{index}>" for index in range(classes)]),
    )


def size_of(path):
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", data[16:24])


@pytest.mark.parametrize(("classes", "channels"), [(10, 1), (60, 3), (1000, 3)])
def test_report_of_images_is_whole_and_self_contained(tmp_path, classes, channels):
    write_rows(tmp_path)
    write_predictions(tmp_path, classes, channels)
    config = Config()
    config.optim.lr = 0.125
    (tmp_path / "config.json").write_text(json.dumps(to_dict(config)))
    page = write_report(tmp_path).read_text()
    for name in ("curves", "confusion", "samples"):
        width, height = size_of(tmp_path / "report" / f"{name}.png")
        assert 400 < width < 2500
        assert 200 < height < 2500
    assert page.count("data:image/png;base64,") == 3
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert "http" not in re.sub(r"base64,[A-Za-z0-9+/=]*", "", page)
    assert "97.50%" in page
    assert "5 of 48 wrong" in page
    assert "optim.lr</td><td>0.125" in page
    # Every field is in the folded table; only what differs stands above it.
    differing, everything = page.split("<details>")
    assert "optim.b1" not in differing
    assert "optim.b1" in everything


def test_report_of_text_has_the_baseline_and_the_sample(tmp_path):
    write_rows(tmp_path, language=True)
    sample = {"prompt": "def <f>", "text": "(x): & so", "baselines": {"order-3 byte model": 2.031}}
    (tmp_path / "sample.json").write_text(json.dumps(sample))
    page = write_report(tmp_path).read_text()
    assert "def &lt;f&gt;" in page
    assert "(x): &amp; so" in page
    assert "order-3 byte model 2.031" in page
    assert not (tmp_path / "report" / "confusion.png").exists()


def test_report_of_a_run_that_has_just_begun(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(json.dumps(next(rows_of())) + "\n")
    assert write_report(tmp_path).is_file()


def test_report_of_a_perfect_model(tmp_path):
    write_rows(tmp_path)
    write_predictions(tmp_path, 200, mistakes=0)
    assert "0 of 48 wrong" in write_report(tmp_path).read_text()


def test_a_folder_without_a_run_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="not the workdir of a run"):
        write_report(tmp_path)
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(UserError, match="no row yet"):
        read_rows(tmp_path / "metrics.jsonl")
    with pytest.raises(UserError, match="usage"):
        main([])


def test_normalised_images_become_visible():
    images = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype(np.float32)
    shown = to_uint8(images)
    assert shown.dtype == np.uint8
    assert shown.min() == 0
    assert shown.max() == 255
    assert to_uint8(shown) is shown


@pytest.mark.parametrize(
    ("seconds", "text"), [(9.6, "10 s"), (134, "2 min 14 s"), (7380, "2 h 3 min")]
)
def test_durations_are_readable(seconds, text):
    assert duration(seconds) == text
