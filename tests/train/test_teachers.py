"""Teachers on the paths that a user takes: a run's weights, their own images, seeds, pods."""

import json
import re
import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_run import shared_build

from scanmax import cli
from scanmax.data import load
from scanmax.errors import UserError
from scanmax.train import pod
from scanmax.train.__main__ import main
from scanmax.train.build import build
from scanmax.train.inference import load_for_inference
from scanmax.train.loop import load_teachers, train
from scanmax.train.seeds import train_seeds
from scanmax.train.teachers import StoredTeacher
from tests.tolerances import SHARDED

FILE = """
from scanmax.data.config import DataConfig
from scanmax.train.config import Config, EmaConfig, ModelConfig, OptimConfig

def get_config(arg=""):
    kwargs = {"img_size": 4, "patch_size": 2, "dim": 16, "depth": 1, "heads": 2}
    data = {"examples": 64, "eval_examples": 32, "size": 4, "classes": 4, "channels": 1}
    return Config(
        model=ModelConfig(name="vit_tiny_patch16_224", kwargs=kwargs),
        data=DataConfig(name="synthetic", kwargs=data),
        optim=OptimConfig(lr=1e-2),
        ema=EmaConfig(decay=0.5),
        batch_size=16,
        duration="48 steps",
        log_every="24 steps",
        eval_every="24 steps",
    )
"""
NAME = "vit_tiny_patch16_224"
# What `synthetic` subtracts and divides by, and what the student's config has in their place.
MEAN, STD = (0.3,), (0.2,)
OTHERS = ["--config.data.mean=(0.9,)", "--config.data.std=(0.05,)"]


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """(config file, workdir of a trained teacher, its held-out metrics)."""
    folder = tmp_path_factory.mktemp("teacher")
    file = folder / "experiment.py"
    file.write_text(FILE)
    config = cli.load_config(str(file))
    config.log.report = False
    held_out = train(config, folder / "run")
    return file, folder / "run", held_out


def teacher(workdir, **options):
    """A config's entry."""
    kwargs = {"img_size": 4, "patch_size": 2, "dim": 16, "depth": 1, "heads": 2}
    return NAME, {"weights": str(workdir), "kwargs": kwargs, **options}


def student_flags(file, *teachers, terms=("kd",)):
    """What a user types: another normalisation, other widths, and the teachers."""
    return [
        f"--config={file}",
        *OTHERS,
        # Drawing takes longer than these runs.
        "--config.log.report=False",
        "--config.model.kwargs.dim=8",
        "--config.duration=4 steps",
        "--config.checkpoint.every=2 steps",
        f"--config.objective.terms={terms!r}",
        f"--config.objective.teachers={teachers!r}",
    ]


def test_two_teachers_with_images_of_their_own_from_the_command_line_on(taught, tmp_path, capsys):
    file, workdir, own = taught
    own_images = {"mean": MEAN, "std": STD}
    terms = (("kd", {"weight": 0.5}), ("hint", {"teacher": 1, "pool": True}))
    given = (teacher(workdir, **own_images), teacher(workdir, image_size=8, **own_images))
    flags = student_flags(file, *given, terms=terms)
    assert cli.run_main(main, [*flags, f"--workdir={tmp_path / 'run'}"]) == 0
    lines = re.findall(r"teacher (\d) .*accuracy ([\d.]+)", capsys.readouterr().err)
    assert [index for index, _ in lines] == ["0", "1"]
    # Its own accuracy, although the student's images are normalised otherwise.
    assert float(lines[0][1]) == pytest.approx(own["accuracy"], abs=1e-4)
    assert own["accuracy"] > 0.4, "no better than guessing"

    # Asked by hand, with images of twice the size; and what it would say of the student's.
    trained = load_for_inference(workdir)
    answer = jax.jit(trained.model.apply)
    pipeline = load(cli.load_config(str(file)).data, seed=0, batch_size=16)
    found = []
    for of in (lambda x: jax.image.resize(x, (len(x), 8, 8, 1), "bicubic"), shifted):
        right = [
            np.argmax(answer(trained.variables, of(batch["image"])), -1) == batch["label"]
            for batch in pipeline.eval_batches()
        ]
        found.append(np.mean(right))
    assert float(lines[1][1]) == pytest.approx(found[0], abs=1e-4)
    assert found[1] < own["accuracy"], "the test could not fail"

    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert {"loss_label", "loss_kd", "loss_hint"} <= set(rows[0])

    # The projector is trained, carried over a stop to the bit, and not exported.
    shutil.copytree(tmp_path / "run", tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut/checkpoints/4")
    assert cli.run_main(main, [*flags, f"--workdir={tmp_path / 'cut'}"]) == 0
    assert "teacher 0" not in capsys.readouterr().err
    states = [saved(tmp_path / name) for name in ("run", "cut")]
    chex.assert_trees_all_equal(*states)
    assert set(states[0]["params"]) == {"model", "hint"}
    assert "hint" not in load_for_inference(tmp_path / "run").variables["params"]

    # Both seeds in one step, by the same two teachers.
    config, _ = cli.parse_flags(flags)
    folders = {seed: tmp_path / f"seed_{seed}" for seed in (0, 1)}
    together = train_seeds(config, folders)
    alone = [row for row in rows if row["split"] == "eval"][-1]
    assert together[0]["loss"] == pytest.approx(alone["loss"], rel=SHARDED)
    assert together[1]["loss"] != together[0]["loss"]
    assert len(re.findall(r"teacher \d", capsys.readouterr().err)) == 2

    # Their variables are arguments of what is compiled for a pod.
    report = pod.compile_for(config, "v5e:2x4", devices=jax.devices()[:8])
    teachers = sum(leaf.nbytes for leaf in jax.tree.leaves(load_teachers(shared_build(config))))
    assert report.state["teachers"] == teachers > 0
    assert report.total > sum(report.state.values())


def test_stored_answers_teach_as_the_teacher_that_gave_them(taught, tmp_path, capsys):
    """One run asks and writes, the next reads; of each example it is the teacher's own answer."""
    file, workdir, _ = taught
    stored = tmp_path / "answers" / "vit.npz"
    images = {"mean": MEAN, "std": STD}
    given = teacher(workdir, stored=str(stored), top=4, **images)
    flags, states = student_flags(file, given), {}
    for name in ("first", "second"):
        assert cli.run_main(main, [*flags, f"--workdir={tmp_path / name}"]) == 0
        states[name] = saved(tmp_path / name)
        said = capsys.readouterr().err
        if name == "first":
            written = stored.stat().st_mtime_ns
        assert re.search(r"teacher 0 .*answers of .*vit.npz, accuracy on the tr.* 0\.\d", said)
    assert stored.stat().st_mtime_ns == written
    chex.assert_trees_all_equal(states["first"], states["second"])

    run = shared_build(cli.parse_flags(flags)[0])
    asked = build(cli.parse_flags(student_flags(file, teacher(workdir, **images)))[0])
    batch = next(run.pipeline.train_iterator(1))
    (table,), (variables,) = load_teachers(run), load_teachers(asked)
    found = run.objective.teachers[0](table, None, batch["index"]).logits
    told = jax.jit(lambda images: asked.objective.teachers[0](variables, images).logits)(
        batch["image"]
    )
    np.testing.assert_allclose(found, jax.nn.log_softmax(told), rtol=1e-5, atol=1e-6)

    with np.load(stored) as found:
        assert found["classes"].shape == found["logs"].shape == (64, 4)
    # Fewer answers spread what is left over; another file's are refused.
    for options, message in (
        ({"top": 2}, "holds answers of another top: 4, not 2"),
        ({"top": 4, "step": "best"}, "holds answers of another teacher"),
        ({"top": 5}, "top=5 must be from 1 to the 4 classes"),
    ):
        flags = student_flags(file, teacher(workdir, stored=str(stored), **images, **options))
        with pytest.raises(UserError, match=re.escape(message)):
            load_teachers(build(cli.parse_flags(flags)[0]))
    flags = student_flags(file, given, terms=("hint",))
    with pytest.raises(UserError, match="reads activations, of which teacher 0 has stored none"):
        build(cli.parse_flags(flags)[0])
    with pytest.raises(UserError, match="stored answers are of single images: mix none"):
        build(cli.parse_flags([*student_flags(file, given), "--config.mix=('mixup',)"])[0])
    stored.write_bytes(b"no")
    with pytest.raises(UserError, match="holds no answers of a teacher"):
        load_teachers(build(cli.parse_flags(student_flags(file, given))[0]))


def test_what_is_not_kept_is_spread_evenly():
    table = {"classes": np.array([[2, 4]]), "logs": np.log(np.array([[0.5, 0.3]], np.float32))}
    stored = StoredTeacher("vit", None, top=2, examples=1, classes=5)
    told = stored(table, None, np.array([0, 0])).logits
    expected = [0.2 / 3, 0.2 / 3, 0.5, 0.2 / 3, 0.3]
    np.testing.assert_allclose(np.exp(told), [expected] * 2, rtol=1e-5)


def shifted(images):
    """The images as the student's config normalises them."""
    return (images * STD[0] + MEAN[0] - 0.9) / 0.05


def saved(workdir):
    """Parameters and averages of a run's last checkpoint."""
    from scanmax.train.inference import read_arrays

    return read_arrays(workdir / "checkpoints/4/state", ("params", "ema", "opt_state"))


def test_a_runs_average_is_the_teacher(taught):
    file, workdir, _ = taught
    for step in ("last", "best", 44):
        flags = student_flags(file, teacher(workdir, step=step))
        run = build(cli.parse_flags(flags)[0])
        expected = load_for_inference(workdir, step).variables
        found = load_teachers(run)[0]
        chex.assert_trees_all_equal(found, jax.tree.map(jnp.asarray, expected))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": ""}, "needs the option 'weights', the workdir of a run"),
        ({"weights": "nowhere/at/all"}, "no such file or folder"),
        ({"step": 5}, "no checkpoint 5 under"),
        ({"kwargs": {"dim": 8}}, "config.objective.teachers: 'vit_tiny_patch16_224' does not"),
        ({"weights": ".", "step": "best"}, "is no workdir of a run"),
        ({"stepp": 4}, "no option 'stepp'; did you mean 'step'"),
        ({"mean": (0.5,)}, "gives 'mean' alone"),
    ],
)
def test_mistakes_are_one_line(taught, options, message, tmp_path, monkeypatch):
    file, workdir, _ = taught
    monkeypatch.chdir(tmp_path)
    given = teacher(workdir)
    given[1].update(options)
    with pytest.raises(UserError, match=re.escape(message)):
        load_teachers(build(cli.parse_flags(student_flags(file, given))[0]))
