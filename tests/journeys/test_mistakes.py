"""What a user gets wrong is a line that says what to do, whichever command was typed."""

import importlib.util

import numpy as np
import pytest

from tests.journeys.stripes import EXPERIMENT, fill

TRAIN = ("scanmax.train", "--config=experiment.py", "--workdir=run")
TEXT = ("scanmax.train", "--config=bytes_mamba2", "--workdir=run", "--config.data.name=text")
TWO = (*TRAIN, "--config.data.data_dir=two")
ARRAYS = (*TRAIN, "--config.data.name=arrays")
# What is typed, and what the line says.
MISTAKES = (
    (("scanmax.train",), "--config=NAME or FILE is required, for example --config=digits_vit"),
    (("scanmax.train", "--config=digits_vit"), "--workdir=DIR is required"),
    (("scanmax.train", "--config=digits_vti", "--workdir=run"), "did you mean 'digits_vit'"),
    ((*TRAIN, "--config.optim.lrr=1"), "config.optim has no field 'lrr'; did you mean 'lr'"),
    ((*TRAIN, "--config.data.data_dir=nowhere"), "nowhere"),
    ((*TRAIN, "--config.data.data_dir=one"), "holds one class only ('across')"),
    ((*TRAIN, "--config.data.data_dir=broken"), "3.png"),
    (
        (*TWO, "--config.model.kwargs.pretrained=True"),
        "load_weights",
    ),
    (
        (*TWO, "--config.model.weights=no.safetensors"),
        "no.safetensors",
    ),
    ((*TWO, "--config.log.to=('wandbb',)"), "did you mean 'wandb'"),
    (
        (*TWO, "--from=runs/nothing"),
        "--from=runs/nothing is not there",
    ),
    ((*ARRAYS, "--config.data.data_dir=images.npz"), "label"),
    ((*TEXT, "--config.data.data_dir=empty.txt"), "empty.txt"),
    (("scanmax.train.sweep", *TRAIN[1:], "--run=optim.lrr=1"), "did you mean 'lr'"),
    (("scanmax.train.predict", "runs/nothing", "two"), "no config.json in"),
    (("scanmax.train.predict", "runs/nothing", "cat.png"), "no file or folder 'cat.png'"),
    (("scanmax.train.evaluate", "runs/nothing"), "no config.json in"),
    (("scanmax.train.generate", "runs/nothing", "--prompt=a"), "no config.json in"),
    (("scanmax.train.export", "runs/nothing"), "no config.json in"),
    (("scanmax.train.report", "runs/nothing"), "no metrics in runs/nothing"),
    (("scanmax.data", "prepare", "digitz"), "did you mean 'digits'"),
    (("scanmax.models", "show", "deit_tinny_patch16_224"), "did you mean 'deit_tiny_patch16_224'"),
)


def test_each_mistake_is_a_line(type_all, tmp_path):
    (tmp_path / "experiment.py").write_text(EXPERIMENT)
    fill(tmp_path / "one", ("across",), 4, seed=0)
    fill(tmp_path / "two", ("across", "upright"), 10, seed=0)
    fill(tmp_path / "broken", ("across", "upright"), 10, seed=0)
    for file in tmp_path.glob("broken/*/3.png"):
        file.write_bytes(b"no image")
    np.savez(tmp_path / "images.npz", image=np.zeros((8, 4, 4), np.uint8))
    (tmp_path / "empty.txt").write_text("")
    found = type_all(*(words for words, _ in MISTAKES))
    for (words, said), (status, told) in zip(MISTAKES, found, strict=True):
        errors = [line for line in told.splitlines() if line.startswith("error: ")]
        assert (status, len(errors)) == (2, 1), (words, told)
        assert said in errors[0], (words, told)
        assert "Traceback" not in told, (words, told)
    assert not (tmp_path / "run").exists() or not list((tmp_path / "run").rglob("*.json"))


@pytest.mark.skipif(
    importlib.util.find_spec("jax_cuda12_plugin") is not None, reason="there is a driver for CUDA"
)
def test_a_platform_that_is_not_there_is_a_line(type_in):
    status, told = type_in(
        "scanmax.train", "--config=digits_vit", "--workdir=run", JAX_PLATFORMS="cuda"
    )
    assert (status, told) == (
        2,
        "error: JAX finds no device of JAX_PLATFORMS=cuda; without the variable it takes what is "
        'there, and pip install "scanmax[cuda]" brings what it lacks\n',
    )
