"""What a newcomer tries first of an installed wheel: help, names, and a config by its name."""


def test_the_wheel_is_what_runs(type_in, installed):
    assert (installed / "scanmax" / "py.typed").exists()
    scripts = {path.name.removeprefix("scanmax-") for path in (installed / "bin").iterdir()}
    assert scripts == {
        "data", "evaluate", "export", "generate", "models", "predict", "report", "sweep", "train",
    }  # fmt: skip
    status, told = type_in("scanmax-train", "--config=nothing", "--workdir=run")
    assert (status, told.count("\n")) == (2, 1)
    assert "no config file 'nothing'; known: " in told or "did you mean" in told


def test_every_command_says_what_it_does(type_all):
    modules = ["scanmax.train", "scanmax.data", "scanmax.models", "scanmax.train.evaluate"]
    words = [[module, "--help"] for module in modules]
    words.append(["scanmax.train", "--config=digits_vit", "--help_config"])
    words[-1].append("--config.optim.lr=0.25")
    *helps, (status, config) = type_all(*words)
    for module, (status_of_help, help_) in zip(modules, helps, strict=True):
        assert status_of_help == 0, help_
        assert f"python -m {module} " in help_
    assert "--config=NAME" in helps[0][1]
    assert "digits_vit" in helps[0][1]
    assert status == 0
    assert "--config.optim.lr=0.25\n    a number, at least 0. " in config
