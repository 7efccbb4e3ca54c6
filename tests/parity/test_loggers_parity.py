"""The loggers against the services' own packages: what they read back is what a run told."""

import json

import numpy as np
import pytest

from scanmax.train.loggers import make_loggers

CONFIG = {"optim": {"lr": 0.5, "freeze": []}, "seed": 3}


def tell(logger, workdir):
    """Two parts of a run, the second from step 2 on."""
    pixels = np.zeros((60, 50, 3), np.uint8)
    for start, steps in ((0, (1, 2, 3)), (2, (3, 4))):
        logger.open(workdir, CONFIG, start)
        for step in steps:
            logger.write(step, "train", {"loss": 1 / step})
        logger.write(steps[-1], "eval", {"accuracy": 0.25})
        logger.image(steps[-1], "eval/examples", pixels)
        logger.text(steps[-1], "eval/sample", "a <b> & c")
        logger.close(failed=start > 0)


@pytest.mark.parity
def test_mlflow_reads_back_what_a_run_told(tmp_path, monkeypatch):
    # A folder needs no server, but a word that one knows of better.
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    from mlflow.tracking import MlflowClient

    place = (tmp_path / "mlruns").as_uri()
    (logger,) = make_loggers((("mlflow", {"tracking_uri": place, "tags": {"who": "me"}}),))
    tell(logger, tmp_path)
    client = MlflowClient(tracking_uri=place)
    experiment = client.get_experiment_by_name("scanmax")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FAILED"
    assert run.info.run_name == tmp_path.name
    assert run.data.params == {"optim.lr": "0.5", "optim.freeze": "[]", "seed": "3"}
    assert run.data.tags["who"] == "me"
    history = client.get_metric_history(run.info.run_id, "train/loss")
    assert [(row.step, row.value) for row in history] == [
        (1, 1.0), (2, 0.5), (3, 1 / 3), (3, 1 / 3), (4, 0.25),
    ]  # fmt: skip
    assert run.data.metrics["eval/accuracy"] == 0.25
    names = [entry.path for entry in client.list_artifacts(run.info.run_id, "eval")]
    assert sorted(names) == ["eval/examples.png", "eval/sample.txt"]


@pytest.mark.parity
def test_wandb_keeps_one_run_offline(tmp_path):
    options = {"mode": "offline", "project": "digits", "tags": ("a",)}
    (logger,) = make_loggers((("wandb", options),))
    tell(logger, tmp_path)
    known = json.loads((tmp_path / "loggers.json").read_text())["wandb"]
    folders = sorted((tmp_path / "wandb").glob("offline-run-*"))
    # Two parts of one run: `wandb sync` joins them by the id.
    assert [folder.name.rpartition("-")[2] for folder in folders] == [known, known]
    for folder in folders:
        (file,) = folder.glob("*.wandb")
        content = file.read_bytes()
        for word in (b"train/loss", b"eval/accuracy", b"optim", b"digits"):
            assert word in content, word
        assert list(folder.glob("files/media/images/eval/*.png"))
