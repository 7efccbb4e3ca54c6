"""Configs from files and flags: what is read, and one line for every mistake."""

import dataclasses
import json
import pathlib

import pytest
from absl import flags

from scanmax import cli
from scanmax.errors import UserError
from scanmax.train import config as configs
from scanmax.train.config import Config, changed_fields, check_config, resolve_steps

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
    with pytest.raises(UserError, match="--config=FILE is required"):
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
    for wrong in ("ten steps", "5 parsecs", "5%", "1.2.3 steps", "-3"):
        with pytest.raises(UserError, match="duration"):
            resolve_steps(wrong, **known)


def test_impossible_values():
    for field, value in {
        "batch_size": 0,
        "eval_batch_size": -1,
        "prefetch": 0,
    }.items():
        with pytest.raises(UserError, match=f"config.{field}="):
            check_config(dataclasses.replace(Config(), **{field: value}))
    config = Config(batch_size=10)
    config.optim.accumulate = 3
    with pytest.raises(UserError, match="not divisible"):
        check_config(config)


def test_which_fields_may_change_in_a_workdir():
    old = cli.to_dict(Config())
    new = Config(duration="60 epochs", log_every="7")
    new.sharding.preset = "fsdp"
    new.data.workers = 3
    assert changed_fields(json.loads(json.dumps(old)), new) == []
    new.optim.lr = 5.0
    new.model.kwargs = {"depth": 3}
    assert changed_fields(old, new) == ["model.kwargs.depth: None -> 3", "optim.lr: 0.001 -> 5.0"]


def test_every_field_is_documented_and_overridable():
    """config_flags reads annotations, so none may be a string; and no field goes unexplained."""
    for name in dir(configs):
        kind = getattr(configs, name)
        if not (
            isinstance(kind, type) and name.endswith("Config") and dataclasses.is_dataclass(kind)
        ):
            continue
        for field in dataclasses.fields(kind):
            assert not isinstance(field.type, str)
            if not dataclasses.is_dataclass(field.type):
                assert f"{field.name}:" in kind.__doc__, f"{name}.{field.name}"
