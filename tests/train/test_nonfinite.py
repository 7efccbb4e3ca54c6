"""Numbers that are not finite: never saved, never best, and told with advice that can be taken."""

import json
import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_run import MODEL, ToyData, ToyModel, copy, last_state, rows, toy_config

from scanmax.errors import UserError
from scanmax.models.layers import DropPath
from scanmax.train.checkpoint import BestFinite
from scanmax.train.config import CheckpointConfig, resolve_durations
from scanmax.train.loop import is_better, train
from scanmax.train.schedules import make_schedule


class Scaled(ToyData):
    """Images of some steps times a factor."""

    def __init__(self, factor, *steps):
        super().__init__()
        self.factor, self.steps = np.float32(factor), steps

    def train_iterator(self, start_step=0):
        for step, batch in enumerate(super().train_iterator(start_step), start_step + 1):
            if step in self.steps:
                batch["image"] = batch["image"] * self.factor
            yield batch


def config_of(nonfinite="stop", **optim):
    config = toy_config()
    config.checkpoint.keep = 9
    config.optim.nonfinite = nonfinite
    for name, value in optim.items():
        setattr(config.optim, name, value)
    return config


def saved(workdir):
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())


def test_a_state_that_is_not_finite_is_not_saved(tmp_path):
    # Loss and gradient of the first step are finite, and what they do to the parameters is not.
    with pytest.raises(UserError, match="the new state is not finite at step 1: the run stops"):
        train(config_of(lr=1e38), tmp_path, pipeline=ToyData(), model=ToyModel())
    assert saved(tmp_path) == []
    # What has trained nothing may become anything, in the same place.
    assert train(config_of(lr=0.02), tmp_path, pipeline=ToyData(), model=ToyModel())
    assert json.loads((tmp_path / "config.json").read_text())["optim"]["lr"] == 0.02


def test_a_skipped_update_saves_later_and_holds_the_rate(tmp_path):
    """A gradient of zero at eps = 0 is 0 / 0; the images of step 6 are infinite."""
    config = config_of("skip", eps=0.0)

    class Both(Scaled):
        def train_iterator(self, start_step=0):
            for step, batch in enumerate(super().train_iterator(start_step), start_step + 1):
                if step == 6:
                    batch["image"][:] = np.inf
                yield batch

    train(config, tmp_path, pipeline=Both(0.0, 1), model=ToyModel())
    # Due at 2, 4, 6, 8 and 10, and the best of 5 and 10; 6 was skipped and 7 is saved instead.
    assert saved(tmp_path) == [2, 4, 5, 7, 8, 10]
    schedule = make_schedule(config.schedule, config.optim.lr, resolve_durations(config, 64))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    rates = {row["step"]: row["lr"] for row in lines if row["split"] == "train"}
    # A skipped step is one that never was: the schedule has counted one step less, then two.
    expected = {2: schedule(0), 4: schedule(2), 8: schedule(5), 10: schedule(7)}
    for step, rate in expected.items():
        assert rates[step] == pytest.approx(float(rate)), step


def test_a_state_that_only_gives_skipped_steps_replaces_no_good_one(tmp_path):
    """One huge batch throws the parameters away, still finite; all steps after it are skipped."""
    config = config_of("skip", name="sgd", clip_norm=0.0)
    config.checkpoint.keep = 2
    for _ in range(2):
        with pytest.raises(UserError, match="step 10 is not saved: the last 5 were skipped, and"):
            train(config, tmp_path, pipeline=Scaled(1e17, 5), model=ToyModel())
        assert saved(tmp_path) == [2, 4]


def test_what_is_not_finite_is_never_the_best():
    values = [0.5, math.nan, 0.7, None]
    checkpoints = [
        types.SimpleNamespace(metrics=None if value is None else {"loss": value})
        for value in values
    ]
    for mode, count, expected in (
        ("min", 1, [True, False, False, False]),
        ("max", 1, [False, False, True, False]),
        ("min", 3, [True, False, True, False]),
    ):
        policy = BestFinite("loss", mode, count)
        assert policy.should_preserve(checkpoints, context=None) == expected
    config = CheckpointConfig()
    assert is_better({"loss": 0.5}, None, config)
    assert not is_better({"loss": math.nan}, None, config)
    assert not is_better({"loss": math.nan}, 0.5, config)
    assert not is_better({"loss": -math.inf}, 0.5, config)
    assert is_better({"loss": 0.4}, 0.5, config)


def test_another_metric_starts_best_anew(undisturbed, tmp_path):
    """A loss of 1.2 would be an accuracy that nothing beats."""
    workdir = copy(undisturbed, tmp_path)
    config = toy_config(duration="15 steps")
    config.checkpoint.metric, config.checkpoint.every = "accuracy", "15 steps"
    train(config, workdir, pipeline=ToyData(), model=MODEL)
    _, meta = last_state(workdir, config)
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    (accuracy,) = [row["accuracy"] for row in lines if row["step"] == 15 and row["split"] == "eval"]
    assert meta["best"] == accuracy


def test_the_rate_may_be_lowered_where_the_run_stands(tmp_path, capsys):
    with pytest.raises(UserError, match=r"continue in this --workdir with a lower config\.optim"):
        train(toy_config(), tmp_path, pipeline=ToyData(poison=7), model=MODEL)
    config = toy_config()
    config.optim.lr = 0.001
    train(config, tmp_path, pipeline=ToyData(), model=MODEL)
    told = capsys.readouterr().err
    assert "resuming at step 6" in told
    assert "from here on optim.lr: 0.01 -> 0.001" in told
    assert sorted(rows(tmp_path)) == [2, 4, 6, 8, 10]
    assert json.loads((tmp_path / "config.json").read_text())["optim"]["lr"] == 0.001


def test_rows_that_the_mask_leaves_out_reach_nothing(tmp_path):
    """Whatever they hold: the run is that of zeros in their place, to the bit."""

    class Masked(ToyData):
        fill = 0.0

        def train_iterator(self, start_step=0):
            for batch in super().train_iterator(start_step):
                batch["mask"][-3:] = False
                batch["image"][-3:] = self.fill
                yield batch

    ends = []
    for fill in (0.0, np.nan):
        Masked.fill = fill
        folder = tmp_path / str(fill)
        config = toy_config(duration="4 steps")
        ends.append(train(config, folder, pipeline=Masked(), model=ToyModel()))
        assert np.isfinite(list(rows(folder).values())).all()
    assert ends[0] == ends[1]


def test_a_branch_that_is_always_dropped_has_a_gradient_of_zero():
    def loss(x, rate):
        rngs = {"dropout": jax.random.key(0)}
        return jnp.sum(x + DropPath().apply({}, x * x, rate, True, rngs=rngs))

    x = jnp.array([1.0, 2.0, -3.0])
    for rate in (1.0, jnp.float32(1.0)):
        value, gradient = jax.value_and_grad(loss)(x, rate)
        assert value == 0.0
        np.testing.assert_array_equal(gradient, jnp.ones(3))
