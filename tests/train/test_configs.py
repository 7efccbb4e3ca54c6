"""Every config of the project: shapes of init and step; two real steps of the small ones."""

import math
import pathlib

import jax
import pytest

from scanmax.cli import load_config
from scanmax.configs import digits_distill
from scanmax.data.__main__ import prepare
from scanmax.errors import UserError
from scanmax.fields import check_fields
from scanmax.models.shrink import shrink
from scanmax.train.build import build
from scanmax.train.config import check_config
from scanmax.train.loop import train

CONFIGS = sorted(pathlib.Path(__file__).parents[2].glob("scanmax/configs/*.py"))
NAMES = [path.stem for path in CONFIGS if path.stem != "__init__"]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """A folder in which `digits` is prepared."""
    path = str(tmp_path_factory.mktemp("tfds"))
    prepare("digits", path)
    return path


@pytest.fixture
def quick_compile():
    """Compiles with few optimizations: two steps do not pay for more."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def load(name, data_dir, arg=""):
    path = CONFIGS[[path.stem for path in CONFIGS].index(name)]
    config = load_config(f"{path}:{arg}" if arg else str(path))
    config.data.data_dir = data_dir
    return config


def on_made_up_images(config):
    """The same config on images of the same shape and number of classes as ImageNet's."""
    config.data.kwargs = {"classes": 1000, "examples": 1024, "eval_examples": 8}
    config.data.name, config.data.workers = "synthetic", 0
    return config


def test_there_are_configs():
    assert {"digits_vit", "digits_convnext", "digits_vssd", "bytes_mamba2"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_config_opens_with_command_and_expectation(name, data_dir):
    text = CONFIGS[[path.stem for path in CONFIGS].index(name)].read_text()
    docstring = text.split('"""')[1]
    assert f"python -m scanmax.train --config={name}" in docstring
    for word in ("Hardware:", "Time:", "Expected:"):
        assert word in docstring
    config = load(name, data_dir)
    check_fields(config)
    check_config(config)


def shapes_of_step(run):
    """(state, metrics) of a step, as shapes."""
    teachers = tuple(each.variable_shapes(run.example) for each in run.objective.teachers)
    return jax.eval_shape(run.train_step, run.shapes, run.pipeline.train_spec, teachers)


@pytest.mark.parametrize("name", NAMES)
def test_shapes_of_init_and_step(name, data_dir):
    config = load(name, data_dir)
    if config.data.name in ("imagenet2012", "image_folder"):
        config = on_made_up_images(config)
    run = build(config)
    state, metrics = shapes_of_step(run)
    assert jax.tree.structure(state) == jax.tree.structure(run.shapes)
    for before, after in zip(jax.tree.leaves(run.shapes), jax.tree.leaves(state)):
        assert (before.shape, before.dtype) == (after.shape, after.dtype)
    assert metrics["loss"].shape == ()
    assert run.durations.total > run.durations.warmup


def test_imagenet_deit_small_is_the_published_recipe(data_dir):
    config = on_made_up_images(load("imagenet_deit_small", data_dir))
    run = build(config)
    params = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(run.shapes.params))
    assert params == 22_050_664
    assert config.optim.lr == 5e-4 * config.batch_size / 512
    # The warm-up's five of the 300 epochs.
    assert run.durations.total == 300
    assert run.durations.warmup == 5
    assert run.pipeline.train_spec["label"].shape == (1024, 1000)


SMALL = {
    "digits_vit": {"dim": 16, "depth": 2, "heads": 2},
    "digits_distill": {"dim": 8, "depth": 1},
    "digits_convnext": {"dims": (8, 16), "depths": (1, 1)},
    "digits_selfsupervised": {"dim": 16, "depth": 1, "heads": 2},
    "digits_zoo": {"dim": 16, "depth": 1, "heads": 2},
    "digits_vssd": {"dims": (16, 32), "depths": (1, 1)},
    "shapes_clip": {"dim": 16, "depth": 1, "heads": 2},
    "bytes_mamba2": {"dim": 16, "depth": 1, "heads": 2, "state_size": 8},
    "adding": {"dims": (4,)},
    "digits_sequential": {"dims": (4,)},
    "sequence_tasks": {"dim": 8},
    "word_order": {"dim": 4, "maps": (2, 2)},
    "imagenet": {"dims": (8, 8, 8, 8, 8), "depths": (1,) * 5, "hidden_dim": 16, "hidden_size": 7},
    "imagenet_deit_small": {"dim": 32, "depth": 2, "heads": 2, "patch_size": 32},
}


# Made-up images, and no teacher that is still to be trained.
ARGUMENTS = {
    "imagenet_deit_small": "synthetic",
    "imagenet": "vgg11,synthetic",
    "digits_distill": "none",
}


@pytest.mark.parametrize("name", [name for name in NAMES if name in SMALL])
@pytest.mark.usefixtures("quick_compile")
def test_two_real_steps(name, data_dir, tmp_path):
    config = load(name, data_dir, ARGUMENTS.get(name, ""))
    config.model.kwargs.update(SMALL[name])
    config.batch_size = config.eval_batch_size = 8
    config.duration, config.schedule.warmup = "2 steps", "1 step"
    config.log_every = config.eval_every = config.checkpoint.every = "1 step"
    config.log.report = False
    if name == "bytes_mamba2":
        config.data.sequence_length = 1024
    elif name.startswith("digits"):
        config.data.eval_split = "test[:16]"
    elif name == "shapes_clip":
        config.data.kwargs["eval_examples"] = 16
        config.objective.kwargs["text"] = ("lm_tiny", {"dim": 16, "depth": 1, "heads": 2})
    held_out = train(config, tmp_path)
    if name == "digits_selfsupervised":
        # It learns without labels; who reads them are the evaluators.
        assert 0 <= held_out["probe_accuracy"] <= 1
        assert 0 <= held_out["knn_accuracy"] <= 1
    elif name == "shapes_clip":
        assert 0 <= held_out["zero_shot_accuracy"] <= 1
        assert 0 <= held_out["image_to_text_recall_5"] <= 1
    else:
        assert math.isfinite(held_out["loss"])
        assert 0 <= held_out["accuracy"] <= 1
    found = {path.name for path in tmp_path.iterdir()}
    assert {"config.json", "metrics.jsonl", "checkpoints"} <= found


@pytest.mark.parametrize(
    ("name", "arg"),
    [
        ("sequence_tasks", "selective_copying"),
        ("sequence_tasks", "induction_heads"),
        ("sequence_tasks", "copy_memory,mamba2"),
        ("sequence_tasks", "reversal,encoder_decoder"),
        ("sequence_tasks", "reconstruction"),
        *(("digits_distill", name) for name in digits_distill.TERMS if name not in ("none", "kd")),
        ("digits_sequential", "flexnet"),
        ("digits_sequential", "ccnn,permuted"),
        ("digits_sequential", "short"),
        ("digits_selfsupervised", "byol"),
        ("digits_selfsupervised", "mv_mr"),
        ("shapes_clip", "text_alignment"),
        ("shapes_clip", "clip_kd"),
        ("shapes_clip", "dual_head"),
        ("shapes_clip", "shared_vectors"),
        ("shapes_clip", "prompts"),
        ("shapes_clip", "promptkd"),
        ("shapes_clip", "dide"),
    ],
)
def test_every_argument_traces(name, arg, data_dir):
    config = load(name, data_dir, arg)
    check_fields(config)
    _, metrics = shapes_of_step(build(config))
    assert name != "digits_distill" or f"loss_{arg}" in metrics


@pytest.mark.parametrize("arg", ["ofa,a", "meal_v2,a,b", "deit_distilled,a", "augmix"])
def test_ways_of_learning_on_imagenet_trace(arg, data_dir):
    """At the released settings, with student and teachers made small."""
    config = load("imagenet_learning", data_dir, f"{arg},synthetic")
    fields, size = shrink(config.model.name)
    config.model.kwargs |= fields
    config.data.image_size = config.data.kwargs["size"] = size
    config.objective.teachers = tuple(
        (teacher, {**options, "kwargs": shrink(teacher).fields, "image_size": shrink(teacher)[1]})
        for teacher, options in config.objective.teachers
    )
    check_fields(config)
    _, metrics = shapes_of_step(build(config))
    assert metrics["loss"].shape == ()
    for term, _ in config.objective.terms:
        assert f"loss_{term}" in metrics


@pytest.mark.parametrize(
    ("name", "arg", "message"),
    [
        ("imagenet_deit_small", "sinthetic", "synthetic"),
        ("imagenet", "swin_tiny_patch4_window_224", "did you mean 'swin_tiny_patch4_window7_224'"),
        ("imagenet", "convnext_tiny,sinthetic", "'synthetic' or nothing behind"),
        ("imagenet_learning", "dkk,synthetic", "did you mean 'dkd'"),
        ("imagenet_learning", "meal_v2,a.pth", "by senet154, resnet152s: .* 2, not 1"),
        ("digits_distill", "dkk", "did you mean 'dkd'"),
        ("sequence_tasks", "mqra", "did you mean 'mqar'"),
        ("digits_selfsupervised", "bylo", "did you mean 'byol'"),
        ("digits_zoo", "convnext_tyni", "did you mean 'convnext_tiny'"),
        ("digits_zoo", "lm_tiny", "lm_tiny reads tokens"),
        ("digits_sequential", "ckcn", "did you mean 'ckcnn'"),
        ("digits_sequential", "ckcnn,shuffled", "'permuted' or nothing"),
    ],
)
def test_unknown_argument_is_a_user_error(name, arg, message, data_dir):
    with pytest.raises(UserError, match=message):
        load(name, data_dir, arg)
