"""A user's text: pages in a file, a run, its figures again, and a text that goes on."""

import json
import re

EXPERIMENT = """
from scanmax.configs.bytes_mamba2 import get_config as published

def get_config(arg=""):
    config = published()
    config.model.name, config.model.kwargs = "lm_tiny", {"dim": 32, "depth": 1, "heads": 2}
    config.data.name, config.data.data_dir, config.data.sequence_length = "text", "pages.jsonl", 32
    config.optim.lr = 1e-2
    config.duration, config.eval_every, config.log_every = "60 steps", "", "60 steps"
    return config
"""


def test_pages_train_a_model_that_goes_on(type_in, type_all, tmp_path, monkeypatch):
    # A fast processor compiles so small a step too soon for it to be kept.
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    (tmp_path / "experiment.py").write_text(EXPERIMENT)
    pages = [{"text": "abc" * (8 + number % 5)} for number in range(200)]
    (tmp_path / "pages.jsonl").write_text("\n".join(map(json.dumps, pages)))
    train = ("scanmax.train", "--config=experiment.py", "--workdir=run")
    status, told = type_in(*train, "--compile_cache=programs")
    assert status == 0, told
    assert [file.stem[:9] for file in tmp_path.glob("programs/*/jit_train*-cache")] == ["jit_train"]
    assert "180 training documents of " in told
    trained = re.search(r"bits_per_byte (\S+)  loss", told)[1]
    say = ("scanmax.train.generate", "run", "--temperature=0", "--max_new_tokens=9")
    evaluated, said, predicted, exported = type_all(
        ("scanmax.train.evaluate", "run", "--out=found.json"),
        (*say, "--prompt=abcabca"),
        ("scanmax.train.predict", "run", "pages.jsonl"),
        ("scanmax.train.export", "run", "--output=exported"),
    )
    assert evaluated[0] == 0, evaluated
    assert f"{json.loads((tmp_path / 'found.json').read_text())['bits_per_byte']:.4f}" == trained
    assert said == (0, "abcabca" + "bcabcabca\n")
    status, told = predicted
    assert (status, told.count("\n")) == (2, 1)
    assert "predict() is of classifiers of images; this run is 'language_model'" in told
    assert exported[0] == 0, exported
    told = json.loads((tmp_path / "exported/model.json").read_text())
    assert told["tokenizer"] == {"kind": "bytes", "ends": True}
    assert "<td>tokenizer: ends</td><td>True</td>" in (tmp_path / "run/report.html").read_text()
