"""What a run gives its loggers at the end, beside numbers: examples as a picture, and a text."""

from collections.abc import Mapping
from typing import Any

import numpy as np

COLUMNS = 8
# Small images are shown at least this wide.
NARROWEST = 48
RIGHT, WRONG = (210, 210, 210), (196, 32, 32)


def tell_outcome(log: Any, step: int, found: Mapping[str, Any]) -> None:
    """Tells what `save_outcome` has written: predictions of images, or a sample of text."""
    if "images" in found:
        shown = found["shown"]
        wrong = found["labels"][shown] != found["predictions"][shown]
        log.image(step, "eval/examples", tiled(found["images"], wrong))
    if "text" in found:
        log.text(step, "eval/sample", f"{found['prompt']}{found['text']}")


def tiled(images: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    """Images [B, Y, X, C] in rows of eight, framed in red where `wrong` [B]: [Y', X', 3] uint8."""
    if images.dtype != np.uint8:
        low, high = images.min(axis=(0, 1, 2)), images.max(axis=(0, 1, 2))
        images = np.round(255 * (images - low) / np.maximum(high - low, 1e-6)).astype(np.uint8)
    factor = -(-NARROWEST // images.shape[2])
    images = images.repeat(factor, axis=1).repeat(factor, axis=2)
    if images.shape[-1] != 3:
        images = images[..., :1].repeat(3, axis=-1)
    count, height, width, _ = images.shape
    rows = -(-count // COLUMNS)
    framed = np.full((rows * COLUMNS, height + 4, width + 4, 3), 255, np.uint8)
    framed[:count] = np.where(wrong[:, None, None, None], np.uint8(WRONG), np.uint8(RIGHT))
    framed[:count, 2:-2, 2:-2] = images
    grid = framed.reshape(rows, COLUMNS, height + 4, width + 4, 3)
    return grid.transpose(0, 2, 1, 3, 4).reshape(rows * (height + 4), COLUMNS * (width + 4), 3)
