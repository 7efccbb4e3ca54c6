"""The table of collectives in docs/sharding.md: what a training step says between devices.

    python docs/make_sharding.py         # on this machine's compiler, eight CPU devices
    python docs/make_sharding.py tpu     # for eight chips of a TPU v5e; needs scanmax[tpu-compile]

Small models of the three kinds, every preset; compiled, not run. Tests compare the tables.
"""

import os
import pathlib
import re
import sys

PAGE = pathlib.Path(__file__).parent / "sharding.md"
HEAD = "| model | preset | collective | per step | KiB | largest, KiB |\n" + "| --- " * 6 + "|"
SMALL = {"dim": 64, "depth": 2, "heads": 4, "scan_layers": True}
VIT = {**SMALL, "img_size": 32, "patch_size": 4, "class_token": False, "pool": "avg"}
# Name -> (model, its fields, task, presets).
MODELS = {
    "vit": (
        "vit_tiny_patch16_224",
        VIT,
        "classification",
        ("replicated", "fsdp", "fsdp_tp", "fsdp_context"),
    ),
    "lm": (
        "lm_tiny",
        SMALL,
        "language_model",
        ("replicated", "fsdp", "fsdp_tp", "fsdp_context"),
    ),
    "vit of experts": (
        "vit_tiny_patch16_224",
        {**VIT, "moe": {"num_experts": 8}},
        "classification",
        ("fsdp", "fsdp_expert"),
    ),
}


def plan(name: str, preset: str, devices=None):
    """The run of one cell: 64 examples of 64 tokens, plain gradient descent."""
    from scanmax.data.config import DataConfig
    from scanmax.train.build import build
    from scanmax.train.config import (
        Config,
        ModelConfig,
        ObjectiveConfig,
        OptimConfig,
        ShardingConfig,
    )
    from scanmax.train.pod import shape_pipeline

    model, fields, task, _ = MODELS[name]
    if task == "classification":
        data = DataConfig(name="synthetic", kwargs={"size": 32, "examples": 64})
    else:
        data = DataConfig(name="bytes", sequence_length=64)
    config = Config(
        model=ModelConfig(name=model, kwargs=fields),
        data=data,
        objective=ObjectiveConfig(name=task),
        optim=OptimConfig(name="sgd"),
        sharding=ShardingConfig(preset=preset, min_size=1024),
        batch_size=64,
        duration="4 steps",
    )
    return build(config, pipeline=shape_pipeline(config), devices=devices)


def said(run):
    """The collectives of its training step, compiled."""
    from scanmax.train import sharding
    from scanmax.train.hlo import collectives

    batch = sharding.batch_shapes(run.pipeline.train_spec, run.mesh)
    with sharding.use_mesh(run.mesh, run.config.sharding):
        return collectives(run.train_step.lower(run.shapes, batch, {}).compile().as_text())


def rows(name: str, preset: str, found) -> list[str]:
    """A row for each kind: how often, how much over a device's links, the largest one."""
    lines = []
    for kind in sorted({entry.kind for entry in found}):
        own = [entry for entry in found if entry.kind == kind]
        moved = sum(entry.moved for entry in own) / 1024
        largest = max(entry.bytes for entry in own) / 1024
        times = sum(entry.times for entry in own)
        lines.append(f"| {name} | {preset} | {kind} | {times} | {moved:,.0f} | {largest:,.0f} |")
    return lines


def table(devices=None) -> str:
    """The whole table."""
    lines = [HEAD]
    for name, (*_, presets) in MODELS.items():
        for preset in presets:
            lines += rows(name, preset, said(plan(name, preset, devices)))
    return "\n".join(lines)


def written(which: str) -> list[str]:
    """The rows of the page's table for "cpu" or "tpu"."""
    return _block(which).search(PAGE.read_text())[2].strip().splitlines()


def _block(which: str) -> re.Pattern:
    return re.compile(rf"(<!-- {which} -->\n)(.*?)(\n<!-- end -->)", re.DOTALL)


def main(which: str = "cpu") -> None:
    """Writes the table into the page."""
    devices = None
    if which == "tpu":
        from scanmax.train.pod import topology_devices

        devices = topology_devices("v5e:2x4")
    found = table(devices)
    text = _block(which).sub(lambda match: match[1] + found + match[3], PAGE.read_text())
    PAGE.write_text(text)


if __name__ == "__main__":
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
    os.environ["JAX_PLATFORMS"] = "cpu"
    main(*sys.argv[1:])
