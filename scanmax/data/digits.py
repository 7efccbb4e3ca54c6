"""The TFDS builder of `digits`: scikit-learn's bundled 8x8 handwritten digits, no download.

The held-out part is every fifth image of each class in scikit-learn's order: fixed, stratified, a
fifth of the whole. Intensities 0..16 are stored as 0..255 in PNG files, encoded here because TFDS
would need TensorFlow to encode arrays.
"""

import io

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

HELD_OUT_EVERY = 5


def held_out(labels: np.ndarray) -> np.ndarray:
    """Marks every fifth example of each class.

    Args:
      labels: [B] class of each example.

    Returns:
      [B] bool, True where the example is held out.
    """
    mask = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        (members,) = np.nonzero(labels == label)
        mask[members[HELD_OUT_EVERY // 2 :: HELD_OUT_EVERY]] = True
    return mask


def encode_png(image: np.ndarray) -> bytes:
    """Encodes [Y, X] or [Y, X, C] uint8 losslessly."""
    buffer = io.BytesIO()
    Image.fromarray(image.squeeze(-1) if image.shape[-1:] == (1,) else image).save(buffer, "PNG")
    return buffer.getvalue()


class Digits(tfds.core.GeneratorBasedBuilder):
    """1797 grey images of handwritten digits, 8x8, ten classes."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "Every fifth image of each class is held out."}  # noqa: RUF012

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.__doc__,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(8, 8, 1), encoding_format="png"),
                    "label": tfds.features.ClassLabel(names=[str(digit) for digit in range(10)]),
                }
            ),
            supervised_keys=("image", "label"),
            homepage="https://scikit-learn.org/stable/datasets/toy_dataset.html",
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        from sklearn.datasets import load_digits

        del dl_manager
        data = load_digits()
        images = np.round(data.images * (255 / 16)).astype(np.uint8)
        test = held_out(data.target)
        return {
            "train": self._generate_examples(images[~test], data.target[~test]),
            "test": self._generate_examples(images[test], data.target[test]),
        }

    def _generate_examples(self, images, labels):
        for index, (image, label) in enumerate(zip(images, labels)):
            yield index, {"image": encode_png(image), "label": int(label)}
