"""Tar shards and Parquet files as people have them: parts, labels, places, every mistake a line."""

import io
import json
import os
import tarfile

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet as pq

from scanmax.data import DataConfig, load
from scanmax.data.sources import open_source
from scanmax.errors import UserError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """What is worked out is kept here alone."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "scanmax"


def png(value):
    buffer = io.BytesIO()
    Image.fromarray(np.full((6, 4, 3), value, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def write_tar(path, samples, mode="w"):
    """A shard of (key, ending -> bytes)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:
        for key, members in samples:
            for ending, data in members.items():
                entry = tarfile.TarInfo(f"{key}.{ending}")
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
    return path


def numbered(values, first=0):
    """A sample for each value, whose image is flat and whose class its parity."""
    return [
        (f"set/{first + i:04d}", {"png": png(value), "cls": str(value % 2).encode()})
        for i, value in enumerate(values)
    ]


def opened(root, name="webdataset", **fields):
    return open_source(DataConfig(name=name, data_dir=str(root), **fields))


def seen(part):
    return {int(part[i]["image"][0, 0, 0]): int(part[i]["label"]) for i in range(len(part))}


def test_shards_of_both_parts_are_read_in_any_order(tmp_path):
    write_tar(tmp_path / "d" / "train-000.tar", numbered(range(5)))
    write_tar(tmp_path / "d" / "train-001.tar", numbered(range(5, 9)))
    write_tar(tmp_path / "d" / "val-000.tar", numbered((100, 101)))
    (tmp_path / "d" / "classes.txt").write_text("even\nodd\n")
    source = opened(tmp_path / "d")
    assert source.class_names == ("even", "odd")
    assert seen(source.train) == {value: value % 2 for value in range(9)}
    assert seen(source.eval) == {100: 0, 101: 1}
    assert source.notes[0].startswith("2 classes, 9 training and 2 held-out images of ")
    assert source.notes[0].endswith("d (train and val)")


def test_worker_processes_read_the_shards(tmp_path):
    write_tar(tmp_path / "d" / "a.tar", numbered(range(12)))
    images = []
    for workers in (0, 1):
        data = DataConfig(
            name="webdataset", data_dir=str(tmp_path / "d"), image_size=4, workers=workers
        )
        batches = load(data, seed=0, batch_size=4).train_iterator()
        images.append([next(batches)["image"] for _ in range(3)])
        batches.close()
    np.testing.assert_array_equal(*images)


def test_a_share_is_held_out_by_name_and_labels_may_be_names_in_json(tmp_path):
    samples = [
        (f"{i:03d}", {"seg.png": png(200), "jpg": png(i),
                      "json": json.dumps({"kind": "dog" if i % 2 else "cat"}).encode()})
        for i in range(20)
    ]  # fmt: skip
    samples.append(("nothing", {"json": b"{}"}))
    write_tar(tmp_path / "d" / "a.tar", samples)
    source = opened(tmp_path / "d", kwargs={"label": "kind"})
    assert source.class_names == ("cat", "dog")
    assert (len(source.train), len(source.eval)) == (16, 4)
    assert sorted(seen(source.eval).values()) == [0, 0, 1, 1]
    assert {**seen(source.train), **seen(source.eval)} == {i: i % 2 for i in range(20)}
    assert source.notes[1] == "1 samples without an image: left out"
    other = opened(tmp_path / "d", kwargs={"label": "kind", "split_seed": 1, "image": "seg.png"})
    assert set(seen(other.train)) == {200}


def test_a_label_is_read_where_the_option_says(tmp_path):
    """Beside a `.cls`, from a field or from another ending; a wrong name is told."""
    told = {"cls": b"0", "fine": b"1", "json": b'{"kind": 2}'}
    write_tar(tmp_path / "d" / "a.tar", [(f"{i:03d}", {"png": png(i), **told}) for i in range(6)])
    for name, label in (("", 0), ("fine", 1), ("kind", 2)):
        source = opened(tmp_path / "d", kwargs={"label": name})
        assert set(seen(source.train).values()) == {label}
    with pytest.raises(UserError, match=r"json has no field 'knd'"):
        opened(tmp_path / "d", kwargs={"label": "knd"})


def test_the_places_are_kept_while_no_shard_changes(tmp_path, cache, monkeypatch):
    shard = write_tar(tmp_path / "d" / "a.tar", numbered(range(6)))
    first = opened(tmp_path / "d")
    assert len(list(cache.iterdir())) == 1
    with monkeypatch.context() as patch:
        patch.setattr("scanmax.data.webdataset.samples", None)
        again = opened(tmp_path / "d")
    assert seen(again.train) == seen(first.train)
    write_tar(shard, numbered(range(50, 58)))
    later = opened(tmp_path / "d")
    assert {*seen(later.train), *seen(later.eval)} == {*range(50, 58)}
    (kept,) = cache.iterdir()
    kept.write_bytes(kept.read_bytes()[:50])
    assert min(seen(opened(tmp_path / "d").train)) >= 50


def broken(root):
    write_tar(root / "a.tar", [*numbered(range(9)), ("x", {"png": b"none", "cls": b"1"})])


def test_an_image_that_cannot_be_read_is_named(tmp_path):
    broken(tmp_path / "d")
    source = opened(tmp_path / "d", kwargs={"held_out": 0.01})
    with pytest.raises(UserError, match=r"record \d+ of .*a\.tar at byte \d+: cannot identify"):
        [part[i] for part in (source.train, source.eval) for i in range(len(part))]


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda d: d.mkdir(), r"holds no \.tar file"),
        (lambda d: write_tar(d / "a.tar", numbered(range(4)), "w:gz"), "or is compressed"),
        (lambda d: write_tar(d / "a.tar", [("k", {"png": png(0)})]),
         r"a\.tar, k has neither \.cls nor \.json"),
        (lambda d: write_tar(d / "a.tar", [("k", {"png": png(0), "json": b"{}"})]),
         r"k\.json has no field 'label'; name it by config\.data\.kwargs\.label"),
        (lambda d: write_tar(d / "a.tar", [("k", {"png": png(0), "json": b'{"label": [1]}'})]),
         r"the label \[1\] is neither a number nor a name"),
        (lambda d: write_tar(d / "a.tar", [("k", {"txt": b""})]), r"holds no image \(\.png"),
        (lambda d: write_tar(d / "test-0.tar", numbered((0,))), "no file or folder called train"),
        (lambda d: [write_tar(d / n, numbered((0,))) for n in ("train.tar", "val.tar", "b.tar")],
         r"b\.tar is neither of train nor of val"),
    ],
)  # fmt: skip
def test_shards_that_cannot_serve_are_told_in_a_line(tmp_path, make, told):
    make(tmp_path / "d")
    with pytest.raises(UserError, match=told):
        opened(tmp_path / "d")


def test_more_labels_than_names_are_told(tmp_path):
    write_tar(tmp_path / "d" / "a.tar", numbered(range(4)))
    (tmp_path / "d" / "classes.txt").write_text("even\n")
    with pytest.raises(UserError, match="the label 1 is none of 1 classes"):
        opened(tmp_path / "d")


def write_table(path, values, names=None, **columns):
    """A table of flat images, whose classes are their parities, as `datasets` writes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [{"bytes": png(value), "path": None} for value in values]
    table = pa.table({"image": images, "label": [value % 2 for value in values], **columns})
    if names:
        told = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(told)})
    pq.write_table(table, path, row_group_size=3)


def test_tables_of_both_parts(tmp_path, cache):
    root = tmp_path / "d" / "data"
    write_table(root / "train-00000-of-00002.parquet", range(5), ["even", "odd"])
    write_table(root / "train-00001-of-00002.parquet", range(5, 9), ["even", "odd"])
    write_table(root / "validation-00000-of-00001.parquet", (100, 101), ["even", "odd"])
    write_table(root / "test-00000-of-00001.parquet", (200,), ["even", "odd"])
    source = opened(tmp_path / "d", "parquet")
    assert source.class_names == ("even", "odd")
    assert seen(source.train) == {value: value % 2 for value in range(9)}
    assert seen(source.eval) == {100: 0, 101: 1}
    (folder,) = cache.iterdir()
    before = os.stat(folder / "images.bin").st_mtime_ns
    opened(tmp_path / "d", "parquet")
    assert os.stat(folder / "images.bin").st_mtime_ns == before


def test_a_table_of_bytes_and_names(tmp_path):
    images = pa.array([png(i) for i in range(10)])
    pq.write_table(pa.table({"jpg": images, "kind": ["a", "b"] * 5}), tmp_path / "t.parquet")
    source = opened(tmp_path / "t.parquet", "parquet", kwargs={"label": "kind", "channels": 1})
    assert source.class_names == ("a", "b")
    assert {**seen(source.train), **seen(source.eval)} == {i: i % 2 for i in range(10)}
    assert source.eval[0]["image"].shape == (6, 4, 1)


def test_a_table_of_text(tmp_path):
    for part, word in (("train", "one"), ("test", "two")):
        pq.write_table(
            pa.table({"text": [f"{word} {i}" for i in range(30)]}), tmp_path / f"{part}.parquet"
        )
    source = opened(tmp_path, "parquet", sequence_length=16)
    assert "30 training documents of 200 tokens, 30 held-out" in source.notes[0]
    assert source.notes[0].endswith("(parts of its own)")
    assert source.decode(source.eval[0]["tokens"]).startswith("two 0two 1")
    assert source.separator == 256


@pytest.mark.parametrize(
    ("columns", "kwargs", "told"),
    [
        ({"image": [b"x"]}, {}, "no column of classes among image; name it by config.data.kwargs"),
        ({"a": [1]}, {}, "neither images nor text among a"),
        ({"image": [1], "label": [0]}, {}, "row 0: the column 'image' holds int, not an encoded"),
        ({"image": [b""], "label": [0.5]}, {}, "labels are float; expected numbers from 0"),
        ({"image": [b""], "kind": [0]}, {"label": "knd"}, "did you mean 'kind'"),
        ({"text": ["a"]}, {"suffixes": (".x",)}, "kwargs.suffixes: known:"),
    ],
)
def test_tables_that_cannot_serve_are_told_in_a_line(tmp_path, columns, kwargs, told):
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    with pytest.raises(UserError, match=told):
        opened(tmp_path, "parquet", kwargs=kwargs)


def test_a_file_that_is_no_table_is_told(tmp_path):
    (tmp_path / "t.parquet").write_text("no table")
    with pytest.raises(UserError, match=r"t\.parquet is no Parquet"):
        opened(tmp_path, "parquet")
