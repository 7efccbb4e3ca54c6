"""Arrays of images and labels, in files or in memory, and what is said of those that are none."""

import pickle

import numpy as np
import pytest
from safetensors.numpy import save_file

from scanmax.data import DataConfig, load
from scanmax.data.sources import open_source
from scanmax.errors import UserError

IMAGES = np.arange(20 * 4 * 3, dtype=np.uint8).reshape(20, 4, 3)
LABELS = np.tile(np.arange(2), 10)


def opened(path="", data=None, **kwargs):
    return open_source(DataConfig(name="arrays", data_dir=str(path), kwargs=kwargs), data)


def seen(part):
    return [(part[i]["image"][0, 0, 0].item(), int(part[i]["label"])) for i in range(len(part))]


def save_npz(folder):
    np.savez(folder / "a.npz", image=IMAGES, label=LABELS)
    return folder / "a.npz"


def save_safetensors(folder):
    save_file({"image": IMAGES, "label": LABELS}, folder / "a.safetensors")
    return folder / "a.safetensors"


def save_npy(folder):
    np.save(folder / "image.npy", IMAGES)
    np.save(folder / "label.npy", LABELS)
    (folder / "unrelated.npy").write_text("")
    return folder


@pytest.mark.parametrize("save", [save_npz, save_safetensors, save_npy])
def test_files_and_memory_hold_the_same(tmp_path, save):
    source = opened(save(tmp_path))
    memory = opened(data=(IMAGES, LABELS))
    assert source.shape == (4, 3, 1)
    assert (source.num_classes, source.class_names) == (2, ("0", "1"))
    for part, other in ((source.train, memory.train), (source.eval, memory.eval)):
        assert seen(part) == seen(other)
    assert (len(source.train), len(source.eval)) == (16, 4)
    assert sorted(seen(source.train) + seen(source.eval)) == [
        (int(image[0, 0]), int(label)) for image, label in zip(IMAGES, LABELS)
    ]
    assert str(tmp_path) in source.notes[0]


@pytest.mark.parametrize("kind", ["npy", "safetensors", "fortran"])
def test_files_are_mapped_not_held(tmp_path, kind):
    images = np.random.default_rng(0).integers(0, 255, (2000, 20, 20, 3)).astype(np.uint8)
    labels, path = np.arange(2000) % 2, tmp_path
    if kind == "safetensors":
        path = tmp_path / "a.safetensors"
        # What stands in front of the images in the file.
        save_file({"image": images, "label": labels, "eval_label": labels[:3],
                   "eval_image": images[:3]}, path)  # fmt: skip
    else:
        np.save(tmp_path / "image.npy", np.asfortranarray(images) if kind == "fortran" else images)
        np.save(tmp_path / "label.npy", labels)
    source = opened(path)
    assert isinstance(source.train._elements.image, np.memmap)
    sent = pickle.dumps(source.train)
    assert len(sent) < 100_000
    for number in (0, 3, 99):
        place = source.train._elements.places[number]
        for rows in (source.train, pickle.loads(sent)):
            np.testing.assert_array_equal(rows[number]["image"], images[place])


def test_part_of_a_mapped_array_is_that_part_in_workers_too(tmp_path):
    np.save(tmp_path / "image.npy", IMAGES)
    part = np.load(tmp_path / "image.npy", mmap_mode="r")[5:]
    train = opened(data=(part, LABELS[5:])).train
    assert seen(pickle.loads(pickle.dumps(train))) == seen(train)


def test_types_that_numpy_has_not_are_told(tmp_path):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    file = tmp_path / "a.safetensors"
    save_file({"image": IMAGES.astype(ml_dtypes.bfloat16), "label": LABELS}, file)
    with pytest.raises(UserError, match="image is BF16; expected BOOL, U8"):
        opened(file)


def test_a_held_out_part_and_names_of_its_own(tmp_path):
    np.savez(
        tmp_path / "a.npz",
        image=IMAGES / np.float32(255),
        label=LABELS,
        eval_image=IMAGES[:3].astype(np.uint16) * 256,
        eval_label=LABELS[:3],
        class_names=["cat", "dog"],
    )
    data = DataConfig(name="arrays", data_dir=str(tmp_path / "a.npz"))
    pipeline = load(data, seed=0, batch_size=4)
    (batch,) = pipeline.eval_batches()
    assert pipeline.class_names == ("cat", "dog")
    assert pipeline.num_train == 20
    np.testing.assert_array_equal(pipeline.to_display(batch["image"])[:3, ..., 0], IMAGES[:3])
    assert batch["label"][batch["mask"]].tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ((IMAGES,), r"must be \(images, labels\)"),
        ({"images": IMAGES, "label": LABELS}, "has no 'image'; did you mean 'images'"),
        ({"image": IMAGES, "label": LABELS, "size": 1}, "holds 'size'"),
        ((IMAGES, LABELS[:5]), r"\[20, 4, 3\] for 5 labels"),
        ((IMAGES, LABELS / 1.0), r"label is float64 \[20\]: expected integers"),
        ((IMAGES, np.eye(20, dtype=int)), r"label is int64 \[20, 20\]"),
        ((IMAGES, LABELS - 1), "label holds -1 at 0, below 0"),
        (
            {"image": IMAGES, "label": LABELS, "class_names": ["a"]},
            "label holds 1 at 1, outside the 1 class_names",
        ),
        ((IMAGES[0], LABELS), r"expected \[N, Y, X\]"),
        ((np.zeros((20, 3, 8, 8), np.uint8), LABELS), r"image.transpose\(0, 2, 3, 1\)"),
        ((IMAGES.astype(np.float32) + 1, LABELS), r"floats from 1 to 12 .*\[0, 1\]"),
        ((IMAGES.astype(np.int64), LABELS), "images are int64"),
        ((IMAGES[:0], LABELS[:0]), "label is empty"),
        ({"image": IMAGES, "label": LABELS, "eval_label": LABELS}, "go together"),
    ],
)
def test_arrays_that_are_no_images_and_labels_are_told_in_a_line(data, told):
    with pytest.raises(UserError, match=told):
        opened(data=data)


def test_places_without_arrays_are_told_in_a_line(tmp_path):
    (tmp_path / "a.npz").write_text("no archive")
    (tmp_path / "a.csv").write_text("")
    for path, told in (
        (tmp_path, "holds no image.npy"),
        (tmp_path / "a.npz", r"a\.npz' cannot be read"),
        (tmp_path / "a.csv", "is not a .npz or .safetensors file"),
        ("", "reads config.data.data_dir: name a .npz"),
    ):
        with pytest.raises(UserError, match=told):
            opened(path)


def test_a_float_out_of_range_names_its_record():
    images = np.zeros((10, 4, 4), np.float32)
    images[7] = 3
    source = opened(data={"image": images, "label": LABELS[:10], "eval_image": images[:2],
                          "eval_label": LABELS[:2]})  # fmt: skip
    with pytest.raises(UserError, match="record 7 of the training part"):
        source.train[7]
