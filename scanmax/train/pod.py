"""Compiling a run for a pod that is not there: what each chip holds, computes and sends.

    python -m scanmax.train --config=FILE --compile_for=v5e:16x16 [--json]

The initialisation and the training step are compiled ahead of time by the TPU compiler (extra
`tpu-compile`); no TPU is needed, and no data: where the config's are not prepared, images of their
shape stand in. docs/scaling.md explains the figures.
"""

import dataclasses
import json
import math
import os
import time
from collections import defaultdict
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from scanmax.errors import UserError, suggest
from scanmax.train import sharding
from scanmax.train.build import Run, build
from scanmax.train.config import Config
from scanmax.train.hlo import Collective, collectives
from scanmax.train.pipelines import load_data, sent_spec
from scanmax.train.step import model_variables
from scanmax.train.throughput import step_flops


@dataclasses.dataclass(frozen=True)
class Chip:
    """Peak figures of a TPU chip, from Google Cloud's documentation of each.

    Attributes:
      flops: bfloat16 operations per second.
      memory: bytes of HBM.
      memory_rate: bytes per second of HBM.
      link_rate: bytes per second that leave a chip over all its links.
    """

    flops: float
    memory: int
    memory_rate: float
    link_rate: float


CHIPS = {
    "v4": Chip(275e12, 32 * 2**30, 1228e9, 300e9),
    "v5e": Chip(197e12, 16 * 2**30, 819e9, 200e9),
    "v5p": Chip(459e12, 95 * 2**30, 2765e9, 600e9),
    "v6e": Chip(918e12, 32 * 2**30, 1640e9, 400e9),
}


@dataclasses.dataclass(frozen=True)
class PodReport:
    """What compiling for a topology told. Bytes and seconds are those of one chip and one step.

    Attributes:
      topology: such as "v5e:16x16".
      mesh: mesh axis -> size.
      parameters: how many the model has.
      state: kind -> bytes: parameters, optimizer, what is carried by name, ema, batch,
        teachers where there are some.
      activations: bytes that the forward pass, compiled alone, keeps for the backward pass.
      temporaries: bytes of scratch memory beside them.
      total: bytes at the step's peak.
      flops: operations of the step by its matrix products: three times the forward pass.
      compiler_flops: operations that the compiler counts; a loop's body counts once.
      memory_traffic: bytes to and from HBM that the compiler counts; a loop's body counts once.
      collectives: kind -> (operations per step, bytes over the links).
      largest: the collectives that move most, largest first.
      compiler_seconds: the compiler's estimate of the step; None where it gives none.
      bounds: what a step takes at least: by computing, by memory, by links.
      init_total: bytes at the peak of the initialisation.
      compile_seconds: how long compiling the step took.
    """

    topology: str
    mesh: dict[str, int]
    parameters: int
    state: dict[str, int]
    activations: int
    temporaries: int
    total: int
    flops: float
    compiler_flops: float
    memory_traffic: float
    collectives: dict[str, tuple[int, int]]
    largest: tuple[Collective, ...]
    compiler_seconds: float | None
    bounds: dict[str, float]
    init_total: int
    compile_seconds: float

    @property
    def chip(self) -> Chip:
        return CHIPS[self.topology.split(":")[0]]

    @property
    def binding(self) -> str:
        """Which bound is the largest."""
        return max(self.bounds, key=self.bounds.get)

    @property
    def fits(self) -> bool:
        """Whether a chip's memory holds step and initialisation."""
        return max(self.total, self.init_total) <= self.chip.memory

    def to_json(self) -> str:
        """All figures, and what follows from them."""
        figures = dataclasses.asdict(self)
        figures |= {"binding": self.binding, "fits": self.fits, "chip": vars(self.chip)}
        return json.dumps(figures, indent=1)


def topology_devices(topology: str) -> list[jax.Device]:
    """The devices of a topology such as "v5e:16x16", which need not exist here.

    Raises:
      UserError: an unknown chip or shape, or no TPU compiler.
    """
    name, _, shape = topology.partition(":")
    if name not in CHIPS:
        raise UserError(f"--compile_for={topology!r}: unknown chip; {suggest(name, CHIPS)}")
    if not shape or not all(side.isdigit() and int(side) for side in shape.split("x")):
        raise UserError(f"--compile_for={topology!r}: after the colon, a shape such as 16x16")
    # libtpu asks the cloud's metadata server where it runs, unless told not to.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    # It locks the chips of this machine, which are not used: several may compile at once.
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    from jax.experimental import topologies

    try:
        return list(topologies.get_topology_desc(topology, "tpu").devices)
    except RuntimeError as error:  # no compiler, or what it refuses (JaxRuntimeError)
        text = " ".join(str(error).split())
        if any(word in text for word in ("libtpu", "plugin", "not installed")):
            raise UserError(
                "--compile_for needs the TPU compiler: pip install 'scanmax[tpu-compile]'"
            ) from error
        raise UserError(f"--compile_for={topology!r}: {text[:200]}") from error


def shape_pipeline(config: Config) -> Any:
    """The config's data, or images of their shape where they are not prepared."""
    size = config.eval_batch_size or config.batch_size
    try:
        return load_data(config.data, config, size)
    except UserError:
        from scanmax.data import sources

        if sources.opener(config.data.name) is not sources.open_tfds:
            raise
        features = sources.make_builder(config.data.name, config.data.data_dir).info.features
    side = config.data.image_size or features["image"].shape[0]
    if side is None:
        raise UserError(f"config.data.image_size: {config.data.name!r} has images of any size")
    kwargs = {
        "classes": features["label"].num_classes,
        "channels": features["image"].shape[-1],
        "examples": 8 * config.batch_size,
        "eval_examples": size,
        "size": side,
    }
    data = dataclasses.replace(
        config.data, name="synthetic", kwargs=kwargs, train_split="", eval_split="", workers=0
    )
    return load_data(data, config, size)


def compile_for(
    config: Config, topology: str, *, devices: list[jax.Device] | None = None
) -> PodReport:
    """Compiles a config's initialisation and training step for a topology.

    Args:
      config: the config; its mesh must fill the topology's chips.
      topology: "v4", "v5e", "v5p" or "v6e" and a shape: "v5e:16x16", "v5p:4x4x8".
      devices: what to compile for in the topology's place; its chip's figures still count.

    Returns:
      The report.

    Raises:
      UserError: a topology or config that cannot be.

    Example:
      report = compile_for(config, "v5e:16x16"); report.fits, report.binding
    """
    devices = topology_devices(topology) if devices is None else devices
    run = build(config, pipeline=shape_pipeline(config), devices=devices)
    rows = sharding.batch_sharding(run.mesh)
    batch = sharding.batch_shapes(sent_spec(run.pipeline), run.mesh)
    teachers = _teacher_shapes(run)
    with sharding.use_mesh(run.mesh, config.sharding):
        init = run.init.lower().compile()
        start = time.perf_counter()
        step = run.train_step.lower(run.shapes, batch, teachers).compile()
        seconds = time.perf_counter() - start
        activations = activation_bytes(run, batch)
    memory, cost = step.memory_analysis(), step.cost_analysis() or {}
    state = {
        "parameters": _bytes(run.shapes.params, run.shardings.params),
        "optimizer": _bytes(run.shapes.opt_state, run.shardings.opt_state),
        **{
            name: _bytes(run.shapes.carried[name], run.shardings.carried[name])
            for name in run.shapes.carried
        },
        "ema": _bytes(run.shapes.ema, run.shardings.ema),
        "batch": _bytes(batch, dict.fromkeys(batch, rows)),
    }
    if teachers:
        own = jax.tree.map(lambda leaf: leaf.sharding, teachers)
        state["teachers"] = _bytes(teachers, own)
    said = collectives(step.as_text())
    kinds: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for entry in said:
        kinds[entry.kind][0] += entry.times
        kinds[entry.kind][1] += entry.moved
    chip = CHIPS[topology.split(":")[0]]
    multiply_adds = run.multiply_adds()
    flops = step_flops(run, multiply_adds) / run.mesh.size
    traffic = float(cost.get("bytes accessed", 0.0))
    estimate = cost.get("optimal_seconds")
    return PodReport(
        topology=topology,
        mesh={axis: size for axis, size in run.mesh.shape.items() if size > 1},
        parameters=sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(run.shapes.params)),
        state=state,
        activations=activations,
        temporaries=max(0, memory.temp_size_in_bytes - activations),
        total=_peak(memory),
        flops=flops,
        compiler_flops=float(cost.get("flops", 0.0)),
        memory_traffic=traffic,
        collectives={kind: tuple(values) for kind, values in sorted(kinds.items())},
        largest=tuple(said[:5]),
        compiler_seconds=float(estimate) if estimate and estimate > 0 else None,
        bounds={
            "computing": flops / chip.flops,
            "memory": traffic / chip.memory_rate,
            "links": sum(entry.moved for entry in said) / chip.link_rate,
        },
        init_total=_peak(init.memory_analysis()),
        compile_seconds=seconds,
    )


def _bytes(shapes: Any, shardings: Any) -> int:
    """Bytes of a tree on one device."""
    return sum(
        math.prod(own.shard_shape(leaf.shape)) * np.dtype(leaf.dtype).itemsize
        for leaf, own in zip(jax.tree.leaves(shapes), jax.tree.leaves(shardings), strict=True)
    )


def _peak(memory: Any) -> int:
    return (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
        + memory.generated_code_size_in_bytes
    )


def _teacher_shapes(run: Run) -> tuple[Any, ...]:
    """Shapes of the teachers' variables, whole on every chip."""
    whole = sharding.replicated(run.mesh)
    shapes = tuple(teacher.variable_shapes(run.example) for teacher in run.objective.teachers)
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=whole), shapes
    )


def _model_inputs(run: Run, batch: Any) -> Any:
    """The model's inputs of one part of an accumulated batch, every view of them."""
    parts = run.config.optim.accumulate
    rows = next(iter(batch.values()))
    shape = (run.objective.views * rows.shape[0] // parts, *run.example.shape[1:])
    return jax.ShapeDtypeStruct(shape, run.example.dtype, sharding=rows.sharding)


def activation_bytes(run: Run, batch: Any) -> int:
    """Bytes per chip that the model's forward pass keeps for its backward pass.

    The two are compiled apart here. A step's compiler, which sees both, may compute some again
    instead of keeping them, so that the step's peak is below this.
    """

    def forward(variables, inputs, beside):
        def apply(params):
            return run.model.apply(
                {**variables, "params": params},
                inputs,
                **beside,
                train=True,
                rngs={"dropout": jax.random.key(0)},
                mutable=["batch_stats", "losses", "metrics"],
            )[0]

        pullback = jax.vjp(apply, variables["params"])[1]
        return [split(leaf) for leaf in jax.tree.leaves(pullback)]

    def split(kept):
        # The training step keeps every row where it was computed. Here, where the rows are results,
        # the partitioner would gather some of them unless told.
        for axis, size in enumerate(kept.shape[:2]):
            if size == inputs.shape[0]:
                spec = [PartitionSpec.UNCONSTRAINED] * kept.ndim
                spec[axis] = inputs.sharding.spec[0]
                return jax.lax.with_sharding_constraint(
                    kept, NamedSharding(run.mesh, PartitionSpec(*spec))
                )
        return kept

    own = model_variables({"params": run.shapes.params, **run.shapes.carried})
    lies = model_variables({"params": run.shardings.params, **run.shardings.carried})
    inputs, beside = _model_inputs(run, batch), run.objective.beside(batch)
    shardings = (lies, inputs.sharding, jax.tree.map(lambda leaf: leaf.sharding, beside))
    # What the pullback keeps of the parameters themselves is no output of the program.
    compiled = jax.jit(forward, in_shardings=shardings).lower(own, inputs, beside).compile()
    return compiled.memory_analysis().output_size_in_bytes


def describe(report: PodReport) -> str:
    """The report as a table for people."""
    mesh = " x ".join(f"{axis} {size}" for axis, size in report.mesh.items()) or "one chip"
    chips = math.prod(report.mesh.values())
    mib = 2**20
    lines = [
        f"{report.topology}: {chips} chips, mesh {mesh}; step compiled in "
        f"{report.compile_seconds:.0f} s",
        f"{report.parameters:,} parameters",
        "",
        f"{'memory of a chip':<28}{'MiB':>12}",
    ]
    for name, size in report.state.items():
        if size:
            lines.append(f"  {name:<26}{size / mib:>12,.1f}")
    lines += [
        f"  {'activations':<26}{report.activations / mib:>12,.1f}",
        f"  {'temporaries':<26}{report.temporaries / mib:>12,.1f}",
        f"  {'peak of the step':<26}{report.total / mib:>12,.1f}",
        f"  {'peak of initialisation':<26}{report.init_total / mib:>12,.1f}",
        f"  {'the chip has':<26}{report.chip.memory / mib:>12,.1f}  "
        + ("it fits" if report.fits else "IT DOES NOT FIT"),
        "",
        f"{'collectives':<28}{'per step':>12}{'MiB':>12}",
    ]
    for kind, (count, moved) in report.collectives.items():
        lines.append(f"  {kind:<26}{count:>12,}{moved / mib:>12,.1f}")
    if not report.collectives:
        lines.append("  none")
    for entry in report.largest[:3]:
        size = f"{entry.bytes / mib:.1f} MiB x {entry.times}"
        lines.append(f"    {entry.kind} of {size}: {entry.name[:70]}")
    lines += ["", f"{'a step takes at least':<28}{'ms':>12}"]
    for name, seconds in report.bounds.items():
        binds = "  <- binds" if name == report.binding else ""
        lines.append(f"  {name:<26}{1e3 * seconds:>12,.3f}{binds}")
    lines.append(f"  {report.flops / 1e9:,.2f} GFLOP per chip")
    if report.compiler_seconds is not None:
        lines.append(f"  {'the compiler says':<26}{1e3 * report.compiler_seconds:>12,.3f}")
    return "\n".join(lines)
