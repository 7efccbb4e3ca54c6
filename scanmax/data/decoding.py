"""Images as they come, in files or arrays, to what transforms read: uint8 [Y, X, C]."""

import contextlib
import io
import os
import pathlib
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
# What PIL calls an image of this many channels.
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
# EXIF's orientations by which height and width change places.
SIDEWAYS = (5, 6, 7, 8)


class Picture:
    """A decoded image as PIL holds it, for what PIL does next; np.asarray makes it [Y, X, C] uint8.

    What goes on to a crop and a policy is spared two copies for each of them.
    """

    ndim = 3
    dtype = np.dtype(np.uint8)

    def __init__(self, pil: Image.Image):
        self._pil = pil

    @property
    def pil(self) -> Image.Image:
        """The image as PIL has it."""
        return self._pil

    @property
    def shape(self) -> tuple[int, int, int]:
        return (*self.pil.size[::-1], len(self.pil.getbands()))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        array = np.asarray(self.pil, dtype).reshape(self.shape)
        return array.copy() if copy else array

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, place: Any) -> Any:
        return np.asarray(self)[place]


class EncodedPicture(Picture):
    """A picture of encoded bytes, decoded when its pixels are asked for.

    Args:
      data: what a file holds.
      channels: 1, 3 or 4.
      where: what messages call it.

    Raises:
      ValueError: no image; names it.
    """

    def __init__(self, data: bytes, channels: int, where: str):
        self._data, self._channels, self._where = data, channels, where
        self._decoded: dict[int, Image.Image] = {}
        with self._named():
            self._opened: Image.Image | None = self._open()
            size = self._opened.size[::-1]
            # PIL reads the rest of some formats to know.
            is_turned = self._opened.getexif().get(ExifTags.Base.Orientation, 1) in SIDEWAYS
            self._shape = (*(size[::-1] if is_turned else size), channels)

    @property
    def shape(self) -> tuple[int, int, int]:
        return self._shape

    @property
    def is_decoded(self) -> bool:
        """Whether the whole image is."""
        return 1 in self._decoded

    @property
    def pil(self) -> Image.Image:
        return self.reduced(1)

    def reduced(self, factor: int) -> Image.Image:
        """The image, of a JPEG with sides smaller by this factor, 1, 2, 4 or 8.

        Raises:
          ValueError: the file cannot be read; names it.
        """
        if factor not in self._decoded:
            with self._named():
                self._decoded[factor] = self._decode(factor)
        return self._decoded[factor]

    def _open(self) -> Image.Image:
        return Image.open(io.BytesIO(self._data))

    def _decode(self, factor: int) -> Image.Image:
        # A header is read once, unless the file is decoded at two scales.
        image, self._opened = self._opened or self._open(), None
        if factor > 1:
            image.draft(None, tuple(side // factor for side in image.size))
        # PIL's own would copy what is not turned.
        if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
            image = ImageOps.exif_transpose(image)
        image.load()
        if image.mode.startswith("I"):
            # PIL would clip them at 255.
            image = Image.fromarray(as_uint8(np.asarray(image).astype(np.uint16)))
        if image.mode == "P" and "transparency" in image.info:
            image = image.convert("RGBA")
        mode = MODES[self._channels]
        return image if image.mode == mode else image.convert(mode)

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except UnidentifiedImageError as error:
            raise ValueError(f"{self._where}: cannot identify image file") from error
        except Exception as error:
            raise ValueError(f"{self._where}: {' '.join(str(error).split())}") from error


def as_pil(image: np.ndarray | Picture) -> Image.Image:
    """The image as PIL has it."""
    if isinstance(image, Picture):
        return image.pil
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def read_image(
    path: str | os.PathLike | BinaryIO, channels: int = 3, where: str = ""
) -> np.ndarray:
    """Reads a file as `read_picture` does; [Y, X, channels] uint8."""
    return np.asarray(read_picture(path, channels, where))


def read_picture(path: str | os.PathLike | BinaryIO, channels: int = 3, where: str = "") -> Picture:
    """Reads a file as PIL converts it: palettes are looked up, an alpha channel is dropped.

    Turned as its EXIF data say. Of 16 bits the upper eight are kept.

    Args:
      path: a file that PIL can read.
      channels: 1, 3 or 4.
      where: what messages call it; "" is its path.

    Returns:
      An image of [Y, X, channels], not yet decoded.

    Raises:
      ValueError: the file cannot be read; names it.
    """
    where = where or str(path)
    try:
        if hasattr(path, "read"):
            path.seek(0)
            data = path.read()
        else:
            data = pathlib.Path(path).read_bytes()
    except FileNotFoundError:
        raise ValueError(f"{where}: no such file") from None
    except OSError as error:
        raise ValueError(f"{where}: {error}") from error
    return EncodedPicture(data, channels, where)


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


def as_channels(image: np.ndarray | Picture, channels: int) -> np.ndarray | Picture:
    """uint8 [Y, X, channels] of an image of other channels, as PIL converts it."""
    if isinstance(image, Picture) and image.shape[-1] != channels:
        image = np.asarray(image)
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
