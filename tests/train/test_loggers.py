"""Loggers: what a run tells them, one of one's own, one that fails, names that are wrong."""

import dataclasses
import json

import numpy as np
import pytest
from toy_run import MODEL, ToyData, toy_config

from scanmax.errors import UserError
from scanmax.train import loggers, loop
from scanmax.train.loggers import Logger, make_loggers
from scanmax.train.loggers.outcome import tiled

TOLD: list[tuple] = []


@dataclasses.dataclass
class Heard(Logger):
    """Keeps what it is told; fails at a step."""

    fails_at: int = 0

    def open(self, workdir, config, start):
        TOLD.append(("open", workdir.name, config["seed"], start))

    def write(self, step, split, metrics):
        if self.fails_at and step >= self.fails_at:
            raise ConnectionError("no route to the host")
        TOLD.append(("write", step, split, sorted(metrics)))

    def image(self, step, name, pixels):
        TOLD.append(("image", step, name, pixels.shape, pixels.dtype))

    def close(self, failed=False):
        TOLD.append(("close", failed))


NAME = f"{__name__}:Heard"


@pytest.fixture
def told():
    TOLD.clear()
    return TOLD


def train(workdir, *entries, duration="4 steps"):
    config = toy_config(duration=duration)
    config.log.to = entries
    loop.train(config, workdir, pipeline=ToyData(), model=MODEL)


def rows(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [(row["step"], row["split"]) for row in map(json.loads, lines)]


def events(workdir):
    """The summaries of TensorBoard's files: (step, tag, plugin or number)."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for path in sorted((workdir / "tensorboard").iterdir()):
        content = path.read_bytes()
        while content:
            size = int.from_bytes(content[:8], "little")
            event = Event.FromString(content[12 : 12 + size])
            found += [(event.step, value.tag, value) for value in event.summary.value]
            content = content[16 + size :]
    return found


def test_a_run_tells_numbers_pictures_and_its_config(tmp_path, told):
    train(tmp_path / "run", "tensorboard", NAME)
    assert told[0] == ("open", "run", 0, 0)
    assert told[-1] == ("close", False)
    assert [(step, split) for _, step, split, _ in told[1:-2]] == rows(tmp_path / "run")
    _, step, name, shape, dtype = told[-2]
    assert (step, name, dtype) == (4, "eval/examples", np.uint8)
    # 21 held-out examples in rows of eight, each 48 pixels and its frame.
    assert shape == (3 * 52, 8 * 52, 3)
    tags = {(step, tag): value for step, tag, value in events(tmp_path / "run")}
    assert {(2, "train/loss"), (4, "eval/accuracy")} <= set(tags)
    assert tags[4, "eval/examples"].image.width == 8 * 52
    assert '"lr": 0.01' in tags[0, "config/text_summary"].tensor.string_val[0].decode()
    # The next part of the run says from where it goes on.
    told.clear()
    train(tmp_path / "run", NAME, duration="6 steps")
    assert told[0] == ("open", "run", 0, 4)
    assert told[1][:3] == ("write", 5, "eval")


def test_a_logger_that_fails_is_told_once_and_left_out(tmp_path, told, capsys):
    train(tmp_path, (NAME, {"fails_at": 4}))
    assert rows(tmp_path) == [(2, "train"), (4, "train"), (4, "eval")]
    warned = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert warned == [
        "warning: Heard fails and is told no more, seen at step 4: no route to the host"
    ]
    assert told[-1][:3] == ("write", 2, "train")


def test_loggers_hear_that_an_error_ends_the_run(tmp_path, told):
    config = toy_config(duration="4 steps")
    config.log.to = (NAME,)
    with pytest.raises(UserError, match="loss is nan at step 3"):
        loop.train(config, tmp_path, pipeline=ToyData(poison=3), model=MODEL)
    assert told[-1] == ("close", True)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("tensorbord", r"unknown config.log.to='tensorbord'; did you mean 'tensorboard'\?"),
        (("wandb", {"projekt": "a"}), "config.log.to 'wandb' (has no option 'projekt'|needs)"),
        ("nowhere.mine:Slack", "config.log.to='nowhere.mine:Slack' cannot be imported"),
        ("json:dumps", "config.log.to='json:dumps' is no class over"),
        (("jsonl", {"path": "a"}), "config.log.to 'jsonl' has no options"),
        (("tensorboard", 3), "is no pair of a name and its options"),
    ],
)
def test_a_mistake_is_one_line_before_the_first_step(entry, message, tmp_path, monkeypatch):
    monkeypatch.setattr(loggers, "_EXTRAS", {})
    with pytest.raises(UserError, match=message):
        train(tmp_path, entry)
    assert not (tmp_path / "metrics.jsonl").exists()


def test_a_package_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr(loggers, "_EXTRAS", {"wandb": "not_a_package"})
    with pytest.raises(UserError, match=r"needs not_a_package: pip install 'scanmax\[wandb\]'"):
        make_loggers(("wandb",))


def test_examples_lie_in_rows_and_mistakes_are_framed():
    images = np.zeros((9, 60, 50, 3), np.uint8)
    picture = tiled(images, np.arange(9) == 1)
    assert picture.shape == (2 * 64, 8 * 54, 3)
    np.testing.assert_array_equal(picture[0, 0], (210, 210, 210))
    np.testing.assert_array_equal(picture[0, 54], (196, 32, 32))
    assert picture[2:62, 2:52].max() == 0
    # Places without an image are white.
    assert picture[64:, 54:].min() == 255
