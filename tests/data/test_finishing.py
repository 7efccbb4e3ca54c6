"""What the device does with a sent batch: the host's numbers, its equations, the noise."""

import io
import itertools

import chex
import jax
import numpy as np
import pytest
import scipy.stats
from PIL import Image

from scanmax.configs.imagenet_deit_small import get_config
from scanmax.data import AugmentConfig, DataConfig, augment, colour, finishing, load
from scanmax.data.decoding import Picture, read_image, read_picture
from scanmax.errors import UserError
from scanmax.train.pipelines import sent_batches, sent_spec

# XLA contracts a product and a sum, and its inverse of the error function is another than scipy's.
ROUNDING = {"rtol": 1e-5, "atol": 3e-6}


def recipe(**fields):
    """The whole of DeiT on small pictures."""
    data = get_config("synthetic").data
    data.image_size, data.kwargs = 20, {"classes": 5, "examples": 24, "eval_examples": 4}
    for name, value in fields.items():
        setattr(data.augment, name, value)
    return data


def finished(pipeline, batch):
    return jax.device_get(jax.jit(pipeline.finish)(batch))


def test_the_device_finishes_what_the_host_would():
    pipeline = load(recipe(erase=0.7), seed=0, batch_size=12)
    sent = list(itertools.islice(sent_batches(pipeline, 1), 8))
    whole = list(itertools.islice(pipeline.train_iterator(1), 8))
    assert {batch["blend"][0, 0] == 1 for batch in sent} == {True, False}
    for batch, expected in zip(sent, whole):
        assert batch["image"].dtype == np.uint8
        assert {name: (spec.shape, spec.dtype) for name, spec in sent_spec(pipeline).items()} == {
            name: (rows.shape, rows.dtype) for name, rows in batch.items()
        }
        chex.assert_trees_all_close(finished(pipeline, batch), expected, **ROUNDING)
        # Batches of one's own iterator are finished already.
        chex.assert_trees_all_equal(finished(pipeline, expected), expected)


def test_views_are_finished_each_by_its_own_draws():
    augment_config = AugmentConfig(
        views=2, view_policies=({"flip": 0.5}, {"erase": 1.0}), local_views=2, local_size=6,
        local_policy={"erase": 1.0, "crop_area": (0.2, 0.5)},
    )  # fmt: skip
    data = DataConfig(name="synthetic", image_size=12, augment=augment_config)
    pipeline = load(data, seed=0, batch_size=4)
    batch = next(sent_batches(pipeline, 0))
    assert batch["erase"].shape == batch["local_erase"].shape == (4, 2, 5)
    assert not batch["erase"][:, 0].any()
    chex.assert_trees_all_close(
        finished(pipeline, batch), next(pipeline.train_iterator(0)), **ROUNDING
    )


def test_mixing_and_erasing_are_their_equations():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4, 6, 5, 3)).astype(np.uint8)
    pipeline = load(recipe(), seed=0, batch_size=4)
    mean, std = (value.astype(np.float64) for value in pipeline.normalisation)
    own = (images / 255 - mean) / std
    boxes = np.asarray([[1, 4, 2, 5, 7], [0, 0, 0, 0, 9], [0, 6, 0, 5, 7], [0] * 5], np.int32)
    labels = np.asarray([0, 3, 4, 1], np.int32)
    places = np.arange(6 * 5 * 3, dtype=np.uint32).reshape(6, 5, 3)
    noise = finishing.normal(boxes[:, 4, None, None, None], places, np)
    for row, (top, bottom, left, right, _) in enumerate(boxes):
        own[row, top:bottom, left:right] = noise[row, top:bottom, left:right]
    for draws in ((0.3, 0.3, 0, 0, 0, 0), (1, 0.8, 1, 3, 2, 5), (1, 1, 0, 0, 0, 0)):
        weight, label_weight, *box = draws
        blend = np.tile(np.asarray(draws, np.float32), (4, 1))
        found = finished(
            pipeline, {"image": images, "erase": boxes, "label": labels, "blend": blend}
        )
        top, bottom, left, right = box
        for row in range(4):
            other = own[row ^ 1]
            expected = weight * own[row] + (1 - weight) * other
            expected[top:bottom, left:right] = other[top:bottom, left:right]
            np.testing.assert_allclose(found["image"][row], expected, rtol=1e-5, atol=1e-5)
            soft = np.zeros(5)
            soft[labels[row]] += label_weight
            soft[labels[row ^ 1]] += 1 - label_weight
            np.testing.assert_allclose(found["label"][row], soft, atol=1e-6)


def test_noise_is_normal_and_hangs_on_seed_and_place_alone():
    places = np.arange(64 * 64 * 3, dtype=np.uint32)
    seeds = np.asarray([0, 1, 2, 2**31 - 1], np.int32)[:, None]
    noise = finishing.normal(seeds, places, np)
    np.testing.assert_array_equal(noise[2, 100:], finishing.normal(seeds[2], places[100:], np))
    on_device = jax.jit(lambda s: finishing.normal(s, jax.numpy.asarray(places), jax.numpy))(seeds)
    np.testing.assert_allclose(on_device, noise, **ROUNDING)
    for row in noise:
        assert scipy.stats.kstest(row, "norm").pvalue > 1e-3
        # Neighbouring numbers, and those of neighbouring pixels and lines, know nothing of another.
        for lag in (1, 3, 192):
            assert abs(np.corrcoef(row[:-lag], row[lag:])[0, 1]) < 0.04
    assert np.abs(np.corrcoef(noise) - np.eye(4)).max() < 0.04


def test_a_picture_is_changed_as_its_array():
    """What PIL keeps between a file and a batch has the bits of what arrays had."""
    array = np.random.default_rng(0).integers(0, 256, (30, 40, 3)).astype(np.uint8)
    picture = Picture(Image.fromarray(array))
    assert (picture.shape, picture.dtype) == (array.shape, array.dtype)
    changes = {
        "crop": lambda rng, image: augment.random_resized_crop(rng, image, (20, 24)),
        "centre": lambda rng, image: augment.central_crop(image, (20, 20), 0.9),
        "mirror": lambda rng, image: augment.mirror(image),
        "affine": lambda rng, image: augment.random_affine(rng, image, rotate=9.0),
        "shift": lambda rng, image: augment.random_affine(rng, image, translate=2.0),
        "policy": lambda rng, image: augment.apply_policy(rng, image, "rand-m9", (1, 2, 3)),
        "colour": lambda rng, image: colour.change(rng, image, AugmentConfig(grayscale_prob=1.0)),
    }
    for name, change in changes.items():
        found, expected = (change(np.random.default_rng(1), image) for image in (picture, array))
        np.testing.assert_array_equal(np.asarray(found), expected, err_msg=name)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_files_are_read_as_pictures_and_as_arrays(channels):
    file = io.BytesIO()
    Image.fromarray(np.arange(60, dtype=np.uint8).reshape(4, 5, 3)).save(file, "PNG")
    picture = read_picture(file, channels)
    assert picture.shape == (4, 5, channels)
    assert not picture.is_decoded
    np.testing.assert_array_equal(picture, read_image(file, channels))
    np.testing.assert_array_equal(picture[1:, 2], read_image(file, channels)[1:, 2])
    assert picture.is_decoded


def photographs(root, side=(150, 200), count=4):
    """JPEGs of two classes, smooth as photographs are."""
    y, x = np.mgrid[: side[0], : side[1]] / 30
    for number in range(count):
        image = np.stack([np.sin(x + number), np.cos(y * 1.3), np.sin(x * y / 3 + number)], -1)
        folder = root / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        exif = Image.Exif()
        exif[0x0112] = 6 if number == 0 else 1
        Image.fromarray(np.uint8(127 + 100 * image)).save(
            folder / f"{number}.jpg", quality=90, exif=exif
        )


def test_large_photographs_may_be_decoded_at_the_scale_of_their_crop(tmp_path):
    photographs(tmp_path)
    found = {}
    for decode in ("full", "scaled"):
        config = AugmentConfig(crop_area=(0.3, 1.0), resize="bicubic")
        data = DataConfig(name="image_folder", data_dir=str(tmp_path), image_size=24,
                          decode=decode, augment=config, kwargs={"held_out": 0.5})  # fmt: skip
        pipeline = load(data, seed=0, batch_size=8)
        found[decode] = next(sent_batches(pipeline, 0))["image"].astype(np.float32)
        found[f"{decode} held out"] = next(iter(pipeline.eval_batches()))["image"]
    difference = np.abs(found["full"] - found["scaled"])
    assert 0 < difference.mean() < 2
    np.testing.assert_array_equal(found["full held out"], found["scaled held out"])


def test_what_is_decoded_later_ends_a_run_by_its_name(tmp_path):
    for part in ("train", "val"):
        photographs(tmp_path / part)
    for file in (tmp_path / "train").rglob("*.jpg"):
        file.write_bytes(file.read_bytes()[:2000])
    data = DataConfig(name="image_folder", data_dir=str(tmp_path), image_size=8, decode="scaled",
                      max_bad_records=1)  # fmt: skip
    with pytest.raises(UserError, match=r"max_bad_records=1: with config\.data\.decode='scaled'"):
        load(data, seed=0, batch_size=2)
    data.max_bad_records, data.augment.crop_area = 0, (0.3, 1.0)
    with pytest.raises(UserError, match=r"\d.jpg: .*truncated"):
        next(load(data, seed=0, batch_size=2).train_iterator())
