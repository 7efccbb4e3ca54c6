"""Images as they come, in files or arrays, to what transforms read: uint8 [Y, X, C]."""

import os
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
# What PIL calls an image of this many channels.
MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def read_image(
    path: str | os.PathLike | BinaryIO, channels: int = 3, where: str = ""
) -> np.ndarray:
    """Reads a file as PIL converts it: palettes are looked up, an alpha channel is dropped.

    Turned as its EXIF data say. Of 16 bits the upper eight are kept.

    Args:
      path: a file that PIL can read.
      channels: 1, 3 or 4.
      where: what messages call it; "" is its path.

    Returns:
      [Y, X, channels] uint8.

    Raises:
      ValueError: the file cannot be read; names it.
    """
    try:
        with Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened)
            if image.mode.startswith("I"):
                # PIL would clip them at 255.
                image = Image.fromarray(as_uint8(np.asarray(image).astype(np.uint16)))
            if image.mode == "P" and "transparency" in image.info:
                image = image.convert("RGBA")
            array = np.asarray(image.convert(MODES[channels]))
    except FileNotFoundError:
        raise ValueError(f"{where or path}: no such file") from None
    except Exception as error:
        raise ValueError(f"{where or path}: {' '.join(str(error).split())}") from error
    return array.reshape(*array.shape[:2], channels)


def as_uint8(values: np.ndarray) -> np.ndarray:
    """Intensities of any kind as 0..255; floats are in [0, 1], of 16 bits the upper eight are kept.

    Raises:
      ValueError: numbers that are no intensities of these kinds.
    """
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * np.uint8(255)
    if values.dtype == np.uint16:
        return (values >> 8).astype(np.uint8)
    if not np.issubdtype(values.dtype, np.floating):
        raise ValueError(f"images are {values.dtype}: give uint8, uint16, bool or floats in [0, 1]")
    if not (values.size and values.min() >= 0 and values.max() <= 1):
        low, high = (float(f(values)) if values.size else 0.0 for f in (np.min, np.max))
        raise ValueError(f"floats from {low:g} to {high:g} are no intensities in [0, 1]")
    return np.round(255 * values).astype(np.uint8)


def as_channels(image: np.ndarray, channels: int) -> np.ndarray:
    """uint8 [Y, X, channels] of an image of other channels, as PIL converts it."""
    if image.ndim == 2:
        image = image[..., None]
    have = image.shape[-1]
    if have == channels:
        return image
    if channels == 1 and have >= 3:
        return np.asarray(Image.fromarray(image[..., :3]).convert("L"))[..., None]
    if have < 3:
        # What is beside the grey is its alpha.
        image = np.repeat(image[..., :1], min(channels, 3), axis=-1)
    if channels == 4:
        return np.concatenate([image, np.full_like(image[..., :1], 255)], axis=-1)
    return image[..., :channels]
