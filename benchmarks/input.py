"""What a training batch of DeiT's recipe costs: a core of the host, worker processes, the device.

Photographs are the two of scikit-learn, cut to 500 x 375 and kept as JPEGs of about 65 kB, as
ImageNet's are. A call makes one batch of `ROWS` images; images per second and core are ROWS over
its time, which is the processor's but for worker processes. Random changes differ between the
contenders and from batch to batch, so a call takes every time the next one, and there is nothing to
compare but that results are finite.
"""

import dataclasses
import functools
import io
import itertools
import os
import pathlib
import tempfile
import time
import warnings

import jax
import numpy as np

from benchmarks.harness import Contender, Row, benchmark
from benchmarks.peers import import_peer
from scanmax.configs.imagenet_deit_small import get_config
from scanmax.data import load

ROWS, SIZE = 48, 224
# Batches that a call of worker processes takes: what lies ready at its start is made again before
# the next one, and counts little.
MANY = 16
BYTES = 65_000


@functools.cache
def photographs() -> str:
    """A folder of 2048 JPEGs of two classes, 32 different ones; it goes when the process does.

    The shuffle of a small set takes longer than its images: its cipher has 2**16 places at least.
    """
    from PIL import Image
    from sklearn.datasets import load_sample_images

    photographs.kept = tempfile.TemporaryDirectory()
    root = pathlib.Path(photographs.kept.name)
    for name, array in zip("ab", load_sample_images().images):
        height, width = array.shape[:2]
        for number, left in enumerate(np.linspace(0, width - 4 * height // 3, 16)):
            box = (left, 0, left + 4 * height // 3, height)
            image = Image.fromarray(array).resize((500, 375), box=box)
            for quality in range(95, 50, -1):
                file = io.BytesIO()
                image.save(file, "JPEG", quality=quality)
                if file.tell() <= BYTES:
                    break
            for part in ("train", "val")[: 1 + (number == 0)]:
                (root / part / name).mkdir(parents=True, exist_ok=True)
                first = root / part / name / f"{number}.jpg"
                first.write_bytes(file.getvalue())
                for copy in range(1, 64 if part == "train" else 1):
                    os.link(first, first.with_stem(f"{number}_{copy}"))
    return str(root)


def recipe(**changes):
    """The published recipe on these photographs, repeated augmentation aside."""
    data = get_config().data
    data.name, data.data_dir, data.image_size = "image_folder", photographs(), SIZE
    data.workers = data.threads = 0
    own = {name: changes.pop(name) for name in ("workers", "threads") if name in changes}
    data.augment = dataclasses.replace(data.augment, **{"repeats": 1, **changes})
    return dataclasses.replace(data, **{"threads": 1, **own})


def ours(name: str, finishes: bool = False, **changes) -> Contender:
    """The pipeline's batches, in this thread; finished by the compiled step's part, or as sent."""

    def prepare():
        pipeline = load(recipe(**changes), seed=0, batch_size=ROWS)
        sent, steps = pipeline.train_iterator().sent, itertools.count()
        finish = jax.jit(pipeline.finish) if finishes else lambda batch: batch
        return lambda: jax.block_until_ready(finish(sent[next(steps)]))

    return Contender(name, prepare, lambda batch: batch["image"][:1])


def timms(name: str, policy: str | None, finishes: bool = False, repeats: int = 1) -> Contender:
    """timm's transforms and collation in this thread; finished as its prefetching loader does."""

    def prepare():
        import torch

        dataset, collate = timm_images(policy), import_peer("timm.data.loader").fast_collate
        steps = itertools.count()

        def call():
            first = next(steps) * (ROWS // repeats)
            rows = [(first + row % (ROWS // repeats)) % len(dataset) for row in range(ROWS)]
            batch = collate([dataset[row] for row in rows])
            return finish(*batch) if finishes else batch

        if not finishes:
            return call
        loader = import_peer("timm.data.loader").PrefetchLoader(
            None, device=torch.device("cpu"), re_prob=0.25, re_mode="pixel"
        )
        mixup = import_peer("timm.data.mixup").Mixup(0.8, 1.0, label_smoothing=0.0)

        def finish(images, labels):
            images = images.float().sub_(loader.mean).div_(loader.std)
            return mixup(loader.random_erasing(images), labels)

        return call

    return Contender(name, prepare, lambda batch: batch[0][:1].float())


def timm_images(policy: str | None):
    """timm's data set of the photographs under the transforms of its prefetching loader."""
    data = import_peer("timm.data")
    transform = data.create_transform(
        SIZE,
        is_training=True,
        use_prefetcher=True,
        auto_augment=policy,
        color_jitter=None,
        interpolation="random",
        re_prob=0.25,
        re_mode="pixel",
    )
    return data.ImageDataset(f"{photographs()}/train", transform=Again(transform))


class Again:
    """A transform that draws again where it asks PIL for no bits at all, a draw in a thousand."""

    def __init__(self, transform):
        self.transform = transform

    def __call__(self, image):
        try:
            return self.transform(image)
        except ValueError:
            return self.transform(image)


def in_workers(policy: str, workers: int) -> tuple[Contender, Contender]:
    """Batches of worker processes, ours and timm's."""

    def prepare_ours():
        batches = load(
            recipe(workers=workers, randaugment=policy), seed=0, batch_size=ROWS
        ).train_iterator()
        return functools.partial(take, batches.as_sent())

    def prepare_timm():
        import torch

        dataset = timm_images(policy)
        order = torch.utils.data.RandomSampler(dataset, replacement=True, num_samples=10**7)
        loader = torch.utils.data.DataLoader(
            dataset, ROWS, sampler=order, num_workers=workers, drop_last=True,
            collate_fn=import_peer("timm.data.loader").fast_collate,
        )  # fmt: skip
        with warnings.catch_warnings():
            # Workers are forked; they do not touch JAX.
            warnings.simplefilter("ignore", RuntimeWarning)
            return functools.partial(take, iter(loader))

    def take(batches):
        return [next(batches) for _ in range(MANY)][-1]

    return (
        Contender("scanmax", prepare_ours, lambda batch: batch["image"][:1]),
        Contender("timm", prepare_timm, lambda batch: batch[0][:1].float()),
    )


@benchmark("input")
def input_pipeline(quick: bool):
    """Batches of DeiT's recipe from JPEGs of 65 kB: a core, two workers, against timm's loader."""
    import torch

    threads, policy = torch.get_num_threads(), "rand-m9-mstd0.5-inc1"
    torch.set_num_threads(1)
    whole = {"reference": None, "clock": time.process_time}
    yield Row(
        f"{ROWS} images, a core, whole recipe, as sent",
        ours("scanmax"),
        [timms("timm", policy)],
        **whole,
    )
    yield Row(
        f"{ROWS} images, a core, without RandAugment, as sent",
        ours("scanmax", randaugment=""),
        [timms("timm", None)],
        **whole,
    )
    yield Row(
        f"{ROWS} images, a core, three repeats of each, as sent",
        ours("scanmax", repeats=3),
        [timms("timm", policy, repeats=3)],
        **whole,
    )
    yield Row(
        f"{ROWS} images, a core, three repeats without RandAugment, as sent",
        ours("scanmax", repeats=3, randaugment=""),
        [timms("timm", None, repeats=3)],
        **whole,
    )
    yield Row(
        f"{ROWS} images, normalised, erased and mixed on the CPU too",
        ours("scanmax", finishes=True),
        [timms("timm", policy, finishes=True)],
        **whole,
    )
    torch.set_num_threads(threads)
    if not quick:
        mine, theirs = in_workers(policy, 2)
        yield Row(f"{MANY} x {ROWS} images, two worker processes", mine, [theirs], reference=None)
