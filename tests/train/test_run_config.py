"""Configs from files and flags: what is read, and one line for every mistake."""

import dataclasses
import json
import math
import pathlib
import re

import pytest
from absl import flags

from scanmax import cli
from scanmax.errors import UserError
from scanmax.train.config import (
    CheckpointConfig,
    Config,
    best_mode,
    changed_fields,
    check_config,
    may_change,
    resolve_steps,
)
from scanmax.train.mixing import MIXES
from scanmax.train.plugs import make
from scanmax.train.terms import TERMS

FILE = """
from scanmax.train.config import Config, ModelConfig
def get_config(arg=""):
    return Config(model=ModelConfig(name=arg or "deit_tiny", kwargs={"depth": 2}))
"""


@pytest.fixture
def file(tmp_path: pathlib.Path) -> str:
    path = tmp_path / "experiment.py"
    path.write_text(FILE)
    return str(path)


def parse(*argv: str) -> Config:
    def define(values: flags.FlagValues) -> None:
        flags.DEFINE_string("workdir", None, "", flag_values=values)

    return cli.parse_flags(argv, define=define)[0]


def test_help_shows_what_the_overrides_beside_it_give(file, capsys):
    with pytest.raises(cli.Done):
        parse(f"--config={file}", "--help_config", "--config.optim.lr=0.25")
    assert "--config.optim.lr=0.25\n" in capsys.readouterr().out
    # One that is wrong is told below what there is.
    with pytest.raises(UserError, match="did you mean 'lr'"):
        parse(f"--config={file}", "--config.optim.lrr=0.25", "--help_config")
    assert "--config.optim.lr=0.0" in capsys.readouterr().out


def test_overrides_reach_every_kind_of_field(file):
    config = parse(
        f"--config={file}:vit",
        "--config.optim.lr=3e-4",
        "--config.batch_size",
        "64",
        "--config.optim.nesterov",
        "--config.model.kwargs.mixer=('ssd', 'attention')",
        "--config.model.kwargs.depth=3",
        "--config.model.kwargs.norm=rms",
        "--config.objective.kwargs={'dim': 8, 'mixer': 'ssd'}",
        "--config.objective.terms=(('kd', {'weight': 0.5}), 'hard')",
        "--config.data.augment.crop_area=(0.2, 1.0)",
        "--config.optim.lr_multipliers=(('head', 10.0),)",
        "--config.duration=3 epochs",
        "--workdir=x",
    )
    assert config.model.name == "vit"
    assert config.optim.lr == 3e-4
    assert config.batch_size == 64
    assert config.optim.nesterov is True
    assert config.model.kwargs == {"mixer": ("ssd", "attention"), "depth": 3, "norm": "rms"}
    assert config.objective.kwargs == {"dim": 8, "mixer": "ssd"}
    assert config.objective.terms == (("kd", {"weight": 0.5}), "hard")
    assert config.data.augment.crop_area == (0.2, 1.0)
    assert config.optim.lr_multipliers == (("head", 10.0),)
    assert config.duration == "3 epochs"
    assert json.loads(json.dumps(cli.to_dict(config)))["optim"]["lr"] == 3e-4


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("--config.optmi.lr=1", "did you mean 'optim'"),
        ("--config.optim.lrr=1", "config.optim has no field 'lrr'"),
        ("--config.optim.lr=fast", "could not convert string to float"),
        ("--config.batch_size=3.5", "batch_size"),
        ("--config.optim.lr.x=1", "is a value"),
        ("--config.model.kwargs=3", "takes a dict"),
        ("--wrokdir=x", "did you mean 'workdir'"),
        ("train", "unexpected argument 'train'"),
    ],
)
def test_mistakes_name_the_field_and_what_resembles_it(file, argument, expected):
    with pytest.raises(UserError, match=expected) as caught:
        parse(f"--config={file}", argument)
    assert "\n" not in str(caught.value)


def test_mistakes_in_and_around_the_file(tmp_path, file):
    with pytest.raises(UserError, match=r"experiment\.py'"):
        parse(f"--config={file.replace('experiment', 'experimant')}")
    with pytest.raises(UserError, match="--config=NAME or FILE is required"):
        parse()
    broken = tmp_path / "broken.py"
    broken.write_text(FILE.replace("name=", "nmae="))
    with pytest.raises(UserError, match=r"broken.py:4: TypeError: .*nmae"):
        parse(f"--config={broken}")
    broken.write_text(FILE.replace("model=", "batch_size='8', model="))
    with pytest.raises(UserError, match=r"config.batch_size must be int, not str '8'"):
        parse(f"--config={broken}")
    broken.write_text("x = 1")
    with pytest.raises(UserError, match="has no get_config"):
        parse(f"--config={broken}")


def test_durations():
    known = {"batch_size": 100, "num_examples": 1050}
    assert resolve_steps("500", **known) == 500
    assert resolve_steps("500 steps", **known) == 500
    assert resolve_steps("1 step", **known) == 1
    assert resolve_steps("2 epochs", **known) == 21
    assert resolve_steps("0.5epochs", **known) == 5
    assert resolve_steps("1e4 examples", **known) == 100
    assert resolve_steps("5%", **known, total_steps=400) == 20
    assert resolve_steps("0.01 percent", **known, total_steps=400) == 1
    assert resolve_steps("", **known) == 0
    assert resolve_steps("0 steps", **known) == 0
    for wrong in ("ten steps", "5 parsecs", "5%", "1.2.3 steps", "-3", "nan", "3e9", "1e400"):
        with pytest.raises(UserError, match="duration"):
            resolve_steps(wrong, **known)
    with pytest.raises(UserError, match="more than the whole run"):
        resolve_steps("101%", **known, total_steps=400)


def test_durations_are_exact():
    """Every whole number of percent of 100 steps, and of examples of any batch, is that many."""
    for percent in range(101):
        steps = resolve_steps(f"{percent}%", batch_size=1, num_examples=1, total_steps=100)
        assert steps == percent
    for batch_size in range(1, 200):
        known = {"batch_size": batch_size, "num_examples": 3 * batch_size}
        assert resolve_steps(f"{2 * batch_size} examples", **known) == 2
        assert resolve_steps("2 epochs", **known) == 6
    assert resolve_steps("0.29 epochs", batch_size=1, num_examples=100) == 29


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("optim.clip_norm=-1", "config.optim.clip_norm=-1.0 must be at least 0"),
        ("optim.lr=-1", "must be at least 0"),
        ("optim.lr=nan", "config.optim.lr=nan holds NaN"),
        ("optim.lr=inf", "config.optim.lr=inf must be finite"),
        ("optim.b2=2", "must be in [0, 1)"),
        ("optim.eps=-1", "must be at least 0"),
        ("optim.accumulate=0", "must be at least 1"),
        ("optim.nonfinite=stopp", "did you mean 'stop'"),
        ("optim.lr_multipliers=(('head', -1.0),)", "each number of config.optim.lr_multipliers"),
        ("optim.lr_multipliers=(('head', 'x'),)", "must be tuple[tuple[str, float], ...]"),
        ("optim.lr_multipliers=('head', 2.0)", "must be tuple[tuple[str, float], ...]"),
        ("optim.freeze=(3,)", "must be tuple[str, ...]"),
        ("sharding.rules=(('mlp',),)", "must be tuple[tuple[str, str], ...]"),
        ("sharding.fsdp=-2", "must be at least -1"),
        ("objective.label_smoothing=2", "must be in [0, 1)"),
        ("schedule.final=5", "must be in [0, 1]"),
        ("ema.decay=1", "must be in [0, 1)"),
        ("checkpoint.keep_best=-1", "must be at least 0"),
        ("checkpoint.mode=least", "config.checkpoint.mode='least'"),
        ("model.dtype=float23", "did you mean 'float32'"),
        ("model.num_classes=-1", "must be at least 0"),
        ("data.augment.flip=2", "must be in [0, 1]"),
        ("data.augment.crop_area=(2.0,3.0)", "must be in (0, 1]"),
        ("data.augment.crop_area=(0.5,0.2)", "two numbers, the smaller first"),
        ("data.augment.crop_area=(0.5,)", "two numbers, the smaller first"),
        ("data.augment.crop_aspect=()", "two numbers, the smaller first"),
        ("data.augment.crop_area=('a','b')", "must be tuple[float, ...]"),
        ("data.std=(0.0,)", "must be above 0"),
        ("data.threads=0", "must be at least 1"),
        ("seed=-1", "must be in [0, 4"),
        ("batch_size=0", "config.batch_size=0 must be at least 1"),
        ("eval_batch_size=-1", "config.eval_batch_size=-1"),
        ("prefetch=0", "config.prefetch=0"),
    ],
)
def test_values_that_no_run_can_have_are_refused_as_flags(file, argument, expected):
    with pytest.raises(UserError) as caught:
        parse(f"--config={file}", f"--config.{argument}")
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_misspelt_attribute_of_a_config_file_is_refused(tmp_path):
    path = tmp_path / "experiment.py"
    for line, expected in (
        ("config.bach_size = 3", "config has no field 'bach_size'; did you mean 'batch_size'"),
        ("config.optim.clip = 3", "config.optim has no field 'clip'; did you mean 'clip_norm'"),
        ("config.optim = config.model", "config.optim must be OptimConfig, not ModelConfig"),
        ("config.model.kwargs = {'dim': float('nan')}", "holds NaN"),
        ("config.model.kwargs = {3: 4}", "config.model.kwargs must be dict"),
        ("config.optim.freeze = 'head'", "config.optim.freeze must be tuple"),
    ):
        path.write_text(
            "from scanmax.train.config import Config\n"
            f"def get_config(arg=''):\n    config = Config()\n    {line}\n    return config\n"
        )
        with pytest.raises(UserError) as caught:
            parse(f"--config={path}")
        assert expected in str(caught.value)
    # Python code that makes a config meets the same check where the run is built.
    config = Config()
    config.bach_size = 3
    with pytest.raises(UserError, match="bach_size"):
        check_config(config)


@pytest.mark.parametrize(
    ("registry", "name", "options", "expected"),
    [
        (TERMS, "kd", {"temperature": 0.0}, "temperature=0.0 must be above 0"),
        (TERMS, "dkd", {"beta": -1}, "beta=-1 must be at least 0"),
        (TERMS, "hard", {"teacher": -1}, "teacher=-1 must be at least 0"),
        (MIXES, "mixup", {"alpha": math.nan}, "alpha=nan must be above 0"),
        (MIXES, "mixup_cutmix", {"switch": 2}, "switch=2 must be in [0, 1]"),
    ],
)
def test_options_of_plugs_have_ranges_beside_their_types(registry, name, options, expected):
    own = {} if registry is TERMS else {"classes": 4}
    with pytest.raises(UserError) as caught:
        make(registry, name, options, "config.plug", **own)
    assert expected in str(caught.value)
    assert make(TERMS, "kd", {"temperature": 2}, "config.plug").temperature == 2


def test_impossible_combinations():
    config = Config(batch_size=10)
    config.optim.accumulate = 3
    with pytest.raises(UserError, match="not divisible"):
        check_config(config)


def test_which_fields_may_change_in_a_workdir():
    old = cli.to_dict(Config())
    new = Config(duration="60 epochs", log_every="7")
    new.sharding.preset = "fsdp"
    new.data.workers = 3
    # The advice to lower the rate can be followed where the run stands.
    new.optim.lr = 1e-4
    changed = changed_fields(json.loads(json.dumps(old)), cli.to_dict(new))
    assert set(changed) == {
        "duration", "log_every", "sharding.preset", "data.workers", "optim.lr"
    }  # fmt: skip
    assert all(map(may_change, changed))
    new.optim.weight_decay = 5.0
    new.model.kwargs = {"depth": 3}
    changed = changed_fields(old, cli.to_dict(new))
    refused = [told for path, told in changed.items() if not may_change(path)]
    assert refused == ["model.kwargs.depth: None -> 3", "optim.weight_decay: 0.0 -> 5.0"]
    # A field that a newer version has brought had its default before.
    del old["optim"]["nesterov"]
    assert changed_fields(old, cli.to_dict(Config())) == {}


def test_the_metric_says_which_way_is_better():
    for metric, mode in {"loss": "min", "accuracy": "max", "bits_per_byte": "min"}.items():
        assert best_mode(CheckpointConfig(metric=metric)) == mode
        assert best_mode(CheckpointConfig(metric=metric, mode=mode)) == mode
        wrong = {"min": "max", "max": "min"}[mode]
        with pytest.raises(UserError, match=f"checkpoint.mode='{wrong}': the best '{metric}'"):
            best_mode(CheckpointConfig(metric=metric, mode=wrong))
    assert best_mode(CheckpointConfig(metric="height", mode="max")) == "max"
    with pytest.raises(UserError, match="say 'max' or 'min'"):
        best_mode(CheckpointConfig(metric="height"))


def test_every_field_is_documented_and_overridable():
    """config_flags reads annotations, so none may be a string; no field goes unexplained, and no
    number without a range.
    """
    kinds = [Config]
    for kind in kinds:
        for field in dataclasses.fields(kind):
            here = f"{kind.__name__}.{field.name}"
            assert not isinstance(field.type, str)
            if dataclasses.is_dataclass(field.type):
                kinds.append(field.type)
                continue
            assert f"{field.name}:" in kind.__doc__, here
            if re.search(r"\b(int|float)\b", str(field.type)):
                assert "range" in field.metadata, here
    assert len(kinds) > 8
