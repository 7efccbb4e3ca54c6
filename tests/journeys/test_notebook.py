"""A user's arrays, in a notebook: a run, its report, and what the model says of new ones."""

import os

import nbformat
from nbclient import NotebookClient

CELLS = (
    """
import numpy as np
import scanmax
from scanmax.train import train
from scanmax.train.config import Config, ModelConfig, OptimConfig

rng = np.random.default_rng(0)
labels = rng.integers(0, 2, 64)
images = (rng.integers(0, 60, (64, 8, 8)) + 120 * labels[:, None, None]).astype(np.uint8)
small = {"img_size": 8, "patch_size": 4, "dim": 16, "depth": 1, "heads": 2}
config = Config(
    model=ModelConfig(name="vit_tiny_patch16_224", kwargs=small),
    optim=OptimConfig(lr=1e-2),
    batch_size=16,
    duration="20 steps",
    eval_every="",
)
held_out = train(config, "runs/arrays", data=(images, labels))
""",
    """
trained = scanmax.load("runs/arrays")
dark, bright = trained.predict([np.full((9, 9), 30, np.uint8), np.full((20, 20), 150, np.uint8)])
print(scanmax.__file__, dark.name, bright.name)
""",
)


def test_arrays_in_a_notebook(installed, tmp_path):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    # One device, as a user has.
    flags = [flag for flag in os.environ["XLA_FLAGS"].split() if "device_count" not in flag]
    own = {"XLA_FLAGS": " ".join(flags), "PYTHONPATH": str(installed)}
    own["XDG_CACHE_HOME"] = str(tmp_path / ".cache")
    resources = {"metadata": {"path": str(tmp_path)}}
    client = NotebookClient(notebook, timeout=600, kernel_name="python3", resources=resources)
    client.execute(env={**os.environ, **own})
    said = "".join(output.get("text", "") for output in notebook.cells[1].outputs)
    assert said == f"{installed / 'scanmax' / '__init__.py'} 0 1\n"
    assert "train() in a notebook" in (tmp_path / "runs/arrays/report.html").read_text()
