"""Folders of images as people have them: every kind of file, both layouts, every mistake a line."""

import os
import time

import numpy as np
import pytest
from PIL import Image

from scanmax.data import DataConfig, image_folder, load
from scanmax.data.decoding import as_uint8, read_image
from scanmax.data.sources import open_source
from scanmax.errors import UserError
from scanmax.train.evaluate import examples_of


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An index is kept here alone."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "scanmax"


def fill(folder, count=5, value=0, suffix=".png"):
    """A class folder of flat images, of which each pixel is `value` + its number."""
    folder.mkdir(parents=True)
    for number in range(count):
        array = np.full((6, 4, 3), value + number, np.uint8)
        Image.fromarray(array).save(folder / f"{number}{suffix}", lossless=True)
    return folder


def opened(root, **fields):
    return open_source(DataConfig(name="image_folder", data_dir=str(root), **fields))


def test_classes_are_folders_and_a_share_of_each_is_held_out(tmp_path):
    fill(tmp_path / "data" / "dog", 10, 100)
    fill(tmp_path / "data" / "cat", 5)
    (tmp_path / "data" / ".hidden").mkdir()
    (tmp_path / "data" / "cat" / "notes.txt").write_text("of no use")
    source = opened(tmp_path / "data")
    assert source.class_names == ("cat", "dog")
    assert (len(source.train), len(source.eval)) == (12, 3)
    parts = [{int(part[i]["image"][0, 0, 0]) for i in range(len(part))} for part in
             (source.train, source.eval)]  # fmt: skip
    assert not parts[0] & parts[1]
    assert parts[0] | parts[1] == {*range(5), *range(100, 110)}
    assert all(part[i]["label"] == (part[i]["image"][0, 0, 0] >= 100) for part in
               (source.train, source.eval) for i in range(len(part)))  # fmt: skip
    assert "2 classes, 12 training and 3 held-out images" in source.notes[0]
    assert source.notes[1].startswith("1 files there are none of .png")
    # What comes later moves nothing from one part to the other.
    before = {source.eval[i]["image"][0, 0, 0] for i in range(3)}
    Image.fromarray(np.full((6, 4, 3), 200, np.uint8)).save(tmp_path / "data" / "dog" / "x.png")
    later = opened(tmp_path / "data")
    assert len(before - {later.eval[i]["image"][0, 0, 0] for i in range(len(later.eval))}) <= 1
    other = opened(tmp_path / "data", kwargs={"split_seed": 1, "held_out": 0.5})
    assert len(other.eval) == 2 + 6


def test_parts_of_its_own_stay_as_they_are(tmp_path):
    fill(tmp_path / "train" / "a", 3)
    fill(tmp_path / "train" / "b" / "deeper", 2, 50)
    fill(tmp_path / "val" / "b", 4, 100, ".webp")
    pipeline = load(
        DataConfig(name="image_folder", data_dir=str(tmp_path), image_size=4, workers=0),
        seed=0,
        batch_size=4,
    )
    (batch,) = pipeline.eval_batches()
    assert batch["label"].tolist() == [1] * 4
    assert (pipeline.num_train, pipeline.num_eval, pipeline.class_names) == (5, 4, ("a", "b"))
    shown = pipeline.to_display(batch["image"])
    assert shown.shape == (4, 4, 4, 3)
    assert sorted(shown[:, 0, 0, 0].tolist()) == [100, 101, 102, 103]
    assert "train/ and val/" in pipeline.notes[0]


def test_worker_processes_read_the_same(tmp_path):
    fill(tmp_path / "data" / "a", 6)
    fill(tmp_path / "data" / "b", 6, 100)
    labels = []
    for workers in (0, 1):
        data = DataConfig(
            name="image_folder", data_dir=str(tmp_path / "data"), image_size=4, workers=workers
        )
        batches = load(data, seed=0, batch_size=4).train_iterator()
        labels.append([next(batches)["image"] for _ in range(4)])
        batches.close()
    np.testing.assert_array_equal(*labels)


KINDS = {
    "grey.png": ("L", 77),
    "palette.png": ("P", 77),
    "alpha.png": ("RGBA", (77, 77, 77, 9)),
    "grey_alpha.png": ("LA", (77, 9)),
    "bits.png": ("1", 1),
    "colour.webp": ("RGB", (77, 77, 77)),
    "print.jpg": ("CMYK", (0, 0, 0, 178)),
}


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_every_kind_of_file_becomes_uint8(tmp_path, channels):
    for name, (mode, colour) in KINDS.items():
        image = Image.new(mode, (5, 3), colour)
        if mode == "P":
            image.putpalette([77] * 768)
        image.save(tmp_path / name, **({"lossless": True} if name.endswith("webp") else {}))
        found = read_image(tmp_path / name, channels)
        assert (found.dtype, found.shape) == (np.uint8, (3, 5, channels)), name
        want = 255 if mode == "1" else 77
        np.testing.assert_allclose(found[..., :3], want, atol=2, err_msg=name)


def test_sixteen_bits_keep_their_upper_eight_and_exif_turns(tmp_path):
    deep = np.arange(12, dtype=np.uint16).reshape(3, 4) * 5000
    Image.fromarray(deep).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(read_image(tmp_path / "deep.png", 1)[..., 0], deep >> 8)
    exif = Image.Exif()
    exif[0x0112] = 6
    tall = np.zeros((2, 3, 3), np.uint8)
    tall[0] = 255
    Image.fromarray(tall).save(tmp_path / "turned.png", exif=exif)
    found = read_image(tmp_path / "turned.png")
    assert found.shape == (3, 2, 3)
    assert found[:, 1].min() == 255
    assert found[:, 0].max() == 0


def test_arrays_of_other_kinds_are_scaled_or_refused():
    assert as_uint8(np.array([0.0, 0.5, 1.0])).tolist() == [0, 128, 255]
    assert as_uint8(np.array([False, True])).tolist() == [0, 255]
    for wrong in (np.array([0.0, 255.0]), np.array([-1.0, 1.0]), np.array([np.nan]), np.array([3])):
        with pytest.raises(ValueError, match=r"floats|int64"):
            as_uint8(wrong)


def test_the_listing_is_kept_while_no_folder_changes(tmp_path, cache, monkeypatch):
    fill(tmp_path / "data" / "a", 3)
    fill(tmp_path / "data" / "b", 3)
    opened(tmp_path / "data")
    # What has just changed may change again unseen.
    assert not cache.exists()
    past = time.time() - 100
    for folder in (tmp_path / "data", tmp_path / "data" / "a", tmp_path / "data" / "b"):
        os.utime(folder, (past, past))
    first = opened(tmp_path / "data")
    (kept,) = cache.iterdir()
    listed = []
    real = image_folder.list_images
    monkeypatch.setattr(image_folder, "list_images", lambda root: listed.append(root) or real(root))
    again = opened(tmp_path / "data")
    assert not listed
    assert again.notes == first.notes
    np.testing.assert_array_equal(again.train[2]["image"], first.train[2]["image"])
    (tmp_path / "data" / "b" / "2.png").unlink()
    assert len(opened(tmp_path / "data").train) == 3
    assert listed
    kept.write_bytes(kept.read_bytes()[:100])
    assert len(opened(tmp_path / "data").train) == 3


def test_unreadable_files_are_named_and_counted(tmp_path, capsys):
    for part in ("train", "val"):
        fill(tmp_path / part / "a", 4)
        fill(tmp_path / part / "b", 4)
    (tmp_path / "train" / "a" / "1.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"train/a/1\.png.*config\.data\.max_bad_records=1"):
        opened(tmp_path).train[1]
    source = opened(tmp_path, max_bad_records=1)
    assert source.train[1]["image"][0, 0, 0] == 2
    assert "train/a/1.png" in capsys.readouterr().err
    whole = (tmp_path / "val" / "a" / "0.png").read_bytes()
    (tmp_path / "val" / "a" / "0.png").write_bytes(whole[:-30])
    with pytest.raises(UserError, match=r"val/a/0\.png.*none of this part may be passed over"):
        opened(tmp_path, max_bad_records=5).eval[0]


def empty(root):
    root.mkdir()


def flat(root):
    fill(root)


def other_kinds(root):
    fill(root / "a")
    (root / "b").mkdir()
    (root / "b" / "x.tiff").write_text("")


def both(root):
    fill(root / "train" / "a")
    fill(root / "cat")


def strange(root):
    fill(root / "train" / "a")
    fill(root / "val" / "b")


def single(root):
    fill(root / "a", 1)
    fill(root / "b", 1)


def test_one_image_of_each_class_is_scored_and_predicted_and_not_trained_on(tmp_path):
    single(tmp_path)
    source = opened(tmp_path)
    assert (len(source.train), len(source.eval)) == (2, 0)
    assert len(list(examples_of(source, "all"))) == 2
    with pytest.raises(UserError, match=r"--part=held_out holds no image; --part=all holds 2$"):
        next(examples_of(source, "held_out"))
    config = DataConfig(name="image_folder", data_dir=str(tmp_path))
    with pytest.raises(UserError, match="nothing to hold out of 2 examples: a class needs two"):
        load(config, seed=0, batch_size=2)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda root: None, "is not there; did you mean '.*datum'"),
        (lambda root: root.write_text(""), "is a file, not a folder"),
        (empty, "holds no class folders: put the images of each class into a folder of its own"),
        (flat, "holds no class folders"),
        (other_kinds, r"b holds only files of other kinds \(\.tiff\)"),
        (both, r"holds train/ and other folders beside it \(cat\)"),
        (strange, "val holds a class 'b' that train/ has not"),
    ],
)
def test_folders_that_are_none_of_these_are_told_in_a_line(tmp_path, make, told):
    (tmp_path / "datum").mkdir()
    make(tmp_path / "data")
    with pytest.raises(UserError, match=told):
        opened(tmp_path / "data")


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"data_dir": ""}, "reads config.data.data_dir: name a folder"),
        ({"kwargs": {"chanels": 1}}, "kwargs.chanels: did you mean 'channels'"),
        ({"kwargs": {"channels": 2}}, "channels=2 must be 1, 3 or 4"),
        ({"kwargs": {"held_out": 1.0}}, r"held_out=1.0 must be in \(0, 1\)"),
        ({"eval_split": "test"}, "eval_split='test' is of TFDS"),
    ],
)
def test_options_that_cannot_be_are_told_in_a_line(tmp_path, fields, told):
    fill(tmp_path / "a")
    with pytest.raises(UserError, match=told):
        open_source(DataConfig(name="image_folder", **{"data_dir": str(tmp_path), **fields}))


def test_images_need_a_size(tmp_path):
    fill(tmp_path / "a")
    with pytest.raises(UserError, match=r"set config\.data\.image_size"):
        load(DataConfig(name="image_folder", data_dir=str(tmp_path)), seed=0, batch_size=4)
