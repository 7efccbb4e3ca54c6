"""Where parameters lie, per preset, is written down: a changed layout is a changed line."""

import difflib

from scanmax.train.sharding import PRESETS
from tests.golden import make_sharding


def test_every_preset_has_a_file():
    assert {path.stem for path in make_sharding.FOLDER.glob("*.txt")} == set(PRESETS)


def test_parameters_lie_as_written():
    # One test, so that one process alone traces all models.
    for preset, found in make_sharding.describe().items():
        written = (make_sharding.FOLDER / f"{preset}.txt").read_text()
        change = difflib.unified_diff(
            written.splitlines(), found.splitlines(), "written", "found", "", "", 0, ""
        )
        assert written == found, (
            f"layout of {preset} changed; if meant: python tests/golden/make_sharding.py\n"
            + "\n".join(change)
        )
