"""The report: pictures and a page that needs nothing beside it, from whatever a run left."""

import json
import re
import struct

import numpy as np
import pytest

from scanmax.cli import to_dict
from scanmax.errors import UserError
from scanmax.train import figures
from scanmax.train.config import Config
from scanmax.train.evaluation import Shelf
from scanmax.train.record import command, read_record
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


def write_run(workdir, kind="image", inputs=(224, 224, 3)):
    part = {"time": 1e9, "command": "python -m scanmax.train --config=x"}
    part |= {"versions": {"jax": "0.9"}, "commits": {"own": "0123abc-dirty"}, "devices": "8 x TPU"}
    parts = [{"step": 0, **part}, {"step": 10, **part, "devices": "16 x TPU"}]
    told = {"parameters": 5717416, "multiply_adds": 1_258_000_000, "kind": kind}
    told |= {"input": list(inputs), "parts": parts}
    names = [f"name {index}" for index in range(30)]
    prepare = {"size": [224, 224], "crop": 0.875, "resize": "bicubic", "mean": [0.485, 0.5, 0.25]}
    told["data"] = {"class_names": names, "preprocessing": prepare, "tokenizer": None}
    if kind == "tokens":
        tokenizer = {"kind": "bytes", "ends": True}
        told["data"] = {"class_names": [], "preprocessing": None, "tokenizer": tokenizer}
    (workdir / "run.json").write_text(json.dumps(told))


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
    write_run(tmp_path)
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
    # What it is and ran on, part by part.
    for said in ("5.72 M", "1.26 GFLOPs", "224 x 224 x 3", "own</td><td>0123abc-dirty"):
        assert said in page
    assert "command from step 10</td><td>python -m scanmax.train --config=x" in page
    assert "<td>8 x TPU" in page
    assert "<td>16 x TPU" in page
    assert "jax 0.9" in page
    # What lies between a file and the model.
    for name, value in (("size", "224, 224"), ("resize", "bicubic"), ("mean", "0.485, 0.5, 0.25")):
        assert f"<td>{name}</td><td>{value}</td>" in page
    assert "All 30 names, in order</summary>name 0, name 1," in page
    # The five mistakes, by class and by pair, the names whole.
    label = np.load(tmp_path / "predictions.npz")["labels"][0]
    assert f"<td>class &lt;{label}&gt;</td><td>class &lt;{(label + 1) % classes}&gt;" in page
    assert bool(re.search(r"All \d+ classes", page)) == (classes > 20)
    # Every field is in the folded table; only what differs stands above it.
    differing, everything = page.split("<h2>Config")[1].split("<details>")
    assert "optim.b1" not in differing
    assert "optim.b1" in everything


def test_report_of_text_has_the_baseline_and_the_sample(tmp_path):
    write_rows(tmp_path, language=True)
    sample = {"prompt": "def <f>", "text": "(x): & so", "baselines": {"order-3 byte model": 2.031}}
    (tmp_path / "sample.json").write_text(json.dumps(sample))
    write_run(tmp_path, "tokens", (256,))
    page = write_report(tmp_path).read_text()
    assert "def &lt;f&gt;" in page
    assert "(x): &amp; so" in page
    assert "order-3 byte model 2.031" in page
    assert "tokens per second</span><b>230,400" in page
    assert "<td>tokenizer: kind</td><td>bytes</td>" in page
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


def test_curves_count_every_step_and_mark_the_last_and_the_best():
    rows = [{"step": step, "split": "train", "loss": 1.0, "lr": 0.1} for step in (4, 8, 12, 13)]
    rows = [{**row, "epoch": row["step"] / 2, "examples_per_second": 9.0} for row in rows]
    for step, loss, accuracy in ((4, 0.9, 0.5), (8, 0.3, 0.75), (13, 0.4, 0.7)):
        row = {"step": step, "split": "eval", "loss": loss, "accuracy": accuracy}
        rows.append(row)
    loss, quality, rate, _ = figures.curves(rows).axes
    assert rate.get_xlabel() == "step (13 steps are 6.5 epochs)"
    told = [[text.get_text() for text in axes.get_legend().texts] for axes in (loss, quality)]
    assert told[0][1:] == ["held out, last 0.400", "held out, best 0.300 at step 8"]
    assert told[1] == ["held out, last 70.0%", "held out, best 75.0% at step 8"]


def test_a_shelf_keeps_what_is_worth_most_wherever_it_stood():
    shelf, worth = Shelf(3), np.asarray([0.1, 0.9, 0.5, 0.9, -np.inf, 0.7])
    images = np.arange(6)[:, None]
    for first in (0, 2, 4):
        part = slice(first, first + 2)
        assert shelf.wants(worth[part])
        shelf.add(first, worth[part], images[part])
    assert list(shelf.images()) == [1, 3, 5]
    assert [int(image[0]) for image in shelf.images().values()] == [1, 3, 5]
    assert not shelf.wants(np.asarray([0.7, 0.2, -np.inf]))


def test_a_damaged_record_is_none(tmp_path):
    assert read_record(tmp_path) == {}
    for content in ("{", "[]", '{"parts": []}', '{"parts": [{"step": "x"}]}'):
        (tmp_path / "run.json").write_text(content)
        assert read_record(tmp_path) == {}
    write_run(tmp_path)
    assert read_record(tmp_path)["parts"][1]["step"] == 10


def test_the_command_is_what_was_typed(monkeypatch):
    for words, told in (
        (["/usr/bin/python3", "-m", "scanmax.train", "--workdir=a b"],
         "python -m scanmax.train '--workdir=a b'"),
        (["/usr/bin/python3", "-m", "ipykernel_launcher", "-f", "x"], "train() in a notebook"),
        (["python"], "train() in Python"),
    ):  # fmt: skip
        monkeypatch.setattr("sys.orig_argv", words)
        assert command() == told
