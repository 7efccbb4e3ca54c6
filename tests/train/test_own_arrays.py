"""A notebook's arrays: train(config, workdir, data=(images, labels))."""

import numpy as np
import pytest
from toy_run import MODEL, ToyData, ToyModel, toy_config

import scanmax.train
from scanmax.errors import UserError
from scanmax.train.workdir import read_config


def test_arrays_of_a_notebook_train(tmp_path):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 60)
    images = (rng.integers(0, 50, (60, 4, 4)) + 80 * labels[:, None, None]).astype(np.uint8)
    config = toy_config(duration="4 steps", eval_every="")
    held_out = scanmax.train.train(
        config, tmp_path, data=(images, labels), model=ToyModel(num_classes=3)
    )
    assert 0 <= held_out["accuracy"] <= 1
    assert read_config(tmp_path)["data"]["name"] == "arrays"
    # The caller's own is not written into.
    assert config.data.name == "digits"


def test_one_class_and_two_sources_are_told_in_a_line(tmp_path):
    data = (np.zeros((10, 4, 4), np.uint8), np.zeros(10, int))
    with pytest.raises(UserError, match=r"holds one class only \('0'\)"):
        scanmax.train.train(toy_config(), tmp_path, data=data, model=MODEL)
    with pytest.raises(UserError, match="data= or pipeline=, not both"):
        scanmax.train.train(toy_config(), tmp_path, data=data, pipeline=ToyData())
