"""A user's sweep: two settings in one command, into a bucket, and the table that comes of it."""

import json
import re

EXPERIMENT = """
from scanmax.data.config import DataConfig
from scanmax.train.config import Config, ModelConfig

def get_config(arg=""):
    kwargs = {"img_size": 4, "patch_size": 2, "dim": 16, "depth": 1, "heads": 2}
    data = {"examples": 64, "eval_examples": 16, "size": 4, "classes": 4, "channels": 1}
    return Config(
        model=ModelConfig(name="vit_tiny_patch16_224", kwargs=kwargs),
        data=DataConfig(name="synthetic", kwargs=data),
        batch_size=16,
        duration="20 steps",
        eval_every="",
    )
"""


def test_settings_become_a_table_in_a_bucket(type_in, tmp_path):
    (tmp_path / "experiment.py").write_text(EXPERIMENT)
    url = (tmp_path / "bucket" / "rates").as_uri()
    runs = ("--run=optim.lr=1e-6", "--run=optim.lr=1e-2")
    words = ("scanmax.train.sweep", "--config=experiment.py", f"--workdir={url}", *runs)
    status, told = type_in(*words, "--config.log.report=False")
    assert status == 0, told
    # What goes to stdout stands first.
    header, first, second, last = told.splitlines()[:4]
    assert header.split()[:4] == ["rank", "run", "seeds", "loss"]
    assert re.match(r" +1 +optim.lr=1e-2 +1 of 1 +\d", first)
    assert re.match(r" +2 +optim.lr=1e-6 +1 of 1 +\d", second)
    assert last == f"report       {url}/sweep.html"
    kept = tmp_path / "bucket" / "rates"
    assert json.loads((kept / "sweep.json").read_text())["ranking"] == [
        "optim.lr=1e-2",
        "optim.lr=1e-6",
    ]
    assert {path.name for path in kept.iterdir() if path.is_dir()} == {
        "optim.lr=1e-2",
        "optim.lr=1e-6",
    }
    assert (kept / "optim.lr=1e-2/seed_0/checkpoints/20").is_dir()
    assert "sweep.png" in {path.name for path in kept.iterdir()}
