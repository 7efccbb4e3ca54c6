"""Where every array lies: the mesh, presets as data, a spec per parameter, the start-up table.

The rules are explained in docs/sharding.md.
"""

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from scanmax.errors import UserError, suggest
from scanmax.models.layers import LOGICAL_AXES
from scanmax.train.config import ShardingConfig
from scanmax.train.optim import param_path

AXES = ("data", "fsdp", "expert", "tensor", "context")
# The leading axis of every batch is split over these.
BATCH_AXES = ("data", "fsdp", "expert")

Rules = tuple[tuple[str, Any], ...]


@dataclasses.dataclass(frozen=True)
class Preset:
    """A way to spread a run.

    Attributes:
      sizes: default size of each mesh axis; -1 takes the devices that are left.
      parameters: (logical axis, mesh axis) in order of preference.
      activations: logical axis -> mesh axes; axes that are not named are not split.
    """

    sizes: Mapping[str, int]
    parameters: Rules
    activations: Mapping[str, Any]


_FSDP: Rules = (
    ("embed", "fsdp"),
    ("mlp", "fsdp"),
    ("vocab", "fsdp"),
    ("conv_out", "fsdp"),
    ("conv_in", "fsdp"),
    ("heads", "fsdp"),
    ("kv", "fsdp"),
)
_TENSOR: Rules = (("mlp", "tensor"), ("heads", "tensor"), ("vocab", "tensor"))

PRESETS = {
    "replicated": Preset({"data": -1}, (), {"batch": BATCH_AXES}),
    "fsdp": Preset({"fsdp": -1}, _FSDP, {"batch": BATCH_AXES}),
    "fsdp_tp": Preset(
        {"fsdp": -1, "tensor": 2}, _TENSOR + _FSDP, {"batch": BATCH_AXES, **dict(_TENSOR)}
    ),
    "fsdp_context": Preset(
        {"fsdp": -1, "context": 2}, _FSDP, {"batch": BATCH_AXES, "length": "context"}
    ),
    "fsdp_expert": Preset(
        {"fsdp": -1, "expert": 2}, (("expert", "expert"), *_FSDP), {"batch": BATCH_AXES}
    ),
}


def get_preset(config: ShardingConfig) -> Preset:
    """The config's preset with its own rules put in front.

    Raises:
      UserError: an unknown preset, logical axis or mesh axis.
    """
    if config.preset not in PRESETS:
        raise UserError(
            f"unknown config.sharding.preset={config.preset!r}; {suggest(config.preset, PRESETS)}"
        )
    preset = PRESETS[config.preset]
    for logical, axis in config.rules:
        if logical not in LOGICAL_AXES:
            raise UserError(
                f"config.sharding.rules: unknown axis {logical!r}; {suggest(logical, LOGICAL_AXES)}"
            )
        for name in _mesh_axes(axis):
            if name not in AXES:
                raise UserError(
                    f"config.sharding.rules: no mesh axis {name!r}; {suggest(name, AXES)}"
                )
    # A rule of the user replaces the preset's rules of the same logical axis.
    own = {logical for logical, _ in config.rules}
    rules = tuple((logical, axis) for logical, axis in config.rules if axis)
    parameters = rules + tuple(rule for rule in preset.parameters if rule[0] not in own)
    activations = {name: axis for name, axis in preset.activations.items() if name not in own}
    activations |= {name: axis for name, axis in rules if axis in ("tensor", "context")}
    # Layers of experts map the devices anew: their own axes are taken from those of the batch. What
    # holds the same tokens otherwise, each with other heads, say, takes a part of them on the way.
    experts = next((_mesh_axes(axis) for name, axis in parameters if name == "expert"), ())
    routed = BATCH_AXES + tuple(a for a in ("context", *experts) if a not in BATCH_AXES)
    activations |= {
        "expert": experts,
        "routed_batch": tuple(dict.fromkeys(routed)),
        "expert_batch": tuple(axis for axis in dict.fromkeys(routed) if axis not in experts),
    }
    return Preset(preset.sizes, parameters, activations)


def _mesh_axes(rule: str) -> tuple[str, ...]:
    """The mesh axes of a rule: "expert+tensor" is both, in this order."""
    return tuple(rule.split("+")) if rule else ()


def make_mesh(config: ShardingConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh of a config: axes data, fsdp, expert, tensor, context, in this order.

    Raises:
      UserError: sizes that the devices do not fill, or more than one -1.
    """
    preset = get_preset(config)
    devices = list(jax.devices() if devices is None else devices)
    sizes = {axis: getattr(config, axis) or preset.sizes.get(axis, 1) for axis in AXES}
    if any(getattr(config, axis) == -1 for axis in AXES):
        # The user's wish to fill wins over the preset's.
        sizes = {
            axis: 1 if size == -1 and getattr(config, axis) == 0 else size
            for axis, size in sizes.items()
        }
    free = [axis for axis, size in sizes.items() if size == -1]
    if len(free) > 1:
        raise UserError(f"config.sharding: only one axis may be -1, not {' and '.join(free)}")
    wrong = [f"{axis}={size}" for axis, size in sizes.items() if size < 1 and size != -1]
    if wrong:
        raise UserError(f"config.sharding.{wrong[0]} must be -1, 0 or more")
    fixed = math.prod(size for size in sizes.values() if size != -1)
    if free and len(devices) % fixed == 0:
        sizes[free[0]] = len(devices) // fixed
    if math.prod(sizes.values()) != len(devices):
        text = ", ".join(f"{axis}={size}" for axis, size in sizes.items())
        raise UserError(f"config.sharding: mesh {text} does not fill {len(devices)} devices")
    shape = tuple(sizes.values())
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)


@contextlib.contextmanager
def use_mesh(mesh: Mesh, config: ShardingConfig) -> Iterator[None]:
    """Makes the mesh and the rules for activations known to the models."""
    activations = get_preset(config).activations
    rules = [(name, activations.get(name)) for name in LOGICAL_AXES]
    with jax.set_mesh(mesh), nn.logical_axis_rules(rules):
        yield


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Batches: the leading axis over data, fsdp and expert."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def batch_shapes(specs: Mapping[str, Any], mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
    """A pipeline's specs of its batches, lying as batches do: for compiling without data."""
    rows = batch_sharding(mesh)
    return {
        name: jax.ShapeDtypeStruct(spec.shape, spec.dtype, sharding=rows)
        for name, spec in specs.items()
    }


def replicated(mesh: Mesh) -> NamedSharding:
    """A whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def check_batch_size(name: str, size: int, mesh: Mesh, accumulate: int = 1) -> None:
    """Refuses a batch size that the mesh and accumulation do not divide."""
    ways = math.prod(mesh.shape[axis] for axis in BATCH_AXES)
    if size % (ways * accumulate):
        used = [axis for axis in BATCH_AXES if axis != "expert" or mesh.shape[axis] > 1]
        parts = f"{' x '.join(used)} = {' x '.join(str(mesh.shape[axis]) for axis in used)}"
        parts += f", accumulate = {accumulate}" if accumulate > 1 else ""
        step = ways * accumulate
        below = size // step * step
        near = f"{below} or {below + step}" if below else f"{step}"
        raise UserError(f"{name}={size} is not divisible by the mesh ({parts}); take {near}")


def parameter_spec(
    shape: Sequence[int], names: Sequence[str | None] | None, mesh: Mesh, config: ShardingConfig
) -> PartitionSpec:
    """The spec of one parameter.

    Rules are tried in order; one applies where its logical axis is present, its mesh axis is free
    and divides the size. What no rule splits over fsdp is split on its largest divisible axis.
    Arrays with fewer than `min_size` elements stay whole.
    """
    preset = get_preset(config)
    spec: list[tuple[str, ...]] = [()] * len(shape)
    if not preset.parameters or math.prod(shape) < config.min_size:
        return PartitionSpec()
    for logical, rule in preset.parameters:
        taken = {axis for entry in spec for axis in entry}
        axes = tuple(axis for axis in _mesh_axes(rule) if mesh.shape[axis] > 1)
        if not axes or taken & set(axes) or names is None:
            continue
        ways = math.prod(mesh.shape[axis] for axis in axes)
        for index, name in enumerate(names):
            if name == logical and not spec[index] and shape[index] % ways == 0:
                spec[index] = axes
                break
    ways = mesh.shape["fsdp"]
    if all("fsdp" not in entry for entry in spec) and ways > 1:
        # The axis of stacked layers is walked by a scan; splitting it would gather at every step.
        free = [
            index
            for index, size in enumerate(shape)
            if not spec[index] and size % ways == 0 and (names is None or names[index] != "layers")
        ]
        if free:
            spec[max(free, key=lambda index: shape[index])] = ("fsdp",)
    while spec and not spec[-1]:
        spec.pop()
    return PartitionSpec(*(axes[0] if len(axes) == 1 else axes or None for axes in spec))


def parameter_shardings(params: Any, axes: Any, mesh: Mesh, config: ShardingConfig) -> Any:
    """A NamedSharding per parameter; `axes` holds each one's tuple of logical axes, or None."""
    return jax.tree.map(
        lambda leaf, names: NamedSharding(mesh, parameter_spec(leaf.shape, names, mesh, config)),
        params,
        axes,
    )


def like_parameters(tree: Any, params: Any, shardings: Any, mesh: Mesh) -> Any:
    """Shardings for the optimizer's state: a leaf named and shaped like a parameter lies like it.

    An optimizer's tree holds the parameters' tree somewhere below: a path that ends in a
    parameter's path, with the parameter's shape, is that parameter's moment.
    """
    known = {
        param_path(path): (leaf.shape, sharding)
        for (path, leaf), sharding in zip(
            jax.tree_util.tree_leaves_with_path(params), jax.tree.leaves(shardings)
        )
    }

    def find(path, leaf):
        for start in range(len(path)):
            shape, sharding = known.get(param_path(path[start:]), (None, None))
            if shape == leaf.shape:
                return sharding
        return replicated(mesh)

    return jax.tree_util.tree_map_with_path(find, tree)


def check_sharded(params: Any, shardings: Any, mesh: Mesh, config: ShardingConfig) -> None:
    """Refuses a run whose parameters stayed replicated although the preset shards them."""
    ways = math.prod(mesh.shape[axis] for axis in ("fsdp", "expert", "tensor"))
    if not get_preset(config).parameters or ways == 1:
        return
    sizes = [
        (math.prod(leaf.shape), param_path(path), sharding.is_fully_replicated)
        for (path, leaf), sharding in zip(
            jax.tree_util.tree_leaves_with_path(params), jax.tree.leaves(shardings)
        )
    ]
    total = sum(size for size, _, _ in sizes)
    whole = sorted((size, path) for size, path, is_whole in sizes if is_whole)
    share = sum(size for size, _ in whole) / max(1, total)
    if share > config.max_replicated:
        raise UserError(
            f"preset {config.preset!r} leaves {share:.0%} of the parameters on every device "
            f"(largest: {whole[-1][1]}, {whole[-1][0]:,} elements), more than "
            f"config.sharding.max_replicated={config.max_replicated:g}; "
            "lower config.sharding.min_size or choose a mesh that divides the widths"
        )


def describe(params: Any, shardings: Any, mesh: Mesh) -> str:
    """The start-up table: parameters and bytes per device by spec, with the largest of each."""
    groups: dict[str, list[tuple[int, int, str]]] = {}
    for (path, leaf), sharding in zip(
        jax.tree_util.tree_leaves_with_path(params), jax.tree.leaves(shardings)
    ):
        local = math.prod(sharding.shard_shape(leaf.shape)) * np.dtype(leaf.dtype).itemsize
        spec = ", ".join(
            "+".join(axis) if isinstance(axis, tuple) else axis or "-" for axis in sharding.spec
        )
        name = f"({spec})" if spec else "replicated"
        groups.setdefault(name, []).append((math.prod(leaf.shape), local, param_path(path)))
    sizes = " x ".join(f"{axis} {size}" for axis, size in mesh.shape.items() if size > 1)
    kind = mesh.devices.flat[0].device_kind
    processes = "1 process" if jax.process_count() == 1 else f"{jax.process_count()} processes"
    lines = [
        f"mesh: {sizes or 'one device'} ({mesh.size} x {kind}, {processes})",
        f"{'parameters lie':<26}{'arrays':>8}{'parameters':>14}{'MB/device':>11}  largest",
    ]
    rows = sorted(groups.items(), key=lambda item: -sum(size for size, _, _ in item[1]))
    rows.append(("total", [entry for group in groups.values() for entry in group]))
    for name, entries in rows:
        count = sum(size for size, _, _ in entries)
        local = sum(size for _, size, _ in entries)
        largest = "" if name == "total" else max(entries)[2]
        lines.append(f"{name:<26}{len(entries):>8}{count:>14,}{local / 1e6:>11.2f}  {largest}")
    return "\n".join(line.rstrip() for line in lines)
