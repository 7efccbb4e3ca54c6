"""The table of families on digits: every family is in it, and a killed command goes on."""

import dataclasses
import json

import pytest

from benchmarks import __main__ as cli
from benchmarks import zoo_digits
from scanmax.configs import digits_zoo
from scanmax.errors import UserError
from scanmax.models import create_model
from scanmax.models.shrink import EXCEPTIONS, shrink

HOW = "run: python -m benchmarks zoo-digits --page"


def test_every_family_of_images_is_made_small_and_stands_on_the_page():
    families, results, page = zoo_digits.smallest(), zoo_digits.load(), zoo_digits.PAGE.read_text()
    assert set(results) == set(families), HOW
    for family, name in families.items():
        assert f"| {family} | `{name}` |" in page, HOW
        assert results[family]["recipe"] == zoo_digits.recipe(name), f"{family} has changed; {HOW}"
        # Traced in training, on images of its size.
        counted = zoo_digits.count(name)
        assert results[family]["params"] == counted, f"{family} has {counted:,}; {HOW}"
        assert counted < 4_000_000, f"{family} is not small"


def test_the_page_is_what_the_results_say():
    assert zoo_digits.PAGE.read_text() == zoo_digits.page(
        zoo_digits.smallest(), zoo_digits.load()
    ), HOW
    assert set(EXCEPTIONS) <= set(zoo_digits.smallest())


def test_the_rule():
    fields, size = shrink("pvt_v2_b5")
    assert size == 32
    assert fields["dims"] == (16, 32, 80, 128)
    assert fields["depths"] == (2, 2, 2, 2)
    assert "heads" not in fields, "they divide the widths as they did"
    fields, size = shrink("vit_base_patch16_224")
    assert (size, fields["img_size"], fields["patch_size"], fields["dim"]) == (16, 16, 4, 48)
    assert shrink("resnext101_32x8d").fields["groups"] == 8, "as its widths, by 4"
    # Eight heads of a width that is not theirs any more are as many as divide it.
    model = create_model("coc_tiny", **shrink("coc_tiny").fields)
    assert all(dim % heads == 0 for dim, heads in zip(model.dims, model.heads))
    assert model.layer_scale == 1.0
    with pytest.raises(UserError, match="lm_tiny reads tokens"):
        shrink("lm_tiny")


@pytest.fixture
def table(tmp_path, monkeypatch):
    """Two families, a file and a page of our own, and runs that end at once; yields their seeds."""
    made = []

    def train_once(config, built):
        made.append((config.model.name, config.seed, config.duration))
        if len(made) == 3:
            raise KeyboardInterrupt
        return {"accuracy": 0.9 + config.seed / 100, "seconds": 1.0, "processor_seconds": 2.0}

    families = {"convmixer": "convmixer_768_32", "vit": "deit_tiny_patch16_224"}
    monkeypatch.setattr(zoo_digits, "smallest", lambda: families)
    monkeypatch.setattr(zoo_digits, "RESULTS", tmp_path / "zoo.json")
    monkeypatch.setattr(zoo_digits, "PAGE", tmp_path / "zoo.md")
    monkeypatch.setattr(zoo_digits, "count", lambda name: 12345)
    monkeypatch.setattr(zoo_digits, "train_once", train_once)
    return made


def test_a_killed_command_goes_on_where_it_was(table):
    with pytest.raises(KeyboardInterrupt):
        cli.main(["zoo-digits", "--seeds=0,1"])
    page = zoo_digits.PAGE.read_text()
    assert "| 90.5 % (90.0 to 91.0) | 2 | 2 |" in page
    assert "| vit | `deit_tiny_patch16_224` | 5,717,416 | 12,345 | 16 | not measured yet |" in page
    assert "1 of 2 families are measured so far" in page
    table.append("the third has been made")
    assert cli.main(["zoo-digits", "--seeds=0,1"]) == 0
    assert [run[:2] for run in table[4:]] == [
        ("deit_tiny_patch16_224", 0),
        ("deit_tiny_patch16_224", 1),
    ]
    assert "2 of 2 families are measured so far" in zoo_digits.PAGE.read_text()
    assert cli.main(["zoo-digits", "--seeds=0,1"]) == 0
    assert len(table) == 6, "all was there"
    assert cli.main(["zoo-digits", "vit", "--seeds=1", "--again"]) == 0
    assert [run[:2] for run in table[6:]] == [("deit_tiny_patch16_224", 1)]


def test_figures_of_another_recipe_are_made_again(table, monkeypatch):
    assert cli.main(["zoo-digits", "vit", "--seeds=0"]) == 0
    longer = dataclasses.replace(digits_zoo.get_config(), duration="31 epochs")
    monkeypatch.setattr(digits_zoo, "get_config", lambda name="": longer)
    assert cli.main(["zoo-digits", "--page"]) == 0
    assert json.loads(zoo_digits.RESULTS.read_text())["vit"]["runs"] == {}
    assert "0 of 2 families are measured so far" in zoo_digits.PAGE.read_text()


def test_a_quick_run_keeps_nothing_and_a_signal_ends_the_command(table, monkeypatch, capsys):
    assert cli.main(["zoo-digits", "vit", "--seeds=3", "--quick"]) == 0
    assert table == [("deit_tiny_patch16_224", 3, "2 steps")]
    assert not zoo_digits.RESULTS.exists()
    monkeypatch.setattr(zoo_digits, "train_once", lambda config, built: None)
    assert cli.main(["zoo-digits", "--seeds=0"]) == 1
    assert "the same command goes on" in capsys.readouterr().err


def test_the_command_line(table, capsys):
    assert cli.main(["zoo-digits", "vti"]) == 2
    assert "no family of image models 'vti'; did you mean 'vit'" in capsys.readouterr().err
    assert cli.main(["zoo-digits", "vit", "--seeds=2"]) == 0
    capsys.readouterr()
    assert cli.main(["zoo-digits", "--list"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert listed[0].endswith("not measured")
    assert listed[1].endswith("seeds 2")
    with pytest.raises(SystemExit):
        cli.main(["zoo-digits", "--seeds=a"])
