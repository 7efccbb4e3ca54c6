"""Where parameters lie, per preset, is written down: a changed layout is a changed line."""

import difflib

import pytest

from scanmax.train.sharding import PRESETS
from tests.golden import make_sharding


@pytest.fixture(scope="module")
def texts():
    return make_sharding.describe()


def test_every_preset_has_a_file():
    assert {path.stem for path in make_sharding.FOLDER.glob("*.txt")} == set(PRESETS)


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_parameters_lie_as_written(preset, texts):
    written = (make_sharding.FOLDER / f"{preset}.txt").read_text()
    change = difflib.unified_diff(
        written.splitlines(), texts[preset].splitlines(), "written", "found", "", "", 0, ""
    )
    assert written == texts[preset], (
        "layout changed; if meant: python tests/golden/make_sharding.py\n" + "\n".join(change)
    )
