"""The notebooks run top to bottom as they are committed."""

import os
import pathlib

import nbformat
import pytest
from nbclient import NotebookClient

NAMES = ["finetune.ipynb", "inference.ipynb", "mixers.ipynb", "ops.ipynb", "train.ipynb"]
NOTEBOOKS = sorted((pathlib.Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebook_runs_top_to_bottom(path, tmp_path):
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for cell in code:
        cell.outputs = []
    resources = {"metadata": {"path": str(tmp_path)}}
    # One device, as a reader has.
    flags = [flag for flag in os.environ["XLA_FLAGS"].split() if "device_count" not in flag]
    client = NotebookClient(notebook, timeout=600, kernel_name="python3", resources=resources)
    client.execute(env={**os.environ, "XLA_FLAGS": " ".join(flags)})
    assert any("image/png" in output.get("data", {}) for cell in code for output in cell.outputs)


def test_there_is_a_notebook():
    assert [path.name for path in NOTEBOOKS] == NAMES
