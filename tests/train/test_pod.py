"""Compiling for a pod: what is reported is true, what does not fit or is left whole is told."""

import json
import math
import pathlib

import jax
import pytest

from scanmax import cli
from scanmax.data.config import DataConfig
from scanmax.errors import UserError
from scanmax.train import pod
from scanmax.train.__main__ import main
from scanmax.train.config import Config, ModelConfig, OptimConfig, ShardingConfig

CONFIGS = pathlib.Path(__file__).parents[2] / "scanmax" / "configs"


def small(**sharding):
    kwargs = {"img_size": 16, "patch_size": 4, "dim": 64, "depth": 2, "heads": 4}
    return Config(
        model=ModelConfig(name="vit_tiny_patch16_224", kwargs=kwargs),
        data=DataConfig(name="synthetic", kwargs={"size": 16, "examples": 64}),
        optim=OptimConfig(name="adamw"),
        sharding=ShardingConfig(**sharding),
        batch_size=64,
        duration="4 steps",
    )


@pytest.fixture(scope="module")
def reports():
    """The small model on eight CPU devices, by preset."""
    compiled = {}

    def report(preset, devices=8):
        if (preset, devices) not in compiled:
            compiled[preset, devices] = pod.compile_for(
                small(preset=preset, min_size=256), "v5e:2x4", devices=jax.devices()[:devices]
            )
        return compiled[preset, devices]

    return report


def test_bytes_of_a_chip_are_those_of_its_part(reports):
    whole, split = reports("replicated"), reports("fsdp")
    assert whole.parameters == split.parameters
    assert whole.state["parameters"] == 4 * whole.parameters
    assert whole.state["optimizer"] >= 2 * whole.state["parameters"]
    assert split.state["parameters"] < 0.2 * whole.state["parameters"]
    assert split.state["optimizer"] < 0.2 * whole.state["optimizer"]
    # Eight images of 16 x 16 x 3 a device.
    assert whole.state["batch"] >= 8 * 16 * 16 * 3 * 4
    held = sum(whole.state.values())
    assert whole.total > held


def test_activations_fall_with_the_devices(reports):
    eight, two = reports("fsdp"), reports("fsdp", devices=2)
    assert two.activations > 3 * eight.activations > 0, "an activation is left whole"


def test_collectives_of_presets(reports):
    whole, split = reports("replicated").collectives, reports("fsdp").collectives
    assert set(whole) == {"all-reduce"}
    # All gradients once, over the links twice.
    gradients = 2 * 4 * reports("replicated").parameters
    assert gradients <= whole["all-reduce"][1] < 1.1 * gradients
    assert "all-gather" in split


def test_the_report_says_what_binds_and_whether_it_fits(reports):
    report = reports("replicated")
    flops = 3 * 2 * 8 * 17 * 64 * 64 * 12 * 2
    assert flops < report.flops < 1.6 * flops, "8 images of 17 tokens through 2 blocks"
    assert report.binding == max(report.bounds, key=report.bounds.get)
    assert report.fits
    text = pod.describe(report)
    for words in ("mesh data 8", "it fits", "<- binds", "all-reduce", "parameters"):
        assert words in text
    figures = json.loads(report.to_json())
    assert figures["fits"] is True
    assert figures["state"]["parameters"] == report.state["parameters"]


def test_data_that_are_not_there_give_their_shapes(tmp_path):
    config = cli.load_config(str(CONFIGS / "imagenet_deit_small.py"))
    config.data.data_dir = str(tmp_path)
    pipeline = pod.shape_pipeline(config)
    assert pipeline.num_classes == 1000
    assert pipeline.train_spec["image"].shape == (config.batch_size, 224, 224, 3)


@pytest.mark.parametrize(
    ("topology", "message"),
    [
        ("v5f:16x16", "unknown chip; did you mean"),
        ("v5e", "a shape such as 16x16"),
        ("v5e:16y16", "a shape such as 16x16"),
    ],
)
def test_mistakes_are_one_line(topology, message, capsys):
    config = CONFIGS / "digits_vit.py"
    assert cli.run_main(main, [f"--config={config}", f"--compile_for={topology}"]) == 2
    assert message in capsys.readouterr().err


def test_parameters_left_whole_are_refused():
    with pytest.raises(UserError, match=r"leaves .* of the parameters on every device"):
        pod.compile_for(small(preset="fsdp", min_size=10**6), "v5e:2x4", devices=jax.devices()[:8])


# What each config needs to fill 256 chips; depths shrunk, for compiling is what it costs.
PODS = {
    "bytes_mamba2": ("v5e:16x16", {"preset": "fsdp", "data": 16, "fsdp": 16}, {"depth": 2}),
    "digits_convnext": ("v5e:16x16", {}, {"depths": (1, 1, 1)}),
    "digits_vit": ("v5e:16x16", {}, {"depth": 1}),
    "digits_vssd": ("v5e:16x16", {}, {}),
    "imagenet_deit_small": (
        "v6e:16x16",
        {"preset": "fsdp", "data": 16, "fsdp": 16},
        {"depth": 2},
    ),
}


def test_every_config_has_a_pod():
    assert set(PODS) == {path.stem for path in CONFIGS.glob("*.py")} - {"__init__"}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(PODS))
def test_every_config_compiles_for_256_chips(name):
    topology, sharding, fields = PODS[name]
    config = cli.load_config(str(CONFIGS / f"{name}.py"))
    for field, value in sharding.items():
        setattr(config.sharding, field, value)
    for field, value in fields.items():
        if field in config.model.kwargs or field == "depth":
            config.model.kwargs = {**config.model.kwargs, field: value}
    config.batch_size = max(256, config.batch_size // 256 * 256)
    config.eval_batch_size = config.batch_size
    report = pod.compile_for(config, topology)
    assert math.prod(report.mesh.values()) == 256
    assert report.fits
    assert report.collectives["all-reduce"][1] > 0
    assert report.compiler_seconds is None or report.compiler_seconds > 0
