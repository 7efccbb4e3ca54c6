"""Images made up on the spot, for running a config of any shape without its data.

Each class is a blob of its own place and colour on seeded noise: learnable, and free.
"""

import dataclasses

import numpy as np

from scanmax.data.config import DataConfig
from scanmax.data.source import IMAGENET_NORMALISATION, Source
from scanmax.errors import UserError, suggest


@dataclasses.dataclass(frozen=True)
class Blobs:
    """Example i of class i mod classes, a pure function of (seed, i)."""

    size: int
    channels: int
    classes: int
    examples: int
    seed: int

    def __len__(self) -> int:
        return self.examples

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        label = index % self.classes
        style = np.random.default_rng((0, label))
        centre = style.uniform(0.2, 0.8, 2) * self.size
        colour = style.uniform(60, 190, self.channels)
        rng = np.random.default_rng((1 + self.seed, index))
        grid = np.arange(self.size)
        near = [np.exp(-((grid - place) ** 2) / (0.03 * self.size**2)) for place in centre]
        blob = near[0][:, None, None] * near[1][None, :, None] * colour
        noise = rng.integers(0, 64, (self.size, self.size, self.channels))
        return {"image": (blob + noise).astype(np.uint8), "label": np.int32(label)}


def open_source(config: DataConfig) -> Source:
    """The source "synthetic"; kwargs: classes, examples, eval_examples, size, channels."""
    options = {"classes": 10, "examples": 1024, "eval_examples": 256, "size": 32, "channels": 3}
    for name, value in config.kwargs.items():
        if name not in options:
            raise UserError(f"config.data.kwargs.{name}: {suggest(name, options)}")
        if not isinstance(value, int) or value < 1:
            raise UserError(f"config.data.kwargs.{name}={value!r} must be a positive integer")
        options[name] = value
    size = config.image_size or options["size"]
    blobs = {"size": size, "channels": options["channels"], "classes": options["classes"]}
    mean, std = IMAGENET_NORMALISATION if options["channels"] == 3 else ((0.3,), (0.2,))
    return Source(
        kind="image",
        train=Blobs(**blobs, examples=options["examples"], seed=0),
        eval=Blobs(**blobs, examples=options["eval_examples"], seed=1),
        shape=(size, size, options["channels"]),
        num_classes=options["classes"],
        class_names=tuple(str(label) for label in range(options["classes"])),
        mean=mean,
        std=std,
    )
