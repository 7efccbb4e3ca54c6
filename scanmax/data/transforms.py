"""From a source's examples to a model's batches: resizing, augmentation, normalisation."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from scanmax.data import augment
from scanmax.data.config import AugmentConfig, DataConfig
from scanmax.data.source import Source
from scanmax.data.targets import TRAINING, check_targets
from scanmax.errors import UserError

Batch = dict[str, np.ndarray]


def for_source(
    source: Source, config: DataConfig
) -> "ImageTransform | TokenTransform | TaskTransform":
    """The transform of a source under a config."""
    if source.kind != "image":
        if config.augment != AugmentConfig():
            raise UserError(f"config.data.augment changes images; {config.name!r} has none")
        if source.kind == "tokens":
            return TokenTransform(source.shape[0], source.decode)
        return TaskTransform(source.train[0])
    height, width, channels = source.shape
    if config.image_size:
        height = width = config.image_size
    if height is None or width is None:
        raise UserError(
            f"images of {config.name!r} differ in size; set config.data.image_size, such as 224"
        )
    mean, std = config.mean or source.mean, config.std or source.std
    for name, value in (("mean", mean), ("std", std)):
        if len(value) not in (1, channels):
            raise UserError(f"config.data.{name}={value} must have {channels} entries")
    return ImageTransform(
        size=(height, width),
        channels=channels,
        num_classes=source.num_classes,
        mean=np.asarray(mean, np.float32),
        std=np.asarray(std, np.float32),
        eval_crop=config.eval_crop,
        augment=config.augment,
    )


@dataclasses.dataclass(frozen=True)
class TokenTransform:
    """Rows of `length` tokens; a training example has room for several, and one is drawn."""

    length: int
    decode: Callable[[np.ndarray], str]

    def check_rows(self, rows: int) -> None:
        pass

    def train(self, example: Batch, rng: np.random.Generator) -> Batch:
        start = rng.integers(len(example["tokens"]) - self.length + 1)
        return {"tokens": np.asarray(example["tokens"][start : start + self.length], np.int32)}

    def train_batch(self, batch: Batch, rng: np.random.Generator) -> Batch:
        return batch | {"mask": np.ones(len(batch["tokens"]), bool)}

    def eval(self, example: Batch) -> Batch:
        return {"tokens": np.asarray(example["tokens"], np.int32)}

    def spec(self, batch_size: int, *, train: bool) -> dict[str, jax.ShapeDtypeStruct]:
        return {
            "tokens": jax.ShapeDtypeStruct((batch_size, self.length), np.int32),
            "mask": jax.ShapeDtypeStruct((batch_size,), np.bool_),
        }

    def to_display(self, tokens: np.ndarray) -> str:
        return self.decode(tokens)


@dataclasses.dataclass(frozen=True)
class TaskTransform:
    """Arrays as they are, all of the shapes of one example."""

    example: Batch

    def check_rows(self, rows: int) -> None:
        pass

    def train(self, example: Batch, rng: np.random.Generator) -> Batch:
        return example

    def train_batch(self, batch: Batch, rng: np.random.Generator) -> Batch:
        return batch | {"mask": np.ones(len(jax.tree.leaves(batch)[0]), bool)}

    def eval(self, example: Batch) -> Batch:
        return example

    def spec(self, batch_size: int, *, train: bool) -> dict[str, jax.ShapeDtypeStruct]:
        arrays = {
            name: jax.ShapeDtypeStruct((batch_size, *np.shape(value)), value.dtype)
            for name, value in self.example.items()
        }
        return arrays | {"mask": jax.ShapeDtypeStruct((batch_size,), np.bool_)}

    def to_display(self, values: np.ndarray) -> str:
        return str(values)


@dataclasses.dataclass(frozen=True)
class ImageTransform:
    """uint8 images of any size to normalised float32 ones of one size."""

    size: tuple[int, int]
    channels: int
    num_classes: int
    mean: np.ndarray
    std: np.ndarray
    eval_crop: float
    augment: AugmentConfig

    @property
    def mixes(self) -> bool:
        return bool(self.augment.mixup or self.augment.cutmix)

    def check_rows(self, rows: int) -> None:
        if self.mixes and rows % 2:
            raise UserError(f"mixing pairs rows: {rows} rows per process must be an even number")

    def train(self, example: dict[str, Any], rng: np.random.Generator) -> Batch:
        config = self.augment
        image = as_channels(example["image"], self.channels)
        if config.crop_area:
            image = augment.random_resized_crop(
                rng, image, self.size, area=config.crop_area, aspect=config.crop_aspect
            )
        else:
            image = augment.central_crop(image, self.size)
        if config.flip and rng.random() < config.flip:
            image = image[:, ::-1]
        image = augment.random_affine(
            rng,
            image,
            translate=config.translate,
            rotate=config.rotate,
            zoom=config.zoom,
            shear=config.shear,
        )
        if config.randaugment:
            image = augment.rand_augment(rng, image, config.randaugment, self.fill())
        image = self.normalise(image)
        if config.erase:
            image = augment.random_erasing(rng, image, config.erase)
        return {"image": image, "label": np.int32(example["label"])}

    def train_batch(self, batch: Batch, rng: np.random.Generator) -> Batch:
        batch = batch | {"mask": np.ones(len(batch["label"]), bool)}
        if not self.mixes:
            return batch
        check_targets(batch, "image", self.num_classes, TRAINING, "data set")
        labels = np.eye(self.num_classes, dtype=np.float32)[batch["label"]]
        images, labels = augment.mix(rng, batch["image"], labels, self.augment)
        return batch | {"image": images, "label": labels}

    def eval(self, example: dict[str, Any]) -> Batch:
        image = as_channels(example["image"], self.channels)
        image = augment.central_crop(image, self.size, keep=self.eval_crop)
        return {"image": self.normalise(image), "label": np.int32(example["label"])}

    def normalise(self, image: np.ndarray) -> np.ndarray:
        return (image.astype(np.float32) / 255 - self.mean) / self.std

    def fill(self) -> tuple[int, ...]:
        """The mean colour, which fills what a RandAugment operation uncovers."""
        return tuple(int(value) for value in np.round(255 * np.broadcast_to(self.mean, (3,))))

    def spec(self, batch_size: int, *, train: bool) -> dict[str, jax.ShapeDtypeStruct]:
        label = jax.ShapeDtypeStruct((batch_size,), np.int32)
        if train and self.mixes:
            label = jax.ShapeDtypeStruct((batch_size, self.num_classes), np.float32)
        return {
            "image": jax.ShapeDtypeStruct((batch_size, *self.size, self.channels), np.float32),
            "label": label,
            "mask": jax.ShapeDtypeStruct((batch_size,), np.bool_),
        }

    def to_display(self, images: np.ndarray) -> np.ndarray:
        shown = np.asarray(images, np.float32) * self.std + self.mean
        return np.clip(np.round(255 * shown), 0, 255).astype(np.uint8)


def as_channels(image: np.ndarray, channels: int) -> np.ndarray:
    """uint8 [Y, X, channels]: a grey file in a colour set is repeated, an alpha channel dropped."""
    if image.ndim == 2:
        image = image[..., None]
    if image.shape[-1] == channels:
        return image
    if image.shape[-1] == 1:
        return np.repeat(image, channels, axis=-1)
    return image[..., :channels]
