"""What a newcomer tries first of an installed wheel: help, names, and a config by its name."""

import pytest


def test_the_wheel_is_what_runs(type_in, installed):
    assert (installed / "scanmax" / "py.typed").exists()
    status, told = type_in("scanmax.train", "--help")
    assert status == 0
    assert "--config=NAME" in told
    assert "digits_vit" in told
    asked = ("--config=digits_vit", "--help_config", "--config.optim.lr=0.25")
    status, told = type_in("scanmax.train", *asked)
    assert status == 0
    assert "--config.optim.lr=0.25\n    a number, at least 0. " in told
    status, told = type_in("scanmax.train", "--config=nothing", "--workdir=run")
    assert (status, told.count("\n")) == (2, 1)
    assert "no config file 'nothing'; known: " in told or "did you mean" in told


@pytest.mark.parametrize(
    "module",
    [
        "scanmax.data",
        "scanmax.models",
        "scanmax.train.evaluate",
    ],
)
def test_every_command_says_what_it_does(type_in, module):
    status, told = type_in(module, "--help")
    assert status == 0
    assert f"python -m {module} " in told
