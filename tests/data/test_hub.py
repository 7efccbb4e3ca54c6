"""Sets of the package `datasets` on this machine: folders, the cache, and what is not there."""

import sys

import datasets
import numpy as np
import pytest
from PIL import Image

from scanmax.data import DataConfig, hub, load
from scanmax.data.__main__ import main
from scanmax.data.sources import open_source
from scanmax.errors import UserError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """What is worked out is kept here alone."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    datasets.disable_progress_bars()


def images(values):
    """A table of flat images whose classes are their parities."""
    features = {"img": datasets.Image(), "label": datasets.ClassLabel(names=["even", "odd"])}
    pictures = [Image.fromarray(np.full((5, 5, 3), value, np.uint8)) for value in values]
    rows = {"img": pictures, "label": [value % 2 for value in values]}
    return datasets.Dataset.from_dict(rows, features=datasets.Features(features))


def seen(part):
    return {int(part[i]["image"][0, 0, 0]): int(part[i]["label"]) for i in range(len(part))}


def test_a_folder_of_parts_and_worker_processes(tmp_path):
    parts = {"train": images(range(8)), "test": images((100, 101, 102))}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "set")
    config = DataConfig(name=f"hf:{tmp_path / 'set'}", image_size=4)
    source = open_source(config)
    assert source.class_names == ("even", "odd")
    assert seen(source.train) == {value: value % 2 for value in range(8)}
    assert seen(source.eval) == {100: 0, 101: 1, 102: 0}
    assert source.notes[0].endswith("(train and test)")
    found = []
    for workers in (0, 1):
        config.workers = workers
        batches = load(config, seed=0, batch_size=4).train_iterator()
        found.append([next(batches)["image"] for _ in range(2)])
        batches.close()
    np.testing.assert_array_equal(*found)


def test_a_table_without_parts_has_a_share_held_out(tmp_path):
    images(range(20)).save_to_disk(tmp_path / "set")
    # The folder may be named by both fields.
    source = open_source(DataConfig(name="hf:set", data_dir=str(tmp_path)))
    assert (len(source.train), len(source.eval)) == (16, 4)
    assert {**seen(source.train), **seen(source.eval)} == {i: i % 2 for i in range(20)}


def test_text_in_the_cache_is_read_without_the_network(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes").mkdir()
    lines = [f'{{"text": "line {i}"}}\n' for i in range(40)]
    (tmp_path / "notes" / "train.jsonl").write_text("".join(lines[:30]))
    (tmp_path / "notes" / "validation.jsonl").write_text("".join(lines[30:]))
    told = hub.prepare("hf:notes", str(tmp_path / "there"))
    assert told == "hf:notes: already there"
    config = DataConfig(name="hf:notes", data_dir=str(tmp_path / "there"), sequence_length=16)
    source = open_source(config)
    assert "30 training documents" in source.notes[0]
    assert "10 held-out" in source.notes[0]
    assert source.decode(source.eval[0]["tokens"]).startswith("line 30line 31")


def test_what_is_not_there_names_the_command_at_once(tmp_path, monkeypatch):
    config = DataConfig(name="hf:nobody/nothing_here", data_dir=str(tmp_path))
    with pytest.raises(UserError, match=r"run: python -m scanmax\.data prepare hf:nobody/noth"):
        open_source(config)

    def unknown(*args):
        raise OSError("Name or service not known")

    monkeypatch.setattr("socket.getaddrinfo", unknown)
    monkeypatch.setattr("urllib.request.getproxies", dict)
    with pytest.raises(UserError, match=r"offline: huggingface\.co cannot be reached"):
        main(["prepare", "hf:nobody/nothing_here", f"--data_dir={tmp_path}"])


def test_without_the_package_a_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"need the package datasets: pip install 'scanmax\[hf\]'"):
        open_source(DataConfig(name="hf:anything"))


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"eval_split": "tset"}, "eval_split='tset': did you mean 'test'"),
        ({"kwargs": {"label": "lable"}}, "kwargs.label='lable': did you mean 'label'"),
        ({"kwargs": {"subset": "x"}}, "subset is of sets by name"),
        ({"kwargs": {"tokenizer": "bytes"}}, "kwargs.tokenizer: known: channels"),
    ],
)
def test_options_that_cannot_be_are_told_in_a_line(tmp_path, fields, told):
    parts = {"train": images(range(2)), "test": images(range(2))}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "set")
    with pytest.raises(UserError, match=told):
        open_source(DataConfig(name=f"hf:{tmp_path / 'set'}", **fields))
