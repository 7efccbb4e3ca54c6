"""Everything between an image and what a model reads, as a run's checkpoints keep it."""

import dataclasses
from typing import Any

import numpy as np

from scanmax.data import augment
from scanmax.data.decoding import as_channels
from scanmax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """What becomes of an image when nothing is random: in evaluation and in prediction.

    Attributes:
      size: height and width that the model reads.
      channels: 1, 3 or 4.
      mean: subtracted per channel, of intensities in [0, 1].
      std: divided by per channel.
      crop: share of the resized image's side that the central crop keeps.
      resize: interpolation, a name of `augment.RESIZE`.
    """

    size: tuple[int, int]
    channels: int
    mean: np.ndarray
    std: np.ndarray
    crop: float = 1.0
    resize: str = "bicubic"

    def __call__(self, image: augment.Pixels) -> np.ndarray:
        """uint8 [Y, X, C] of any size to what the model reads, float32."""
        image = as_channels(image, self.channels)
        method = augment.RESIZE[self.resize]
        return self.normalise(np.asarray(augment.central_crop(image, self.size, self.crop, method)))

    def normalise(self, image: np.ndarray) -> np.ndarray:
        """uint8 to normalised float32."""
        return (image.astype(np.float32) / 255 - self.mean) / self.std

    def to_dict(self) -> dict[str, Any]:
        """Numbers and words, for JSON; every program can do the same from them."""
        return {
            "size": list(self.size),
            "channels": self.channels,
            "resize": self.resize,
            "crop": self.crop,
            "range": [0.0, 1.0],
            "mean": [float(value) for value in self.mean],
            "std": [float(value) for value in self.std],
        }

    @classmethod
    def from_dict(cls, told: dict[str, Any]) -> "Preprocessing":
        """What `to_dict` told.

        Raises:
          UserError: it tells of something that this version does not do.
        """
        if told["resize"] not in augment.RESIZE or told["range"] != [0.0, 1.0]:
            raise UserError(
                f"images resized by {told['resize']!r} to the range {told['range']}: written by "
                "another version of scanmax"
            )
        mean, std = (np.asarray(told[name], np.float32) for name in ("mean", "std"))
        return cls(tuple(told["size"]), told["channels"], mean, std, told["crop"], told["resize"])
