"""Workdirs in buckets: fsspec's memory stands for one."""

import shutil

import fsspec.core
import numpy as np
import pytest
from toy_run import MODEL, ToyData, copy, rows, toy_config

from scanmax import cli
from scanmax.errors import UserError
from scanmax.train import remote
from scanmax.train.inference import read_run
from scanmax.train.loop import train
from scanmax.train.remote import Mirror, is_remote, local_of, mirrored
from scanmax.train.report import main as report
from scanmax.train.starting import run_of

URL = "memory://bucket/run"


def test_a_run_goes_on_in_a_bucket_and_is_read_from_there(bucket, undisturbed, tmp_path, capsys):
    left = copy(undisturbed, tmp_path, last=8)
    bucket.put(f"{left}/", "/bucket/run/", recursive=True)
    held_out = train(toy_config(), URL, pipeline=ToyData(), model=MODEL)
    assert held_out == undisturbed[1]
    assert "resuming at step 8" in capsys.readouterr().err
    names = {name.removeprefix("/bucket/run/") for name in bucket.find("/bucket/run")}
    assert {"config.json", "metrics.jsonl", "predictions.npz", "run.json"} <= names
    steps = {name.split("/")[1] for name in names if name.startswith("checkpoints/")}
    assert steps == {"8", "10"}
    assert not [name for name in names if ".lock" in name or "tmp" in name]
    # Another machine has none of it but the bucket.
    shutil.rmtree(tmp_path / "cache")
    assert read_run(URL).step == 10
    workdir, step = run_of(f"{URL}/checkpoints/8")
    assert (workdir / "checkpoints" / step).is_dir()
    assert rows(workdir) == rows(undisturbed[0])
    assert cli.run_main(report, [URL]) == 0
    assert capsys.readouterr().out == f"{URL}/report.html\n"
    assert b"<h1>run</h1>" in bucket.cat("/bucket/run/report.html")


def test_a_folder_is_kept_like_the_bucket(bucket):
    with mirrored(URL) as folder:
        (folder / "a" / "b.tmp.orbax-checkpoint-tmp-3").mkdir(parents=True)
        for name in ("a/kept", "a/b.tmp.orbax-checkpoint-tmp-3/x", ".lock", "y.part"):
            (folder / name).write_text(name)
        with pytest.raises(UserError, match="in use by another run"), mirrored(URL):
            pass
    assert bucket.find("/bucket") == ["/bucket/run/a/kept"]
    with mirrored(URL) as folder:
        assert [path.name for path in folder.rglob("*") if path.is_file()] == ["kept"]
        (folder / "a" / "kept").unlink()
        (folder / "new").write_text("1")
    assert bucket.find("/bucket") == ["/bucket/run/new"]


def test_what_a_checkpoint_is_told_by_comes_last(bucket, monkeypatch, tmp_path):
    order = []
    mirror = Mirror(URL, tmp_path / "run")
    for name in ("8/meta/metadata", "8/state/a", "9/state/b"):
        (mirror.local / name).parent.mkdir(parents=True, exist_ok=True)
        (mirror.local / name).write_text(name)
    monkeypatch.setattr(mirror._files, "put_file", lambda source, place: order.append(place))
    mirror.push()
    assert [place.removeprefix("/bucket/run/") for place in order] == [
        "8/state/a",
        "9/state/b",
        "8/meta/metadata",
    ]
    mirror.push()
    assert len(order) == 3


def work(url=URL, until=lambda: True):
    """A run of one file."""
    with mirrored(url) as folder:
        (folder / "kept").write_text("1")
        while not until():
            pass


def test_a_bucket_that_takes_nothing_costs_nothing(bucket, monkeypatch, capsys):
    def full(*_, **__):
        raise OSError("quota exceeded")

    monkeypatch.setattr(type(bucket), "put_file", full)
    monkeypatch.setattr(remote, "EVERY", 0.01)
    with pytest.raises(UserError, match="quota exceeded; all of the run lies in ") as told:
        work(until=lambda: "warning" in capsys.readouterr().err)
    kept = str(told.value).rpartition(" ")[2]
    assert np.loadtxt(f"{kept}/kept") == 1
    # What ended the run is told first.
    with pytest.raises(ZeroDivisionError):
        work(until=lambda: 1 / 0)
    assert "warning: cannot write memory://bucket/run: quota" in capsys.readouterr().err


def test_mistakes_are_one_line(bucket, monkeypatch):
    with pytest.raises(UserError, match=r"nowhere://x cannot be opened: Protocol"):
        work("nowhere://x")

    def missing(url):
        raise ImportError("Please install it")

    monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
    for protocol, extra in (("gs", "gcs"), ("s3", "s3")):
        with pytest.raises(UserError, match=rf'pip install "scanmax\[{extra}\]"'):
            work(f"{protocol}://bucket/run")


def test_a_path_that_lost_a_slash_is_the_same_place():
    assert is_remote("gs:/bucket/run")
    assert local_of("gs:/bucket/run") == local_of("gs://bucket/run/")
    assert local_of("gs://bucket/run").name == "run"


def test_a_place_on_this_machine_is_where_it_says(bucket, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path / "..")
    for url in ((tmp_path / "share/run").as_uri(), f"file:{tmp_path / 'share/run'}"):
        work(url)
        assert (tmp_path / "share/run/kept").read_text() == "1"
        (tmp_path / "share/run/kept").unlink()
