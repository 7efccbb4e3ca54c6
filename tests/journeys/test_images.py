"""A user's images: folders of PNGs, a run, a second run that starts from it, a prediction."""

import csv
import pathlib

import numpy as np
from PIL import Image

from scanmax import cli
from scanmax.train.__main__ import main

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


def test_a_folder_fine_tunes_a_run_and_names_a_new_file(type_in, type_all, tmp_path):
    (tmp_path / "experiment.py").write_text(EXPERIMENT)
    fill(tmp_path / "two", ("across", "upright"), 20, seed=0)
    fill(tmp_path / "three", ("across", "plain", "upright"), 20, seed=1)
    new = tmp_path / "new"
    new.mkdir()
    rng = np.random.default_rng(2)
    for kind in ("across", "plain", "upright"):
        draw(kind, rng).save(new / f"some_{kind}.png")

    train = ("scanmax.train", "--config=experiment.py")
    two = ("--config=experiment.py", "--config.data.data_dir=two")
    augment = "--config.data.augment.auto_augment=ta_wide"
    looked, (status, told) = type_all(
        ("scanmax.data", "show", *two, "--out=batch.png", augment),
        ("scanmax.train", *two, "--workdir=runs/first"),
    )
    assert (looked[0], looked[1].splitlines()[-1]) == (0, "drawn in batch.png"), looked
    assert "batch 0 of 'image_folder': 16 of 16 rows, image [8, 8, 3]" in looked[1]
    assert status == 0, told
    assert "2 classes, 32 training and 8 held-out images of" in told
    second = ("--workdir=runs/second", "--config.data.data_dir=three")
    start = ("--from=runs/first", "--config.model.adapt=('head',)")
    status, told = type_in(*train, *second, *start)
    assert status == 0, told
    assert "runs/first, step 30 (the parameters): " in told
    assert "afresh params/head/bias, params/head/kernel" in told
    status, told = type_in("scanmax.train.predict", "runs/second", "new", "--out=predictions.csv")
    assert (status, told.splitlines()[-1]) == (0, "3 predictions in predictions.csv")
    with (tmp_path / "predictions.csv").open() as file:
        found = {pathlib.Path(row["path"]).stem: row["name"] for row in csv.DictReader(file)}
    assert found == {f"some_{kind}": kind for kind in ("across", "plain", "upright")}


def test_a_mistake_is_a_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiment.py").write_text(EXPERIMENT)
    fill(tmp_path / "one", ("across",), 4, seed=0)
    words = ["--config=experiment.py", "--workdir=run", "--config.data.data_dir=one"]
    assert cli.run_main(main, words) == 2
    assert capsys.readouterr().err == (
        "error: 'image_folder' holds one class only ('across'): there is nothing to tell apart\n"
    )
