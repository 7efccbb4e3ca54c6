"""Random changes of colour: jitter, grey, blur and solarisation, as timm and torchvision have them.

An alpha channel stays as it is.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageEnhance, ImageOps
from scipy import ndimage

from scanmax.data.config import AugmentConfig
from scanmax.data.decoding import Picture, as_pil

BLUR_KERNEL = 23
BLUR_SIGMA = (0.1, 2.0)
SOLARIZE_THRESHOLD = 128
_ENHANCERS = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)


def change(
    rng: np.random.Generator, image: np.ndarray | Picture, config: AugmentConfig
) -> np.ndarray | Picture:
    """Draws and applies what a config says of colours.

    Args:
      rng: source of randomness; what is off draws nothing.
      image: [Y, X, C] uint8.
      config: color_jitter, grayscale_prob, gaussian_blur_prob and solarize_prob count.

    Returns:
      [Y, X, C] uint8.
    """
    fields = ("color_jitter", "grayscale_prob", "gaussian_blur_prob", "solarize_prob")
    if not any(getattr(config, name) for name in fields):
        return image
    image = np.asarray(image)
    bare = image[..., :3]
    # Drawn only where it is on, so that it moves nothing of configs without it.
    if config.color_jitter and rng.random() < config.color_jitter_prob:
        bare = color_jitter(rng, bare, config.color_jitter)
    if config.grayscale_prob and rng.random() < config.grayscale_prob:
        bare = grayscale(bare)
    if config.gaussian_blur_prob and rng.random() < config.gaussian_blur_prob:
        bare = gaussian_blur(bare, rng.uniform(*BLUR_SIGMA))
    if config.solarize_prob and rng.random() < config.solarize_prob:
        bare = solarize(bare)
    return bare if image.shape[-1] <= 3 else np.concatenate([bare, image[..., 3:]], axis=-1)


def color_jitter(
    rng: np.random.Generator, image: np.ndarray, strengths: Sequence[float]
) -> np.ndarray:
    """Changes brightness, contrast, saturation and hue in random order.

    Args:
      rng: source of randomness.
      image: [Y, X, C] uint8, one or three channels.
      strengths: largest relative change of each; of the hue the largest part of a turn.

    Returns:
      [Y, X, C] uint8.
    """
    factors = [rng.uniform(max(0.0, 1 - strength), 1 + strength) for strength in strengths[:3]]
    if len(strengths) == 4:
        factors.append(rng.uniform(-strengths[3], strengths[3]))
    changed = as_pil(image)
    for which in rng.permutation(len(factors)):
        changed = adjust(changed, int(which), factors[which])
    return np.asarray(changed).reshape(image.shape)


def adjust(image: Image.Image, which: int, factor: float) -> Image.Image:
    """Multiplies brightness (0), contrast (1) or saturation (2), or turns the hue (3)."""
    if which < 3:
        return _ENHANCERS[which](image).enhance(factor)
    if image.mode == "L":
        return image
    hue, saturation, value = image.convert("HSV").split()
    # A turn is 256 steps, over whose end they wrap.
    turned = np.asarray(hue) + np.int32(factor * 255).astype(np.uint8)
    return Image.merge("HSV", (Image.fromarray(turned), saturation, value)).convert("RGB")


def grayscale(image: np.ndarray) -> np.ndarray:
    """[Y, X, C] uint8 whose channels are its luminance."""
    grey = np.asarray(as_pil(image).convert("L"))[..., None]
    return np.repeat(grey, image.shape[-1], axis=-1)


def gaussian_blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """Blurs by a Gaussian of deviation sigma, cut at 23 pixels; borders are reflected.

    Args:
      image: [Y, X, C] uint8.
      sigma: deviation, in pixels.

    Returns:
      [Y, X, C] uint8.
    """
    places = np.arange(BLUR_KERNEL) - (BLUR_KERNEL - 1) / 2
    weights = np.exp(-0.5 * (places / sigma) ** 2)
    weights = (weights / weights.sum()).astype(np.float32)
    blurred = image.astype(np.float32)
    for axis in (0, 1):
        blurred = ndimage.correlate1d(blurred, weights, axis=axis, mode="mirror")
    return np.clip(np.round(blurred), 0, 255).astype(np.uint8)


def solarize(image: np.ndarray) -> np.ndarray:
    """[Y, X, C] uint8 with what is brighter than the middle inverted."""
    solarized = ImageOps.solarize(as_pil(image), SOLARIZE_THRESHOLD)
    return np.asarray(solarized).reshape(image.shape)
