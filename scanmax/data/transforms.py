"""From a source's examples to a model's batches: resizing, augmentation, normalisation."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from scanmax.data import augment, colour, randaugment
from scanmax.data.config import AugmentConfig, DataConfig
from scanmax.data.decoding import as_channels
from scanmax.data.finishing import BLEND, BLEND_NUMBERS, ERASE, ERASE_NUMBERS, Finish
from scanmax.data.preprocessing import Preprocessing
from scanmax.data.source import Source
from scanmax.data.targets import TRAINING, check_targets
from scanmax.errors import UserError, suggest
from scanmax.fields import check_fields

# Fields of AugmentConfig that change an image by itself, and may differ between its views.
PER_VIEW = (
    "translate",
    "rotate",
    "zoom",
    "shear",
    "crop_area",
    "crop_aspect",
    "crops",
    "crops_mix",
    "crops_alpha",
    "crops_permute",
    "resize",
    "flip",
    "randaugment",
    "auto_augment",
    "color_jitter",
    "color_jitter_prob",
    "grayscale_prob",
    "gaussian_blur_prob",
    "solarize_prob",
    "yoco",
    "erase",
)
# What is said of several crops alone.
CROPS = ("crops_mix", "crops_alpha", "crops_permute")

Batch = dict[str, np.ndarray]


def for_source(
    source: Source, config: DataConfig
) -> "ImageTransform | TokenTransform | TaskTransform":
    """The transform of a source under a config."""
    if source.kind not in ("image", "image_text"):
        if config.augment != AugmentConfig():
            raise UserError(f"config.data.augment changes images; {config.name!r} has none")
        if source.kind == "tokens":
            return TokenTransform(source.shape[0], source.decode, source.separator)
        return TaskTransform(source.train[0])
    height, width, channels = source.shape
    if config.image_size:
        height = width = config.image_size
    if height is None or width is None:
        raise UserError(
            f"images of {config.name!r} may differ in size; set config.data.image_size, such as 224"
        )
    mean, std = config.mean or source.mean, config.std or source.std
    for name, value in (("mean", mean), ("std", std)):
        if len(value) not in (1, channels):
            raise UserError(f"config.data.{name}={value} must have {channels} entries")
    views, local_views = view_policies(config.augment)
    check_views((*views, *local_views), channels)
    kind = ImageTransform
    if source.kind == "image_text":
        kind = functools.partial(PairTransform, text_length=source.text_length)
    transform = kind(
        views=views,
        local_views=local_views,
        prepare=Preprocessing(
            size=(height, width),
            channels=channels,
            mean=np.asarray(mean, np.float32),
            std=np.asarray(std, np.float32),
            crop=config.eval_crop,
            resize=config.resize,
        ),
        num_classes=source.num_classes,
        augment=config.augment,
    )
    transform.check()
    return transform


def view_policies(
    config: AugmentConfig,
) -> tuple[tuple[AugmentConfig, ...], tuple[AugmentConfig, ...]]:
    """What changes each view of an image, and each small view.

    Raises:
      UserError: numbers that do not fit each other, or a policy of a field that no view has alone.
    """
    field = "config.data.augment"
    if config.views < 1 or config.local_views < 0:
        raise UserError(
            f"{field}.views={config.views} must be at least 1, and "
            f"local_views={config.local_views} not negative"
        )
    policies = config.view_policies or ({},) * config.views
    if len(policies) != config.views:
        raise UserError(
            f"{field}.view_policies holds {len(policies)} policies for views={config.views}"
        )
    if bool(config.local_views) != (config.local_size > 0) or (
        config.local_policy and not config.local_views
    ):
        raise UserError(f"{field}: local_views and local_size go together, local_policy with them")
    for name in ("mixup", "cutmix"):
        if getattr(config, name) and (config.views > 1 or config.local_views):
            raise UserError(
                f"{field}.{name} mixes single images; with views={config.views} and "
                f"local_views={config.local_views} set it to 0"
            )
    views = tuple(
        with_policy(config, policy, f"{field}.view_policies[{index}]")
        for index, policy in enumerate(policies)
    )
    local = with_policy(config, config.local_policy, f"{field}.local_policy")
    return views, (local,) * config.local_views


def with_policy(config: AugmentConfig, policy: Any, field: str) -> AugmentConfig:
    """The config with a view's own fields in place of the common ones."""
    if not isinstance(policy, Mapping):
        raise UserError(f"{field} must be a dict of fields such as {{'flip': 0.5}}, not {policy!r}")
    for name in policy:
        if name not in PER_VIEW:
            raise UserError(f"{field} has no field {name!r}; {suggest(str(name), PER_VIEW)}")
    own = dataclasses.replace(config, **policy)
    check_fields(own, field)
    return own


def check_views(views: Sequence[AugmentConfig], channels: int) -> None:
    """Raises UserError where a view's fields cannot be, or would do nothing."""
    field, plain = "config.data.augment", AugmentConfig()
    for view in views:
        jitter = view.color_jitter
        if len(jitter) not in (0, 3, 4) or any(hue > 0.5 for hue in jitter[3:]):
            raise UserError(
                f"{field}.color_jitter={tuple(jitter)} must be (brightness, contrast, saturation) "
                "or these and a hue of at most 0.5"
            )
        if view.randaugment and view.auto_augment:
            raise UserError(
                f"{field}.randaugment={view.randaugment!r} and auto_augment="
                f"{view.auto_augment!r}: one policy at a time"
            )
        if view.auto_augment.startswith("rand"):
            raise UserError(
                f"{field}.auto_augment={view.auto_augment!r}: RandAugment is {field}.randaugment"
            )
        policy = view.randaugment or view.auto_augment
        if view.randaugment:
            randaugment.parse(view.randaugment)
        if policy:
            augment.parsed_policy(policy)
            if channels not in (1, 3):
                raise UserError(f"{field}: the policy {policy!r} needs 1 or 3 channels")
        changes = (view.flip, view.translate, view.rotate, view.zoom, view.shear, policy, jitter)
        chances = (view.grayscale_prob, view.gaussian_blur_prob, view.solarize_prob)
        if view.crops > 1 and not view.crop_area:
            raise UserError(f"{field}.crops={view.crops} are random crops: set {field}.crop_area")
        if view.crops == 1 and any(getattr(view, name) != getattr(plain, name) for name in CROPS):
            raise UserError(f"{field}: {', '.join(CROPS)} are of {field}.crops, which is 1")
        if view.yoco and not any((*changes, *chances)):
            raise UserError(
                f"{field}.yoco={view.yoco} changes each half of an image as the other fields say, "
                "and these are all off"
            )
    if not any(view.color_jitter for view in views) and any(
        view.color_jitter_prob != 1 for view in views
    ):
        raise UserError(f"{field}.color_jitter_prob is of color_jitter, which is off")


@dataclasses.dataclass(frozen=True)
class TokenTransform:
    """Rows of `length` tokens; a training example has room for several, and one is drawn.

    With a separator a row says of each token that a model reads which document it belongs to.
    """

    length: int
    decode: Callable[[np.ndarray], str]
    separator: int | None = None
    finish = None

    def check_rows(self, rows: int) -> None:
        pass

    def train(self, example: Batch, rng: np.random.Generator) -> Batch:
        start = rng.integers(len(example["tokens"]) - self.length + 1)
        return self.row(example["tokens"][start : start + self.length])

    def train_batch(self, batch: Batch, rng: np.random.Generator) -> Batch:
        return batch | {"mask": np.ones(len(batch["tokens"]), bool)}

    def eval(self, example: Batch) -> Batch:
        return self.row(example["tokens"][: self.length])

    def row(self, tokens: np.ndarray) -> Batch:
        row = {"tokens": np.asarray(tokens, np.int32)}
        if self.separator is None:
            return row
        # The token that ends a document belongs to it; the one behind it begins the next.
        begins = np.append(False, row["tokens"][:-2] == self.separator)
        return row | {"segment_ids": np.cumsum(begins, dtype=np.int32)}

    def spec(self, batch_size: int, *, train: bool) -> dict[str, jax.ShapeDtypeStruct]:
        spec = {
            "tokens": jax.ShapeDtypeStruct((batch_size, self.length), np.int32),
            "mask": jax.ShapeDtypeStruct((batch_size,), np.bool_),
        }
        if self.separator is not None:
            row = (batch_size, self.length - 1)
            spec["segment_ids"] = jax.ShapeDtypeStruct(row, np.int32)
        return spec

    def to_display(self, tokens: np.ndarray) -> str:
        return self.decode(tokens)


@dataclasses.dataclass(frozen=True)
class TaskTransform:
    """Arrays as they are, all of the shapes of one example."""

    example: Batch
    finish = None

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
    """Images of any size to those of one size: uint8 and draws for `finish`, float32 to evaluate.

    `prepare` is all that happens in evaluation. `views` and `local_views` hold what changes each
    view; a single view has no axis of its own.
    """

    prepare: Preprocessing
    num_classes: int
    augment: AugmentConfig
    views: tuple[AugmentConfig, ...]
    local_views: tuple[AugmentConfig, ...] = ()

    @property
    def mixes(self) -> bool:
        return bool(self.augment.mixup or self.augment.cutmix)

    def check(self) -> None:
        """Refuses changes that these data cannot have."""

    def check_rows(self, rows: int) -> None:
        if self.mixes and rows % 2:
            raise UserError(f"mixing pairs rows: {rows} rows per process must be an even number")

    @property
    def finish(self) -> Finish:
        """What is left of a batch that `train_batch` gave."""
        return Finish(self.prepare, self.num_classes)

    def train(self, example: dict[str, Any], rng: np.random.Generator) -> Batch:
        image = as_channels(example["image"], self.prepare.channels)
        batch = self.drawn(rng, image, "image", self.views, self.prepare.size)
        if len(self.views) == 1:
            batch = {name: values[0] for name, values in batch.items()}
        if self.local_views:
            batch |= self.drawn(rng, image, "local_image", self.local_views, self.local_size)
        return batch | {"label": np.int32(example["label"])}

    def drawn(
        self,
        rng: np.random.Generator,
        image: augment.Pixels,
        name: str,
        policies: Sequence[AugmentConfig],
        size: tuple[int, int],
    ) -> Batch:
        """Random views of an image and, where one of them is to lose a rectangle, these."""
        views, boxes = [], []
        for config in policies:
            views.append(self.view(rng, image, config, size))
            # What is off draws nothing.
            boxes.append(
                augment.random_erasing(rng, size, config.erase)
                if config.erase
                else np.zeros(ERASE_NUMBERS, np.int32)
            )
        batch = {name: np.stack(views)}
        if self.erases(policies):
            batch[ERASE[name]] = np.stack(boxes)
        return batch

    def erases(self, policies: Sequence[AugmentConfig]) -> bool:
        return any(config.erase for config in policies)

    def view(
        self,
        rng: np.random.Generator,
        image: augment.Pixels,
        config: AugmentConfig,
        size: tuple[int, int],
    ) -> np.ndarray:
        """One random view, uint8; what a source gives in another type is normalised here."""
        is_drawn = config.resize == "random"
        methods = randaugment.METHODS if is_drawn else (augment.RESIZE[config.resize],)
        if config.crop_area:
            crop = {
                "area": config.crop_area,
                "aspect": config.crop_aspect,
                "methods": methods,
            }
            if config.crops > 1:
                image = augment.crop_mix(
                    rng,
                    image,
                    size,
                    crops=config.crops,
                    by=config.crops_mix,
                    alpha=config.crops_alpha,
                    permute=config.crops_permute,
                    **crop,
                )
            else:
                image = augment.random_resized_crop(rng, image, size, **crop)
        else:
            name = self.prepare.resize if is_drawn else config.resize
            image = augment.central_crop(image, size, method=augment.RESIZE[name])
        change = functools.partial(self.changed, config=config, methods=methods)
        if config.yoco and rng.random() < config.yoco:
            image = augment.by_halves(rng, image, change)
        else:
            image = change(rng, image)
        return image if image.dtype == np.uint8 else self.prepare.normalise(image)

    def changed(
        self,
        rng: np.random.Generator,
        image: augment.Pixels,
        config: AugmentConfig,
        methods: Sequence[Any],
    ) -> np.ndarray:
        """An image, or a half of one, after all random changes of its size."""
        if config.flip and rng.random() < config.flip:
            image = augment.mirror(image)
        image = augment.random_affine(
            rng,
            image,
            translate=config.translate,
            rotate=config.rotate,
            zoom=config.zoom,
            shear=config.shear,
        )
        policy = config.randaugment or config.auto_augment
        if policy:
            image = augment.apply_policy(rng, image, policy, self.fill(), methods)
        return np.asarray(colour.change(rng, image, config))

    @property
    def local_size(self) -> tuple[int, int]:
        return (self.augment.local_size,) * 2

    def train_batch(self, batch: Batch, rng: np.random.Generator) -> Batch:
        batch = batch | {"mask": np.ones(len(batch["label"]), bool)}
        if not self.mixes:
            return batch
        check_targets(batch, "image", self.num_classes, TRAINING, "data set")
        draws = augment.mix(rng, self.prepare.size, self.augment)
        return batch | {BLEND: np.tile(draws, (len(batch["label"]), 1))}

    def eval(self, example: dict[str, Any]) -> Batch:
        return {"image": self.prepare(example["image"]), "label": np.int32(example["label"])}

    def fill(self) -> tuple[int, ...]:
        """The mean colour, which fills what a policy's movement uncovers."""
        return tuple(
            int(value) for value in np.round(255 * np.broadcast_to(self.prepare.mean, (3,)))
        )

    def spec(self, batch_size: int, *, train: bool) -> dict[str, jax.ShapeDtypeStruct]:
        label = jax.ShapeDtypeStruct((batch_size,), np.int32)
        if train and self.mixes:
            label = jax.ShapeDtypeStruct((batch_size, self.num_classes), np.float32)
        views = (len(self.views),) if train and len(self.views) > 1 else ()
        shapes = {"image": (*views, *self.prepare.size, self.prepare.channels)}
        if train and self.local_views:
            shapes["local_image"] = (
                len(self.local_views),
                *self.local_size,
                self.prepare.channels,
            )
        images = {
            name: jax.ShapeDtypeStruct((batch_size, *shape), np.float32)
            for name, shape in shapes.items()
        }
        return {**images, "label": label, "mask": jax.ShapeDtypeStruct((batch_size,), np.bool_)}

    def sent_spec(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Of training batches as they are before `finish`."""
        spec = self.spec(batch_size, train=True)

        def drawn(name, dtype, *shape):
            spec[name] = jax.ShapeDtypeStruct((batch_size, *shape), dtype)

        for name, policies in (("image", self.views), ("local_image", self.local_views)):
            if policies:
                shape = spec[name].shape[1:]
                drawn(name, np.uint8, *shape)
                if self.erases(policies):
                    drawn(ERASE[name], np.int32, *shape[:-3], ERASE_NUMBERS)
        if self.mixes:
            drawn("label", np.int32)
            drawn(BLEND, np.float32, BLEND_NUMBERS)
        return spec

    def to_display(self, images: np.ndarray) -> np.ndarray:
        shown = np.asarray(images, np.float32) * self.prepare.std + self.prepare.mean
        return np.clip(np.round(255 * shown), 0, 255).astype(np.uint8)


@dataclasses.dataclass(frozen=True)
class PairTransform(ImageTransform):
    """Images as `ImageTransform` makes them, the tokens of each beside it."""

    text_length: int = 0

    def check(self) -> None:
        for name in ("mixup", "cutmix"):
            if getattr(self.augment, name):
                raise UserError(
                    f"config.data.augment.{name} mixes images and their labels, not what is said "
                    "of them: set it to 0"
                )

    def train(self, example: dict[str, Any], rng: np.random.Generator) -> Batch:
        return super().train(example, rng) | self.tokens(example)

    def eval(self, example: dict[str, Any]) -> Batch:
        return super().eval(example) | self.tokens(example)

    def tokens(self, example: dict[str, Any]) -> Batch:
        return {"tokens": np.asarray(example["tokens"], np.int32)}

    def spec(self, batch_size: int, *, train: bool) -> dict[str, jax.ShapeDtypeStruct]:
        tokens = jax.ShapeDtypeStruct((batch_size, self.text_length), np.int32)
        return super().spec(batch_size, train=train) | {"tokens": tokens}
