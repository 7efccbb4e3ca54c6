"""What a run writes while it goes: rows, a bar on a terminal, plain lines elsewhere."""

import io
import json

from scanmax.train.log import Log
from scanmax.train.loggers import TensorBoard


class Terminal(io.StringIO):
    def isatty(self):
        return True


def write(tmp_path, stream, start=0, steps=(1, 2, 3)):
    log = Log(tmp_path, start=start, total=3, stream=stream, loggers=[TensorBoard()])
    for step in steps:
        log.progress(step)
        log.write(step, "train", {"loss": 1 / step, "examples_per_second": 100.0})
    log.write(steps[-1], "eval", {"loss": 0.5, "accuracy": 0.25})
    log.close()
    return stream.getvalue()


def test_a_terminal_gets_a_bar_and_everything_else_gets_lines(tmp_path):
    (tmp_path / "a").mkdir()
    bar = write(tmp_path / "a", Terminal())
    assert "3/3" in bar
    assert "loss=0.333" in bar
    assert "ex/s=100" in bar
    assert "eval   loss 0.5  accuracy 0.25" in bar
    (tmp_path / "b").mkdir()
    lines = write(tmp_path / "b", io.StringIO()).splitlines()
    assert lines[0].startswith("step 1/3  train  loss 1  examples_per_second 100  eta 0:")
    assert lines[-1] == "step 3/3  eval   loss 0.5  accuracy 0.25"
    assert list((tmp_path / "b" / "tensorboard").iterdir())


def test_rows_beyond_the_resumed_step_and_half_rows_are_dropped(tmp_path):
    write(tmp_path, io.StringIO())
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text() + '{"step": 3, "spl')
    write(tmp_path, io.StringIO(), start=2, steps=(3,))
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    found = [(row["step"], row["split"]) for row in rows]
    assert found == [(1, "train"), (2, "train"), (3, "train"), (3, "eval")]
