"""Images of stripes in folders, and an experiment that tells them apart."""

import pathlib

import numpy as np
from PIL import Image

KINDS = ("across", "plain", "upright")
EXPERIMENT = """
from scanmax.data.config import DataConfig
from scanmax.train.config import Config, ModelConfig, OptimConfig, ScheduleConfig

def get_config(arg=""):
    kwargs = {"img_size": 8, "patch_size": 4, "dim": 32, "depth": 1, "heads": 2}
    return Config(
        model=ModelConfig(name="vit_tiny_patch16_224", kwargs=kwargs),
        data=DataConfig(name="image_folder", image_size=8),
        optim=OptimConfig(lr=3e-3),
        schedule=ScheduleConfig(warmup="2 steps"),
        batch_size=16,
        duration="30 steps",
        eval_every="",
        log_every="30 steps",
    )
"""


def draw(kind: str, rng: np.random.Generator) -> Image.Image:
    """Stripes across, upright or none, of any brightness, in a file of 11 x 13."""
    image = rng.integers(0, 40, (11, 13, 3))
    bright = int(rng.integers(120, 200))
    if kind == "across":
        image[::4] += bright
        image[1::4] += bright
    elif kind == "upright":
        image[:, ::4] += bright
        image[:, 1::4] += bright
    return Image.fromarray(image.astype(np.uint8))


def fill(folder: pathlib.Path, kinds: tuple[str, ...], count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for kind in kinds:
        (folder / kind).mkdir(parents=True)
        for number in range(count):
            draw(kind, rng).save(folder / kind / f"{number}.png")
