"""Batches by step: order, coverage, processes, resume, padding."""

import itertools
import multiprocessing
from collections import Counter
from unittest import mock

import chex
import numpy as np
import pytest

from scanmax.configs.imagenet_deit_small import get_config
from scanmax.data import AugmentConfig, DataConfig, load
from scanmax.data.pipeline import LocalRows, Rows
from scanmax.data.source import Source
from scanmax.data.sources import SOURCES
from scanmax.errors import UserError

AUGMENT = AugmentConfig(translate=1.0, rotate=10.0, zoom=0.1, mixup=0.8, cutmix=1.0, erase=0.2)


def config(data_dir, **fields):
    return DataConfig(name="digits", data_dir=data_dir, **fields)


def take(pipeline, count, start=0):
    return list(itertools.islice(pipeline.train_iterator(start), count))


def fingerprints(images):
    return [image.tobytes() for image in images]


def test_specs_are_those_of_the_global_batch(data_dir):
    data = config(data_dir, augment=AUGMENT)
    for index in range(2):
        pipeline = load(data, seed=0, batch_size=16, process_index=index, process_count=2)
        (batch,) = take(pipeline, 1)
        (evaluation, *_) = pipeline.eval_batches()
        for spec, rows in ((pipeline.train_spec, batch), (pipeline.eval_spec, evaluation)):
            assert spec.keys() == rows.keys()
            for name in spec:
                assert spec[name].shape == (16, *rows[name].shape[1:])
                assert len(rows[name]) == 8
                assert spec[name].dtype == rows[name].dtype
    assert (pipeline.kind, pipeline.num_train, pipeline.num_eval) == ("image", 1438, 359)
    assert pipeline.class_names == tuple("0123456789")
    assert pipeline.num_classes == 10


def test_a_batch_is_a_function_of_seed_and_step(data_dir):
    data = config(data_dir, augment=AUGMENT)
    first = take(load(data, seed=3, batch_size=32), 4)
    again = take(load(data, seed=3, batch_size=32), 4)
    chex.assert_trees_all_equal(first, again)
    resumed = take(load(data, seed=3, batch_size=32), 2, start=2)
    chex.assert_trees_all_equal(first[2:], resumed)
    other = take(load(data, seed=4, batch_size=32), 1)
    assert not np.array_equal(first[0]["image"], other[0]["image"])
    assert not np.array_equal(first[0]["image"], first[1]["image"])


def test_threads_and_workers_do_not_change_a_batch(data_dir):
    few = take(load(config(data_dir, augment=AUGMENT, threads=1), seed=0, batch_size=8), 3)
    many = take(load(config(data_dir, augment=AUGMENT, threads=8), seed=0, batch_size=8), 3)
    chex.assert_trees_all_equal(few, many)


def test_worker_processes_make_the_batches_of_threads():
    """ImageNet's recipe: each worker makes whole batches, and the order is the same."""
    data = get_config().data
    data.name, data.image_size = "synthetic", 32
    data.kwargs = {"classes": 5, "examples": 24, "eval_examples": 20}
    data.workers = 0
    threads = load(data, seed=0, batch_size=8, eval_batch_size=4)
    expected = [take(threads, 3, start=1), list(threads.eval_batches())]
    data.workers = 2
    found = load(data, seed=0, batch_size=8, eval_batch_size=4)
    batches = found.train_iterator(1)
    chex.assert_trees_all_equal([next(batches) for _ in range(3)], expected[0])
    assert len(multiprocessing.active_children()) == 2
    batches.close()
    chex.assert_trees_all_equal(list(found.eval_batches()), expected[1])
    assert not multiprocessing.active_children()


def test_worker_processes_change_colours_as_threads_do():
    """A policy, a jitter and a blur by the argument of a config and by fields."""
    data = get_config("3a").data
    assert (data.augment.auto_augment, data.augment.randaugment) == ("3a", "")
    data.name, data.image_size = "synthetic", 24
    data.kwargs = {"classes": 5, "examples": 24, "eval_examples": 2}
    data.augment.grayscale_prob = data.augment.gaussian_blur_prob = 0.5
    data.augment.solarize_prob, data.augment.resize = 0.2, "nearest"
    found = []
    for workers in (0, 1):
        data.workers = workers
        batches = load(data, seed=0, batch_size=8).train_iterator(1)
        found.append([next(batches) for _ in range(2)])
        batches.close()
    chex.assert_trees_all_equal(*found)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"color_jitter": (0.4,)}, r"color_jitter=\(0.4,\) must be \(brightness, contrast"),
        ({"color_jitter": (0.4, 0.4, 0.4, 0.6)}, "a hue of at most 0.5"),
        ({"color_jitter_prob": 0.5}, "color_jitter_prob is of color_jitter, which is off"),
        ({"auto_augment": "rand-m9"}, "RandAugment is config.data.augment.randaugment"),
        (
            {"yoco": 0.5, "crop_area": (0.2, 1.0)},
            r"yoco=0.5 changes each half of an image .* all off",
        ),
        ({"crops": 2}, "crops=2 are random crops: set config.data.augment.crop_area"),
        ({"crops_mix": "cutmix"}, "crops_permute are of config.data.augment.crops, which is 1"),
        ({"auto_augment": "orginal"}, "did you mean 'original'"),
        ({"randaugment": "v0"}, "randaugment takes 'rand-...', auto_augment the others"),
        ({"auto_augment": "v0", "randaugment": "rand-m9"}, "one policy at a time"),
        ({"views": 2, "view_policies": ({}, {"auto_augment": "augmx"})}, "did you mean 'augmix'"),
    ],
)
def test_augmentation_that_cannot_be_is_told_before_a_batch(fields, told):
    data = DataConfig(name="synthetic", augment=AugmentConfig(**fields))
    with pytest.raises(UserError, match=told):
        load(data, seed=0, batch_size=4)


def test_policies_need_colour_or_grey():
    data = DataConfig(
        name="synthetic", kwargs={"channels": 4}, augment=AugmentConfig(auto_augment="ta_wide")
    )
    with pytest.raises(UserError, match="the policy 'ta_wide' needs 1 or 3 channels"):
        load(data, seed=0, batch_size=4)


def test_images_are_resized_by_what_the_config_says():
    shown = {}
    for name in ("bicubic", "bilinear", "nearest"):
        data = DataConfig(name="arrays", image_size=5, resize=name)
        arrays = (np.random.default_rng(0).integers(0, 256, (8, 9, 9), np.uint8), np.arange(8) % 2)
        pipeline = load(data, data=arrays, seed=0, batch_size=4)
        assert pipeline.preprocessing.to_dict()["resize"] == name
        (trained, held_out) = (next(iter(batches)) for batches in
                               (pipeline.train_iterator(), pipeline.eval_batches()))  # fmt: skip
        shown[name] = (trained["image"].tobytes(), held_out["image"].tobytes())
    assert all(len(set(parts)) == 3 for parts in zip(*shown.values()))


@pytest.mark.parametrize("crop_area", [(), (0.3, 0.5)])
def test_a_resize_of_training_alone(crop_area):
    ramp = np.tile(np.arange(0, 250, 25, dtype=np.uint8), (8, 10, 1))
    augment = AugmentConfig(resize="nearest", crop_area=crop_area)
    data = DataConfig(name="arrays", image_size=7, augment=augment)
    pipeline = load(data, data=(ramp, np.arange(8) % 2), seed=0, batch_size=4)
    trained, held_out = (
        pipeline.to_display(next(iter(batches))["image"])
        for batches in (pipeline.train_iterator(), pipeline.eval_batches())
    )
    assert set(np.unique(trained)) <= set(ramp.ravel().tolist())
    assert not set(np.unique(held_out)) <= set(ramp.ravel().tolist())


@pytest.mark.parametrize("count", [1, 2])
def test_a_process_may_hold_one_row(data_dir, count):
    whole = take(load(config(data_dir), seed=0, batch_size=2), 3)
    for index in range(count):
        part = load(
            config(data_dir), seed=0, batch_size=count, process_index=index, process_count=count
        )
        for step, batch in enumerate(take(part, 6 // count)):
            row = step * count + index
            chex.assert_trees_all_equal(
                batch, {name: rows[row % 2 :][:1] for name, rows in whole[row // 2].items()}
            )
        assert len(next(iter(part.eval_batches()))["mask"]) == 1


@pytest.mark.parametrize("count", [2, 4])
def test_processes_hold_the_rows_of_the_one_batch(data_dir, count):
    data = config(data_dir, augment=AUGMENT)
    whole = take(load(data, seed=0, batch_size=16), 3)
    parts = [
        take(load(data, seed=0, batch_size=16, process_index=index, process_count=count), 3)
        for index in range(count)
    ]
    for step, batch in enumerate(whole):
        joined = {name: np.concatenate([part[step][name] for part in parts]) for name in batch}
        chex.assert_trees_all_equal(batch, joined)


def test_every_epoch_shows_every_example_once_in_a_new_order(data_dir):
    data = config(data_dir, train_split="train[:120]")
    pipelines = [
        load(data, seed=0, batch_size=24, process_index=index, process_count=2)
        for index in range(2)
    ]
    epochs = []
    for epoch in range(2):
        batches = [take(pipeline, 5, start=5 * epoch) for pipeline in pipelines]
        rows = [fingerprints(batch["image"]) for part in batches for batch in part]
        epochs.append(list(itertools.chain(*rows)))
    # Eight of the 120 may be equal images; as multisets both epochs are the whole part.
    assert len(epochs[0]) == 120
    assert Counter(epochs[0]) == Counter(epochs[1])
    assert epochs[0] != epochs[1]
    assert len(set(epochs[0])) > 110


def test_epochs_need_not_be_whole_batches(data_dir):
    pipeline = load(config(data_dir, train_split="train[:50]"), seed=1, batch_size=16)
    images = np.concatenate([batch["image"] for batch in take(pipeline, 25)])
    counts = Counter(fingerprints(images))
    # 400 rows are eight epochs of 50.
    assert set(counts.values()) == {8}


def test_eval_shows_every_example_once_and_masks_the_rest(data_dir):
    whole = load(config(data_dir), seed=0, batch_size=16, eval_batch_size=359)
    (reference,) = whole.eval_batches()
    assert reference["mask"].all()
    for count, size in ((1, 100), (4, 64), (2, 300)):
        seen = []
        parts = [
            list(
                load(
                    config(data_dir), seed=0, batch_size=16, eval_batch_size=size,
                    process_index=index, process_count=count,
                ).eval_batches()
            )
            for index in range(count)
        ]  # fmt: skip
        assert len({len(part) for part in parts}) == 1
        for step in range(len(parts[0])):
            for part in parts:
                batch = part[step]
                assert len(batch["mask"]) == size // count
                assert not batch["image"][~batch["mask"]].any()
                seen.append(batch["image"][batch["mask"]])
        np.testing.assert_array_equal(np.concatenate(seen), reference["image"])


def test_eval_is_not_augmented(data_dir):
    plain = load(config(data_dir), seed=0, batch_size=64)
    augmented = load(config(data_dir, augment=AUGMENT), seed=9, batch_size=64)
    for left, right in zip(plain.eval_batches(), augmented.eval_batches()):
        chex.assert_trees_all_equal(left, right)


def test_repeats_fill_a_batch_with_fewer_examples():
    rows = Rows(batch_size=10, repeats=3)
    positions = [rows.position(index) for index in range(20)]
    assert positions[:10] == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1]
    assert positions[10:] == [4, 5, 6, 7, 4, 5, 6, 7, 4, 5]
    # Mixing pairs rows 2i and 2i + 1, which must not show one example.
    assert all(left != right for left, right in zip(positions[::2], positions[1::2]))


def test_repeats_are_augmented_anew(data_dir):
    data = config(data_dir, augment=AugmentConfig(rotate=30.0, repeats=3))
    (batch,) = take(load(data, seed=0, batch_size=12), 1)
    np.testing.assert_array_equal(batch["label"][:4], batch["label"][4:8])
    assert not np.array_equal(batch["image"][:4], batch["image"][4:8])


VIEWS = {
    "translate": 1.0,
    "views": 2,
    "view_policies": ({"rotate": 20.0}, {"erase": 1.0}),
    "local_views": 3,
    "local_size": 6,
    "local_policy": {"crop_area": (0.2, 0.5)},
}


def test_views_are_drawn_anew_each_by_its_policy_whoever_reads_them(data_dir):
    data = config(data_dir, augment=AugmentConfig(**VIEWS))
    pipeline = load(data, seed=0, batch_size=8)
    whole = take(pipeline, 3)
    assert whole[0]["image"].shape == (8, 2, 8, 8, 1)
    assert whole[0]["local_image"].shape == (8, 3, 6, 6, 1)
    for name, spec in pipeline.train_spec.items():
        assert (spec.shape, spec.dtype) == (whole[0][name].shape, whole[0][name].dtype)
    assert pipeline.eval_spec["image"].shape == (8, 8, 8, 1)
    assert "local_image" not in pipeline.eval_spec
    parts = [
        take(load(data, seed=0, batch_size=8, process_index=index, process_count=2), 2, start=1)
        for index in range(2)
    ]
    for step in (1, 2):
        joined = [np.concatenate([p[step - 1][n] for p in parts]) for n in ("image", "local_image")]
        chex.assert_trees_all_equal(joined, [whole[step][n] for n in ("image", "local_image")])
    # Erasing leaves values that no image has; only the second view's policy has it.
    levels = (np.arange(256, dtype=np.float32) / 255 - 0.306) / 0.377
    off = np.abs(whole[0]["image"][..., None] - levels).min(axis=-1) > 1e-4
    assert not off[:, 0].any()
    assert off[:, 1].any(axis=(1, 2, 3)).all()
    local = whole[0]["local_image"]
    assert all(not np.array_equal(local[:, 0], local[:, index]) for index in (1, 2))


def test_without_views_a_batch_is_what_it_always_was(data_dir):
    plain = take(load(config(data_dir, augment=AUGMENT), seed=0, batch_size=8), 1)
    policy = {"rotate": AUGMENT.rotate, "zoom": AUGMENT.zoom}
    same = AugmentConfig(translate=1.0, mixup=0.8, cutmix=1.0, erase=0.2, view_policies=(policy,))
    chex.assert_trees_all_equal(
        plain, take(load(config(data_dir, augment=same), seed=0, batch_size=8), 1)
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"views": 0}, "views=0 must be at least 1"),
        ({"views": 2, "view_policies": ({},)}, "holds 1 policies for views=2"),
        ({"views": 2, "view_policies": ({"flop": 1}, {})}, r"\[0\] has no field 'flop'; did you"),
        ({"views": 2, "view_policies": ({}, {"mixup": 1.0})}, r"\[1\] has no field 'mixup'"),
        ({"views": 2, "view_policies": ({}, {"flip": "yes"})}, "flip must be float, not str 'yes'"),
        ({"views": 2, "view_policies": ({}, 3)}, "must be a dict"),
        ({"local_views": 2}, "local_views and local_size go together"),
        ({"local_policy": {"flip": 0.5}}, "local_policy with them"),
        ({"views": 2, "cutmix": 1.0}, "cutmix mixes single images"),
        ({"local_views": 1, "local_size": 4, "mixup": 1.0}, "mixup mixes single images"),
    ],
)
def test_views_that_cannot_be_are_one_line(data_dir, fields, message):
    with pytest.raises(UserError, match=message):
        load(config(data_dir, augment=AugmentConfig(**fields)), seed=0, batch_size=8)


def test_the_training_part_in_order_unchanged_and_masked(data_dir):
    data = config(data_dir, train_split="train[:50]", augment=AUGMENT)
    seen = []
    for size, count in ((50, 1), (16, 1), (32, 2)):
        parts = [
            list(
                load(
                    data, seed=0, batch_size=16, eval_batch_size=size,
                    process_index=index, process_count=count,
                ).train_eval_batches()
            )
            for index in range(count)
        ]  # fmt: skip
        rows = [part[step] for step in range(len(parts[0])) for part in parts]
        seen.append([np.concatenate([b[n][b["mask"]] for b in rows]) for n in ("image", "label")])
    assert len(seen[0][1]) == 50
    chex.assert_trees_all_equal(*seen[:2])
    chex.assert_trees_all_equal(seen[0], seen[2])
    plain = load(config(data_dir, train_split="train[:50]"), seed=0, batch_size=50)
    assert Counter(fingerprints(seen[0][0])) == Counter(fingerprints(take(plain, 1)[0]["image"]))


def test_local_rows_are_disjoint_and_whole():
    rows = [LocalRows(12, index, 3) for index in range(3)]
    found = [part.position(index) for part in rows for index in range(2 * part.size)]
    assert sorted(found) == list(range(24))


def test_sizes_that_do_not_split_are_errors(data_dir):
    with pytest.raises(UserError, match="batch_size=10 does not split over 4"):
        load(config(data_dir), seed=0, batch_size=10, process_count=4)
    with pytest.raises(UserError, match="even number"):
        load(config(data_dir, augment=AugmentConfig(mixup=0.1)), seed=0, batch_size=5)


def test_display_undoes_the_normalisation(data_dir):
    pipeline = load(config(data_dir), seed=0, batch_size=16)
    (batch, *_) = pipeline.eval_batches()
    shown = pipeline.to_display(batch["image"])
    assert shown.dtype == np.uint8
    assert {0, 255} <= set(shown.ravel().tolist()) <= {round(255 / 16 * v) for v in range(17)}


def test_an_example_is_read_once_for_its_repeats():
    read = []

    class Images(list):
        def __getitem__(self, index):
            read.append(index)
            return {"image": np.full((6, 6, 1), index, np.uint8), "label": np.int32(index % 2)}

        def __len__(self):
            return 40

    source = Source(kind="image", train=Images(), eval=Images(), shape=(6, 6, 1), num_classes=2,
                    mean=(0.0,), std=(1.0,))  # fmt: skip
    data = DataConfig(name="mine", threads=1, augment=AugmentConfig(repeats=3, translate=1.0))
    with mock.patch.dict(SOURCES, {"mine": lambda config: source}):
        pipeline = load(data, seed=0, batch_size=10)
        halves = [
            load(data, seed=0, batch_size=10, process_index=index, process_count=2)
            for index in range(2)
        ]
    read.clear()
    batches = pipeline.train_iterator()
    first = next(batches)
    batches.close()
    # Four examples fill ten rows; what is read ahead are whole batches too.
    assert len(set(read[:4])) == len(read[:4]) == len(np.unique(first["image"].max((1, 2, 3))))
    parts = [take(half, 1)[0]["image"] for half in halves]
    np.testing.assert_array_equal(np.concatenate(parts), first["image"])
