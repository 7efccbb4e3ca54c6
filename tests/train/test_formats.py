"""Exports for other programs: each is run by its own, where its extra is installed."""

import json
import os
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

import scanmax
from scanmax.errors import UserError
from scanmax.train import formats
from scanmax.train.config import Config, ModelConfig
from scanmax.train.export import export
from scanmax.train.inference import Trained

# Packages of the extras, which warn of themselves.
pytestmark = pytest.mark.filterwarnings("ignore")
SMALL = {"img_size": 8, "patch_size": 4, "dim": 16, "depth": 1, "heads": 2}


@pytest.fixture(scope="module")
def trained():
    """A ViT as a run would leave it, none of whose parameters is 0."""
    model = scanmax.create_model("vit_tiny_patch16_224", num_classes=3, **SMALL)
    variables = nn.unbox(jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 3))))
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda leaf: leaf + rng.normal(0, 0.1, leaf.shape), variables)
    variables = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), variables)
    data = {
        "kind": "image",
        "input": {"shape": [8, 8, 3], "dtype": "float32"},
        "class_names": ["a", "b", "c"],
    }
    config = Config(model=ModelConfig(name="vit_tiny_patch16_224", kwargs=SMALL))
    return Trained(model, jax.device_get(variables), config, 10, data)


READERS = {
    "saved_model": """
import sys
sys.modules["jax"] = sys.modules["scanmax"] = None
import numpy as np, tensorflow as tf
model = tf.saved_model.load("saved_model")
for rows in (1, 5):
    images = np.load("images.npy")[:rows]
    found = model.signatures["serving_default"](images=tf.constant(images))["output"]
    np.testing.assert_array_equal(found, model(images)["output"])
    np.save(f"found_{rows}.npy", found)
""",
    "onnx": """
import numpy as np, onnxruntime
model = onnxruntime.InferenceSession("model.onnx")
np.save("found_5.npy", model.run(["output"], {"images": np.load("images.npy")})[0])
""",
}


@pytest.mark.parametrize("format", READERS)
def test_another_program_computes_the_logits(format, trained, tmp_path):
    pytest.importorskip(formats.NEEDS[format][0])
    rows = {"saved_model": 0, "onnx": 5}[format]
    export(trained, tmp_path, batch_size=rows, format=format)
    told = json.loads((tmp_path / "model.json").read_text())
    assert told["names"] == {"input": "images", "outputs": ["output"]}
    images = np.random.default_rng(1).normal(size=(5, 8, 8, 3)).astype(np.float32)
    np.save(tmp_path / "images.npy", images)
    command = [sys.executable, "-c", READERS[format]]
    hidden = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    subprocess.run(command, cwd=tmp_path, env=hidden, check=True)
    expected = trained.model.apply(trained.variables, images)
    for file in tmp_path.glob("found_*.npy"):
        found = np.load(file)
        np.testing.assert_allclose(found, expected[: len(found)], rtol=1e-4, atol=1e-5)
    assert (tmp_path / "found_5.npy").exists()


def test_what_onnx_has_no_word_for_is_one_line(trained, tmp_path):
    pytest.importorskip("jax2onnx")
    x = np.ones((2, 3), np.float32)
    forward = lambda x: jax.pure_callback(np.sin, x, x)  # noqa: E731
    with pytest.raises(UserError, match=r"cannot be written as ONNX: .*pure_callback"):
        formats.write_onnx(forward, tmp_path / "x.onnx", x, ("x", ["y"]))
    assert not list(tmp_path.iterdir())


def test_a_difference_is_refused():
    good, bad = np.array([1.0, -2.0]), np.array([1.0, -1.999])
    formats.check_close("it", [good + 1e-5], good)
    for wrong in (bad, np.array([1.0, np.nan])):
        with pytest.raises(
            UserError, match="it does not compute what JAX does: outputs of up to 2"
        ):
            formats.check_close("it", [wrong], good)


def test_a_missing_package_and_a_wrong_word_are_one_line(trained, tmp_path, monkeypatch):
    for format, (package, extra) in formats.NEEDS.items():
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(UserError, match=rf'{package}: pip install "scanmax\[{extra}\]"'):
            export(trained, tmp_path / "out", format=format)
    with pytest.raises(UserError, match="unknown --format=savedmodel; did you mean 'saved_model'"):
        export(trained, tmp_path / "out", format="savedmodel")
    with pytest.raises(UserError, match="onnx is of no platform"):
        export(trained, tmp_path / "out", format="onnx", platforms=("cpu",))
    assert not (tmp_path / "out").exists()


def test_weights_go_out_in_timms_names(trained, tmp_path):
    export(trained, tmp_path, format="weights", layout="timm")
    file = tmp_path / "weights.safetensors"
    tensors = load_file(file)
    qkv = trained.variables["params"]["block_00"]["mixer"]["qkv"]["kernel"].reshape(16, 48).T
    np.testing.assert_array_equal(tensors["blocks.0.attn.qkv.weight"], qkv)
    read = scanmax.load_weights(trained.model, file, (8, 8, 3))
    jax.tree.map(np.testing.assert_array_equal, nn.unbox(read), trained.variables)
    told = json.loads((tmp_path / "model.json").read_text())
    assert (told["layout"], told["class_names"]) == ("timm", ["a", "b", "c"])
    with pytest.raises(
        UserError, match="--layout=timm is of --format=weights, not of --format=onnx"
    ):
        export(trained, tmp_path, format="onnx", layout="timm")
    with pytest.raises(UserError, match="--batch_size=4 is of a forward pass"):
        export(trained, tmp_path, format="weights", batch_size=4)
    with pytest.raises(UserError, match=r"tim.*timm"):
        export(trained, tmp_path, format="weights", layout="tim")
