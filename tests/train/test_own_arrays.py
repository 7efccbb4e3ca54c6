"""A notebook's arrays: train(config, workdir, data=(images, labels))."""

import jax
import numpy as np
import pytest
from toy_run import MODEL, ToyData, ToyModel, toy_config

import scanmax.train
from scanmax.data.splitting import stratified
from scanmax.errors import UserError
from scanmax.train.inference import load_for_inference
from scanmax.train.record import read_record
from scanmax.train.workdir import read_config


def held_out_of(labels):
    """As `data.kwargs` leaves it."""
    return stratified(labels, np.random.default_rng(0).random(len(labels)), 0.2)


def test_arrays_of_a_notebook_train(tmp_path):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 60)
    images = (rng.integers(0, 50, (60, 4, 4)) + 80 * labels[:, None, None]).astype(np.uint8)
    config = toy_config(duration="4 steps", eval_every="")
    config.log.report = True
    held_out = scanmax.train.train(
        config, tmp_path, data=(images, labels), model=ToyModel(num_classes=3)
    )
    assert 0 <= held_out["accuracy"] <= 1
    # As the command leaves it.
    page, record = (tmp_path / "report.html").read_text(), read_record(tmp_path)
    assert f"parameters</span><b>{record['parameters']:,}" in page
    assert jax.__version__ in page
    # A checkpoint knows all that lies between an image and what the run said of it.
    trained = load_for_inference(tmp_path, model=ToyModel(num_classes=3))
    kept = np.load(tmp_path / "predictions.npz")
    shown = [images[index] for index in range(60) if held_out_of(labels)[index]]
    said = trained.predict(shown, batch_size=8)
    np.testing.assert_allclose(
        [each.probabilities for each in said], kept["probabilities"], rtol=1e-4, atol=1e-6
    )
    assert [each.label for each in said] == kept["predictions"].tolist()
    assert trained.data["preprocessing"] == {
        "size": [4, 4],
        "channels": 1,
        "resize": "bicubic",
        "crop": 1.0,
        "range": [0.0, 1.0],
        "mean": [0.5],
        "std": [0.5],
    }
    assert record["data"]["preprocessing"] == trained.data["preprocessing"]
    assert "<td>resize</td><td>bicubic</td>" in page
    assert read_config(tmp_path)["data"]["name"] == "arrays"
    # The caller's own is not written into.
    assert config.data.name == "digits"


def test_one_class_and_two_sources_are_told_in_a_line(tmp_path):
    data = (np.zeros((10, 4, 4), np.uint8), np.zeros(10, int))
    with pytest.raises(UserError, match=r"holds one class only \('0'\)"):
        scanmax.train.train(toy_config(), tmp_path, data=data, model=MODEL)
    with pytest.raises(UserError, match="data= or pipeline=, not both"):
        scanmax.train.train(toy_config(), tmp_path, data=data, pipeline=ToyData())
