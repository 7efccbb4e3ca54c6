"""Compiling for a pod: what is reported is true, what does not fit or is left whole is told."""

import importlib.util
import json
import math
import os
import pathlib
import subprocess
import sys

import jax
import pytest

from scanmax import cli
from scanmax.data.config import DataConfig
from scanmax.errors import UserError
from scanmax.train import pod
from scanmax.train.__main__ import main
from scanmax.train.config import Config, ModelConfig, OptimConfig, ShardingConfig

ROOT = pathlib.Path(__file__).parents[2]
CONFIGS = ROOT / "scanmax" / "configs"
SPEC = importlib.util.spec_from_file_location("make_scaling", ROOT / "docs" / "make_scaling.py")
make_scaling = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(make_scaling)


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
    # Eight images of 16 x 16 x 3 bytes a device, and their labels and masks.
    assert 8 * 16 * 16 * 3 < whole.state["batch"] < 1.1 * 8 * 16 * 16 * 3
    held = sum(whole.state.values())
    assert whole.total > held


def scratch(report):
    """Bytes of the step that are neither state nor batch."""
    return report.total - sum(report.state.values())


def test_activations_fall_with_the_devices(reports):
    eight, two = reports("fsdp"), reports("fsdp", devices=2)
    assert two.activations > 3 * eight.activations > 0
    assert scratch(two) > 2.5 * scratch(eight) > 0, "an activation is left whole"


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


def test_every_config_has_a_pod():
    # The images of finetune_deit are the user's; its model is in imagenet_deit.
    names = {path.stem for path in CONFIGS.glob("*.py")} - {"__init__", "finetune_deit"}
    assert set(make_scaling.PODS) == names


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(make_scaling.PODS))
def test_every_config_compiles_for_256_chips(name):
    # A process of its own: flags of the CPU's compiler, set for the tests, stop that of the TPU.
    program = f"""
import runpy
from scanmax.train.pod import compile_for
scaling = runpy.run_path({str(ROOT / "docs" / "make_scaling.py")!r})
topology, config = scaling["pod_config"]({name!r}, shrink=True)
print(compile_for(config, topology).to_json())
"""
    quiet = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
    process = subprocess.run(
        [sys.executable, "-c", program], env=quiet, capture_output=True, text=True, cwd=ROOT
    )
    assert process.returncode == 0, process.stderr
    report = json.loads(process.stdout)
    assert math.prod(report["mesh"].values()) == 256
    assert report["fits"]
    scratch = report["total"] - sum(report["state"].values())
    # the transforms of the smallest runs take more than all that they keep
    assert scratch < 2 * report["activations"] + 2**25, "an activation is left whole"
    assert report["collectives"]["all-reduce"][1] > 0
    assert report["compiler_seconds"] is None or report["compiler_seconds"] > 0
