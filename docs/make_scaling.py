"""Activation memory per remat policy and compile time by depth, as docs/scaling.md shows them.

    python docs/make_scaling.py

Everything is compiled, nothing is run. Bytes are those of one device that takes the whole batch.
"""

import time

import jax

from scanmax.data.config import DataConfig
from scanmax.train import sharding
from scanmax.train.build import build
from scanmax.train.config import Config, ModelConfig
from scanmax.train.pod import activation_bytes, shape_pipeline

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
    rows = sharding.batch_sharding(run.mesh)
    shapes = {
        name: jax.ShapeDtypeStruct(spec.shape, spec.dtype, sharding=rows)
        for name, spec in run.pipeline.train_spec.items()
    }
    return run, shapes


def main() -> None:
    """Prints both tables."""
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
    main()
