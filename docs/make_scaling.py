"""The tables of docs/scaling.md: memory per remat policy, compile time by depth, configs on pods.

    python docs/make_scaling.py                    # remat policies and depths
    python docs/make_scaling.py pods [CONFIG ...]  # on 256 chips; needs scanmax[tpu-compile]

Everything is compiled, nothing is run. The bytes of the first tables are those of one device that
takes the whole batch.
"""

import math
import pathlib
import sys
import time

import jax

from scanmax import cli
from scanmax.data.config import DataConfig
from scanmax.train import sharding
from scanmax.train.build import build
from scanmax.train.config import Config, ModelConfig
from scanmax.train.pod import activation_bytes, compile_for, shape_pipeline

CONFIGS = pathlib.Path(__file__).parent.parent / "scanmax" / "configs"
# What each config needs to fill 256 chips, and fields that shrink it where a test compiles it.
SPLIT = {"preset": "fsdp", "data": 16, "fsdp": 16}
PODS = {
    "adding": ("v5e:16x16", {}, {}),
    "bytes_mamba2": ("v5e:16x16", SPLIT, {"depth": 2}),
    "bytes_mla": ("v5e:16x16", {}, {}),
    "digits_convnext": ("v5e:16x16", {}, {}),
    "digits_distill": ("v5e:16x16", {}, {"depth": 1}),
    "digits_int8": ("v5e:16x16", {}, {"depth": 1}),
    "digits_mixing": ("v5e:16x16", {}, {"depth": 1}),
    "digits_sam": ("v5e:16x16", {}, {"depth": 1}),
    "digits_selfsupervised": ("v5e:16x16", {}, {"depth": 1}),
    "digits_sequential": ("v5e:16x16", {}, {}),
    "digits_vit": ("v5e:16x16", {}, {"depth": 1}),
    "digits_vssd": ("v5e:16x16", {}, {}),
    "digits_zoo": ("v5e:16x16", {}, {"depth": 1}),
    "imagenet": ("v6e:16x16", SPLIT, {"depth": 2}),
    "imagenet_deit_small": ("v6e:16x16", SPLIT, {"depth": 2}),
    "imagenet_learning": ("v5e:16x16", {}, {}),
    "sequence_tasks": ("v5e:16x16", {}, {}),
    "shapes_clip": ("v5e:16x16", {}, {}),
    "word_order": ("v5e:16x16", {}, {}),
}
POLICIES = ("none", "dots_saveable", "dots_with_no_batch_dims_saveable", "full")


def plan(depth: int, remat: str, width: int, size: int, batch: int):
    """A scanned ViT of so many layers, and its batch's shapes."""
    kwargs = {"img_size": size, "depth": depth, "dim": width, "heads": width // 64}
    config = Config(
        model=ModelConfig(
            name="vit_small_patch16_224", remat=remat, kwargs={**kwargs, "scan_layers": True}
        ),
        data=DataConfig(name="synthetic", kwargs={"size": size, "examples": 64}),
        batch_size=batch,
    )
    run = build(config, pipeline=shape_pipeline(config), devices=jax.devices()[:1])
    return run, sharding.batch_shapes(run.pipeline.train_spec, run.mesh)


def pod_config(name: str, *, shrink: bool) -> tuple[str, Config]:
    """A topology of 256 chips and the published config that fills it, whole or shrunk."""
    topology, split, smaller = PODS[name]
    config = cli.load_config(str(CONFIGS / f"{name}.py"))
    for field, value in split.items():
        setattr(config.sharding, field, value)
    if shrink:
        config.model.kwargs = {**config.model.kwargs, **smaller}
    config.batch_size = math.ceil(config.batch_size / 256) * 256
    config.eval_batch_size = config.batch_size
    return topology, config


def pods(names: list[str]) -> None:
    """Prints what configs, all unless named, take of 256 chips, as the TPU compiler says."""
    print(
        "| config | chips | mesh | batch | parameters, MB | activations, MiB | peak, MiB "
        "| collectives, MiB | binds | at least, ms | the compiler says, ms |\n"
        + "| --- " * 11
        + "|"
    )
    for name in names or PODS:
        topology, config = pod_config(name, shrink=False)
        report = compile_for(config, topology)
        mesh = " x ".join(f"{axis} {size}" for axis, size in report.mesh.items())
        moved = ", ".join(
            f"{kind} {size / 2**20:,.1f}" for kind, (_, size) in report.collectives.items()
        )
        said = report.compiler_seconds
        print(
            f"| `{name}` | {topology} | {mesh} | {config.batch_size:,} "
            f"| {4 * report.parameters / 1e6:,.1f} | {report.activations / 2**20:,.1f} "
            f"| {max(report.total, report.init_total) / 2**20:,.1f} | {moved} | {report.binding} "
            f"| {1e3 * report.bounds[report.binding]:.3f} "
            f"| {'-' if said is None else format(1e3 * said, '.3f')} |",
            flush=True,
        )


def main() -> None:
    """Prints the tables of remat policies and of depths."""
    print("| remat | activations, MiB | scratch of the step, MiB |\n| --- | --- | --- |")
    for remat in POLICIES:
        run, batch = plan(12, remat, width=384, size=224, batch=16)
        with sharding.use_mesh(run.mesh, run.config.sharding):
            kept = activation_bytes(run, batch)
            step = run.train_step.lower(run.shapes, batch, {}).compile()
        scratch = step.memory_analysis().temp_size_in_bytes
        print(f"| `{remat}` | {kept / 2**20:,.0f} | {scratch / 2**20:,.0f} |", flush=True)
    print("\n| layers | trace, s | compile, s |\n| --- | --- | --- |")
    for depth in (12, 96):
        run, batch = plan(depth, "none", width=64, size=64, batch=16)
        with sharding.use_mesh(run.mesh, run.config.sharding):
            start = time.process_time()
            lowered = run.train_step.lower(run.shapes, batch, {})
            traced = time.process_time()
            lowered.compile()
        print(
            f"| {depth} | {traced - start:.1f} | {time.process_time() - traced:.1f} |", flush=True
        )


if __name__ == "__main__":
    pods(sys.argv[2:]) if sys.argv[1:2] == ["pods"] else main()
