"""`python -m scanmax.data show`: the rows that a run learns, as a picture and in a terminal."""

import re

import numpy as np
import pytest
from PIL import Image

from scanmax.data import AugmentConfig, DataConfig, load, show
from scanmax.data.__main__ import main
from scanmax.errors import UserError

EXPERIMENT = """
from scanmax.data.config import AugmentConfig, DataConfig
from scanmax.train.config import Config

def get_config(arg=""):
    return Config(data=DataConfig(name="synthetic", image_size=12), batch_size=64)
"""


@pytest.fixture
def typed(tmp_path, monkeypatch, capsys):
    """What `show` prints in a folder with an experiment."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiment.py").write_text(EXPERIMENT)

    def call(*words):
        assert main(["show", "--config=experiment.py", *words]) == 0
        return capsys.readouterr().out

    return call


def test_rows_are_those_of_the_whole_batch():
    augment = AugmentConfig(color_jitter=(0.4, 0.4, 0.4), mixup=0.8, cutmix=1.0, flip=0.5)
    data = DataConfig(name="synthetic", augment=augment)
    whole = next(load(data, seed=3, batch_size=24).train_iterator(2))
    shown = show.first_rows(data, seed=3, batch_size=24, step=2, rows=5)
    assert shown.rows == 5
    for name, values in shown.batch.items():
        np.testing.assert_array_equal(values, whole[name][:5])
    assert re.fullmatch(r"\d \d\.\d\d, \d \d\.\d\d|\d 1\.00", shown.title(0))


def test_a_picture_of_a_batch(typed, tmp_path):
    told = typed("--rows=10", "--out=batch.png", "--config.data.augment.auto_augment=ta_wide")
    assert told.splitlines() == [
        "batch 0 of 'synthetic': 10 of 64 rows, image [12, 12, 3], label []",
        "drawn in batch.png",
    ]
    with Image.open(tmp_path / "batch.png") as picture:
        drawn = np.asarray(picture.convert("RGB"))
    # Two lines of cells under titles, eight in the first.
    assert drawn.shape[0] * 3 < drawn.shape[1]
    left = drawn[drawn.shape[0] // 2 :]
    assert (left[:, drawn.shape[1] // 3 :] == 255).all()
    assert not (left[:, : drawn.shape[1] // 4] == 255).all()


def test_a_terminal_gets_half_blocks(typed, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "60")
    lines = typed("--rows=2").splitlines()
    # Two pixels of a character, in colour, and the titles above.
    blocks = [line for line in lines if "\u2580" in line]
    assert len(blocks) == show.TILE / 2
    assert all(line.count("\u2580") == 2 * show.TILE for line in blocks)
    shown = show.first_rows(
        DataConfig(name="synthetic", image_size=12), seed=0, batch_size=64, step=0, rows=2
    )
    pixel = next(shown.views(0))[0, 0]
    assert blocks[0].startswith("\x1b[38;2;{};{};{};48;2;".format(*pixel))


def test_views_stand_side_by_side(data_dir, tmp_path):
    augment = AugmentConfig(views=2, local_views=3, local_size=4)
    data = DataConfig(name="digits", data_dir=data_dir, augment=augment)
    shown = show.first_rows(data, seed=0, batch_size=8, step=0, rows=3)
    assert [view.shape for view in shown.views(1)] == [(8, 8, 1)] * 2 + [(4, 4, 1)] * 3
    show.draw(shown, str(tmp_path / "views.png"))
    with Image.open(tmp_path / "views.png") as picture:
        assert picture.width > picture.height


def test_text_is_shown_by_document(tmp_path, typed, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "pages.jsonl").write_text('{"text": "$One page$"}\n{"text": "Another"}\n' * 40)
    source = ("--config.data.name=text", "--config.data.data_dir=pages.jsonl")
    told = typed(*source, "--config.data.sequence_length=40", "--rows=2", "--out=text.png")
    assert "tokens [41], segment_ids [40]" in told
    assert re.search(r"\[\d\] '\$One page\$'\n  \[\d\] 'Another'", told)
    assert (tmp_path / "text.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("name", "told"), [("mqar", r"targets \. \."), ("adding", r"target  \d\.\d+")]
)
def test_tasks_are_shown_in_numbers(typed, tmp_path, name, told):
    found = typed(f"--config.data.name={name}", "--config.data.sequence_length=48", "--out=t.png")
    assert re.search(told, found)
    assert (tmp_path / "t.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--out=batch.jpg"], "--out='batch.jpg' is not a .png"),
        (["--rows=0"], "rows"),
        (["--rowz=3"], "unknown flag --rowz; did you mean 'rows'"),
        (["--config.data.name=image_folder"], "reads config.data.data_dir: name a folder"),
    ],
)
def test_a_mistake_is_a_line(typed, words, told):
    with pytest.raises(UserError, match=told):
        typed(*words)
