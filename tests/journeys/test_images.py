"""A user's images: folders of PNGs, a run, one that starts from it, predictions, an export."""

import csv
import pathlib

import numpy as np

from tests.journeys.stripes import EXPERIMENT, KINDS, draw, fill

ALL_RIGHT = "accuracy           1.0000"
# A program that knows jax and nothing of scanmax: it does to files what model.json says.
ELSEWHERE = """
import json, pathlib, sys
sys.modules["scanmax"] = sys.modules["flax"] = None
import numpy as np
from PIL import Image
from jax import export, nn
from safetensors.numpy import load_file
folder = pathlib.Path("exported")
model = export.deserialize((folder / "model.stablehlo").read_bytes())
weights = load_file(folder / "model.safetensors")
told = json.loads((folder / "model.json").read_text())
prepare = told["preprocessing"]
assert (prepare["resize"], prepare["crop"], told["tokenizer"]) == ("bicubic", 1.0, None)
for file in sorted(pathlib.Path("new").glob("*.png")):
    image = Image.open(file).convert("RGB")
    side, (height, width) = min(image.size), prepare["size"]
    box = [(size - side) / 2 + edge for edge in (0, side) for size in image.size]
    image = image.resize((width, height), Image.Resampling.BICUBIC, box=box)
    pixels = np.float32(image) / 255
    pixels = (pixels - np.float32(prepare["mean"])) / np.float32(prepare["std"])
    probabilities = np.asarray(nn.softmax(model.call(weights, pixels[None])))[0]
    print(file, told["class_names"][probabilities.argmax()], probabilities.max())
"""


def test_a_folder_fine_tunes_a_run_and_names_a_new_file(type_in, type_all, tmp_path):
    (tmp_path / "experiment.py").write_text(EXPERIMENT)
    fill(tmp_path / "two", ("across", "upright"), 20, seed=0)
    fill(tmp_path / "three", KINDS, 20, seed=1)
    new = tmp_path / "new"
    new.mkdir()
    rng = np.random.default_rng(2)
    for kind in KINDS:
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
    start = ("--from=runs/first", "--config.model.adapt=('head','mixer')")
    other = (
        "--config.model.kwargs.mixer=linear_attention",
        "--config.log.to=('jsonl','tensorboard')",
    )
    status, told = type_in(*train, *second, *start, *other)
    assert status == 0, told
    assert "runs/first, step 30 (the parameters): " in told
    assert "params/head/bias, params/head/kernel" in told.partition("afresh ")[2]
    assert list((tmp_path / "runs/second/tensorboard").iterdir())
    status, told = type_in("scanmax.train.predict", "runs/second", "new", "--out=predictions.csv")
    assert (status, told.splitlines()[-1]) == (0, "3 predictions in predictions.csv")
    with (tmp_path / "predictions.csv").open() as file:
        found = {pathlib.Path(row["path"]).stem: row["name"] for row in csv.DictReader(file)}
    assert found == {f"some_{kind}": kind for kind in KINDS}

    # The trained model where scanmax is not.
    status, told = type_in("scanmax.train.export", "runs/second", "--output=exported")
    assert (status, told.splitlines()[0]) == (0, "exported/model.safetensors")
    status, told = type_in("-c", ELSEWHERE)
    assert status == 0, told
    with (tmp_path / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    for line, row in zip(told.splitlines(), rows, strict=True):
        path, name, probability = line.split()
        assert (path, name) == (row["path"], row["name"])
        assert abs(float(probability) - float(row["probability"])) < 1e-3

    # Variants of the data, as those of ImageNet lie in folders.
    fill(tmp_path / "imagenet-a", ("plain", "upright"), 2, seed=3)
    fill(tmp_path / "imagenet-c/fog/3", KINDS, 2, seed=4)
    for number, kind in enumerate(KINDS):
        fill(tmp_path / f"drawn{number}", (kind,), 2, seed=5 + number)
        (tmp_path / "imagenetv2").mkdir(exist_ok=True)
        (tmp_path / f"drawn{number}" / kind).rename(tmp_path / "imagenetv2" / str(number))
    fill(tmp_path / "imagenet", KINDS, 2, seed=8)
    for number, file in enumerate(sorted((tmp_path / "imagenet").glob("*/*.png"))):
        file.rename(file.with_name(f"ILSVRC2012_val_{number + 1:08}.png"))
    # One has two labels, one none, one another than its folder.
    (tmp_path / "real.json").write_text("[[0, 1], [0], [], [1], [0], [2]]")
    evaluate = ("scanmax.train.evaluate", "runs/second", "--data.name=image_folder", "--part=all")
    sets = ("imagenet-a", "imagenet-c/fog/3", "imagenetv2", "imagenet")
    commands = [(*evaluate, f"--data.data_dir={name}", f"--out={name[:10]}.json") for name in sets]
    own, *others = type_all(
        ("scanmax.train.evaluate", "runs/second"), *commands[:3], (*commands[3], "--real=real.json")
    )
    assert (own[0], own[1].splitlines()[0]) == (
        0,
        "held-out part of 'image_folder': 12 images, 3 classes",
    )
    for (status, told), counts in zip(others, ((4, 2), (6, 3), (6, 3), (6, 3)), strict=True):
        assert (status, told.splitlines()[:2]) == (
            0,
            [f"all of 'image_folder': {counts[0]} images, {counts[1]} classes", ALL_RIGHT],
        ), told
    assert "real_accuracy      0.8000" in others[-1][1]
