"""Weights of any source as the variables of a model."""

import dataclasses
import importlib
import importlib.util
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from scanmax import ops
from scanmax.errors import UserError
from scanmax.models.weights.linearised import Overlay, scans, start_scan
from scanmax.models.weights.mismatch import UNFILLED, explained
from scanmax.models.weights.sources import Tensors, read_tensors
from scanmax.models.weights.table import (
    Adapter,
    KeyTable,
    Problems,
    Row,
    Shape,
    bare_names,
    convert,
)
from scanmax.models.weights.thinning import front, thinned

ADAPTATIONS = ("head", "positions", "input_channels", "mixer", "prompts", "adapters", "smaller")
COLLECTIONS = ("params", "batch_stats")
# What a token mixer of any host holds.
MIXER = r"(?:.*/)?mixer/.*"
# What steers a frozen model of any host.
PROMPTS = r"(?:.*/)?prompts"
ADAPTERS = r"(?:.*/)?adapter\d/.*"
# What stands on an image model in the place of a head, or beside it as a tower of text.
BESIDE_IMAGE = (
    r"params/(?:head|label_head|taught_head|fc0|norm0|fc1|text|image_projection|text_projection)/.*"
    r"|params/logit_(?:scale|bias)|batch_stats/(?:norm0|text)/.*"
)
# Scanned layers are stacked under "blocks"; one by one they are block_00, block_01, ...
_STACKED = re.compile(r"(?P<head>(?:.*/)?[^/]*block)s(?P<tail>/.*)")


def load_weights(
    model: nn.Module,
    source: str | os.PathLike | Mapping[str, Any],
    input_shape: Sequence[int] | None = None,
    *,
    adapt: Sequence[str] = (),
    position_grid: tuple[int, int] | None = None,
    key: jax.Array | None = None,
    params_from: str | None = None,
) -> dict[str, Any]:
    """Reads weights into the variables of a model, every tensor used exactly once.

    The layout is that of the model's family in timm, transformers or its authors' code, or our own
    (`save_weights`, checkpoints of the trainer). Layers that the model scans are stacked, and
    stacked ones taken apart. Names may carry what torch puts in front of them: "module.",
    "_orig_mod.", "model.", in any nesting. The model is never initialised, only its shapes are.

    Args:
      model: the module.
      source: a .safetensors, .npz, .pth, .pt or .bin file; a folder of safetensors files or an
        orbax checkpoint; a hub id "owner/name" or "owner/name@revision"; or a mapping of arrays.
      input_shape: shape of one example, (Y, X, C) or (T,); by default the model's own size.
      adapt: what may differ, any of "head" (a head of other width starts afresh, a head that the
        model lacks is dropped), "positions" (resampled to the model's grid or window) and
        "input_channels" (one channel becomes the sum; more repeat, keeping the scale) and "mixer"
        (of a model with another token mixer: what the mixers share by name and shape is kept, the
        rest of the model's starts afresh, the rest of the source's is dropped; state-space mixers
        as wide as the source's attention take its values, keys and queries for x, B and C),
        "prompts" and "adapters" (start afresh, or are dropped) and "smaller" (of our own files:
        evenly spaced blocks and the first channels of a larger model).
      position_grid: (Y, X), the grid that the source's positions lie on, for "positions". A table
        does not tell it: None takes it for a square, and as it is where it has as many places as
        the model; where both could be, or neither is, it has to be said.
      key: random key of what starts afresh.
      params_from: which tree of a training checkpoint holds the parameters. Of ours: "params", the
        default, or "ema" for their moving average. Of torch's: any name in it, such as "model"; by
        default the moving average where one is kept, and a warning says what was taken.

    Returns:
      Variables as `model.init` gives them, with the logical axes, in the model's param_dtype.

    Raises:
      UserError: an unreadable source, or mismatches: all of them, one on each line. A tensor that
        is not floating point, or not finite, is one.

    Example:
      >>> import jax, jax.numpy as jnp, scanmax
      >>> model = scanmax.create_model("deit_tiny_patch16_224", depth=1, img_size=32)
      >>> variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
      >>> loaded = load_weights(model, variables)

    Reference: deit, convnext, mamba2-ssd
    """
    variables, _ = fit_weights(
        model,
        source,
        input_shape,
        adapt=adapt,
        position_grid=position_grid,
        key=key,
        params_from=params_from,
    )
    return variables


@dataclasses.dataclass(frozen=True)
class Fit:
    """How a source fitted a model: paths of our arrays, layers one by one.

    Attributes:
      taken: filled from the source.
      adapted: of these, those whose shape was another.
      fresh: drawn, because the source's head or mixer is of another shape or missing.
      dropped: paths of the source's head, mixers or blocks that the model has not.
    """

    taken: tuple[str, ...]
    adapted: tuple[str, ...]
    fresh: tuple[str, ...]
    dropped: tuple[str, ...]


def fit_weights(
    model: nn.Module,
    source: str | os.PathLike | Mapping[str, Any],
    input_shape: Sequence[int] | None = None,
    *,
    adapt: Sequence[str] = (),
    position_grid: tuple[int, int] | None = None,
    key: jax.Array | None = None,
    params_from: str | None = None,
) -> tuple[dict[str, Any], Fit]:
    """`load_weights`, which also says what became of what."""
    adapt = (adapt,) if isinstance(adapt, str) else tuple(adapt)
    for name in adapt:
        if name not in ADAPTATIONS:
            raise UserError(f"adapt={name!r} is not one of {', '.join(ADAPTATIONS)}.")
    if position_grid is not None and "positions" not in adapt:
        raise UserError(f"position_grid={position_grid} is of adapt=['positions'] alone.")
    example = _example(model, input_shape)
    skeleton = jax.eval_shape(model.init, jax.random.key(0), example)
    shapes = {
        path: shape
        for name, leaf in named_leaves(skeleton)
        for path, shape in taken_apart(name, leaf.shape)
    }
    table = key_table(model)
    boxed = isinstance(source, Mapping) and "params" in source
    tensors = read_tensors(nn.unbox(source) if boxed else source, params_from)
    own = any(name.startswith("params/") for name in tensors)
    if own:
        tensors, clashes = _own_layout(tensors, params_from or "params")
        rows: Sequence[Row] = (Row(r"(.*)", "{0}", _as_is),)
    else:
        rows = table.rows
        if not rows:
            raise UserError(
                f"weights {_told(source)}: family {_family(model)!r} has no key table for foreign "
                "checkpoints; it loads files of save_weights."
            )
        if "smaller" in adapt:
            raise UserError("adapt=['smaller'] is of our own files: convert these by save_weights.")
        tensors, clashes = bare_names(tensors, rows)
    left: tuple[str, ...] = ()
    if "smaller" in adapt:
        tensors, left = thinned(tensors, shapes)
    adapters = _adapters(model, table, shapes, example.shape, adapt, position_grid)
    adapted: set[str] = set()
    adapters = {path: _noting(path, adapter, adapted) for path, adapter in adapters.items()}
    mixers = scans(shapes) if "mixer" in adapt else []
    attention = {path: shape for scan in mixers for path, shape in scan.attention().items()}
    arrays, problems = convert(tensors, rows, {**attention, **shapes}, adapters)
    problems = [(p, line) for p, line in problems if p not in attention or UNFILLED not in line]
    begun = {p: put for scan in mixers for p, put in start_scan(scan, arrays, shapes).items()}
    unused = {path for path in arrays if path not in shapes} if not begun else set()
    arrays = {path: array for path, array in arrays.items() if path in shapes}
    adapted |= set(begun)
    problems = clashes + explained(problems, tensors, None if own else table, shapes)
    fresh, dropped = set(), ()
    patterns = {"head": table.head, "mixer": MIXER, "prompts": PROMPTS, "adapters": ADAPTERS}
    replaced = [pattern for name, pattern in patterns.items() if name in adapt]
    if replaced:
        may_differ = re.compile("|".join(f"(?:{pattern})" for pattern in replaced)).fullmatch
        odd = {path for path, _ in problems if may_differ(path) and path not in shapes}
        dropped = sorted(odd | unused)
        problems = [problem for problem in problems if not may_differ(problem[0])]
        fresh = {path for path in shapes if path not in arrays and may_differ(path)}
    if problems:
        raise UserError(_report(model, source, table, problems))
    variables = _assemble(model, skeleton, arrays, fresh, begun, example, key)
    fresh -= set(begun)
    taken = sorted({*arrays, *begun})
    return variables, Fit(
        tuple(taken), tuple(sorted(adapted)), tuple(sorted(fresh)), (*dropped, *left)
    )


def _family(model: nn.Module) -> str:
    return type(model).__module__.rpartition(".")[2]


def key_table(model: nn.Module) -> KeyTable:
    """The key table is in the module of this package named like the family's file.

    Where names depend on a model's depths the module has a function `table(model)`, else `TABLE`.
    """
    name = f"scanmax.models.weights.{_family(model)}"
    if importlib.util.find_spec(name) is None:
        # Our own files need no table, and every head of ours has this name.
        is_head = type(model).__module__ == "scanmax.models.parts.heads"
        return KeyTable((), head=BESIDE_IMAGE if is_head else r"params/head/.*")
    module = importlib.import_module(name)
    return module.table(model) if hasattr(module, "table") else module.TABLE


def _example(model: nn.Module, input_shape: Sequence[int] | None) -> jax.ShapeDtypeStruct:
    if hasattr(model, "vocab_size"):
        return jax.ShapeDtypeStruct(
            (1, *(input_shape or (getattr(model, "length", 1),))), jnp.int32
        )
    if input_shape is None:
        size = getattr(model, "img_size", 224)
        input_shape = (*((size, size) if isinstance(size, int) else size), 3)
    if len(input_shape) != 3:
        raise UserError(f"input_shape={tuple(input_shape)}; expected (Y, X, channels).")
    return jax.ShapeDtypeStruct((1, *input_shape), jnp.float32)


def named_leaves(variables: Any) -> Iterator[tuple[str, jax.ShapeDtypeStruct]]:
    for path, leaf in jax.tree_util.tree_flatten_with_path(nn.unbox(variables))[0]:
        yield "/".join(part.key for part in path), leaf


def taken_apart(name: str, shape: Shape) -> list[tuple[str, Shape]]:
    """The array itself, or where layers are stacked each layer's path and shape."""
    match = _STACKED.fullmatch(name)
    if match is None:
        return [(name, tuple(shape))]
    return [
        (f"{match['head']}_{index:02d}{match['tail']}", tuple(shape[1:]))
        for index in range(shape[0])
    ]


def _own_layout(tensors: Tensors, params_from: str) -> tuple[Tensors, Problems]:
    """Names of our own files, layers one by one; what is not weights stays out."""
    apart: Tensors = {}
    problems: Problems = []
    for name, array in tensors.items():
        collection, _, rest = name.partition("/")
        if collection == params_from:
            name = f"params/{rest}"
        elif collection == "params" or collection not in COLLECTIONS:
            continue
        # Orbax saves a boxed parameter as its only field.
        name = name.removesuffix("/value")
        paths = taken_apart(name, array.shape)
        layers = array if _STACKED.fullmatch(name) else [array]
        for (path, _), layer in zip(paths, layers):
            if path in apart:
                problems.append((path, f"{name}: {path} is there besides, by itself or stacked"))
            apart[path] = layer
    return apart, problems


def _as_is(x: np.ndarray, shape: Shape | None) -> np.ndarray:
    if shape is not None and x.shape != shape:
        raise ValueError(f"has shape {tuple(x.shape)}, ours is {tuple(shape)}")
    return x


def _adapters(
    model: nn.Module,
    table: KeyTable,
    shapes: Mapping[str, Shape],
    input_shape: Shape,
    adapt: Sequence[str],
    position_grid: tuple[int, int] | None,
) -> dict[str, Adapter]:
    chosen: list[tuple[str, Callable[[str], Adapter]]] = []
    if "smaller" in adapt:
        # First: what another adaptation takes is not cut off.
        chosen.append((".*", lambda path: front))
    if "positions" in adapt:
        size = getattr(model, "img_size", input_shape[1:3])
        size = (size, size) if isinstance(size, int) else size
        patch = getattr(model, "patch_size", 1)
        grid = tuple(side // patch for side in size)
        # A model of several tables says which grid each is for.
        grid_of = getattr(model, "position_grid", lambda path: grid)

        def resampling(path: str) -> Adapter:
            return lambda x, shape: _resampled(x, shape, grid_of(path), position_grid)

        chosen.append((table.positions, resampling))
        chosen.append((table.relative_positions, lambda path: _resampled_differences))
    if "input_channels" in adapt:
        chosen.append((table.stem, lambda path: _channels))
    return {
        path: adapter_of(path)
        for pattern, adapter_of in chosen
        for path in shapes
        if re.fullmatch(pattern, path)
    }


def _noting(path: str, adapter: Adapter, adapted: set[str]) -> Adapter:
    """The adapter, which adds its path where the shape is another."""

    def adapts(x: np.ndarray, shape: Shape) -> np.ndarray:
        if tuple(x.shape) != tuple(shape):
            adapted.add(path)
        return adapter(x, shape)

    return adapts


def _resampled(
    x: np.ndarray, shape: Shape, grid: tuple[int, int], source: tuple[int, int] | None
) -> np.ndarray:
    """Positions [.., prefix + Y * X, D] of the source's grid, on our grid."""
    prefix = shape[-2] - math.prod(grid)
    places = x.shape[-2] - prefix
    shapes = f"has shape {tuple(x.shape)}, ours is {tuple(shape)}"
    if source is None:
        side = math.isqrt(max(0, places))
        square = side * side == places
        if places == math.prod(grid):
            if square and grid[0] != grid[1]:
                raise ValueError(
                    f"{shapes}: {places} places may be {side} x {side} or {grid[0]} x {grid[1]}; "
                    "say position_grid=(Y, X)"
                )
            source = grid
        elif square:
            source = (side, side)
        else:
            raise ValueError(
                f"{shapes}: not {prefix} prefix tokens and a square grid; say position_grid=(Y, X)"
            )
    if math.prod(source) != places or x.shape[-1] != shape[-1]:
        raise ValueError(
            f"{shapes}: not {prefix} prefix tokens and a grid of {source[0]} x {source[1]} of that "
            "width"
        )
    table = ops.resample_positions(jnp.asarray(x), source, grid, prefix_tokens=prefix)
    return np.asarray(table).reshape(shape)


def _resampled_differences(x: np.ndarray, shape: Shape) -> np.ndarray:
    """A table [H, 2 w - 1, 2 w' - 1] over differences in a window, for a window of other sides."""
    if x.ndim != 3 or x.shape[0] != shape[0]:
        raise ValueError(f"has shape {tuple(x.shape)}, ours is {tuple(shape)}")
    flat = jnp.asarray(x).reshape(x.shape[0], -1, 1)
    return np.asarray(ops.resample_positions(flat, x.shape[1:], shape[1:])).reshape(shape)


def _channels(x: np.ndarray, shape: Shape) -> np.ndarray:
    """A kernel [ky, kx, C, out] for another number of channels, keeping the scale of its sums."""
    have, want = x.shape[2], shape[2]
    if (*x.shape[:2], want, x.shape[3]) != tuple(shape):
        raise ValueError(f"has shape {tuple(x.shape)}, ours is {tuple(shape)}")
    if have == want:
        return x
    if want == 1:
        return x.sum(axis=2, keepdims=True)
    return np.take(x, np.arange(want) % have, axis=2) * np.asarray(have / want, x.dtype)


def _assemble(
    model: nn.Module,
    skeleton: Any,
    arrays: Mapping[str, np.ndarray],
    fresh: set[str],
    begun: Mapping[str, Overlay],
    example: jax.ShapeDtypeStruct,
    key: jax.Array | None,
) -> dict[str, Any]:
    """Fills the skeleton: layers stacked where it stacks them, dtypes and logical axes its own."""
    drawn: dict[str, jax.Array] = {}
    if fresh:
        # Only what is returned is computed.
        def init(key: jax.Array) -> dict[str, jax.Array]:
            variables = model.init(key, jnp.zeros(example.shape, example.dtype))
            return {
                path: layer
                for name, leaf in named_leaves(variables)
                for (path, _), layer in zip(taken_apart(name, leaf.shape), _layers(name, leaf))
                if path in fresh
            }

        drawn = jax.jit(init)(jax.random.key(0) if key is None else key)
        drawn |= {path: put(np.asarray(drawn[path])) for path, put in begun.items()}

    def fill(name: str, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        paths = [path for path, _ in taken_apart(name, leaf.shape)]
        layers = [drawn[path] if path in drawn else arrays[path] for path in paths]
        stacked = np.stack(layers) if _STACKED.fullmatch(name) else layers[0]
        largest = np.abs(stacked).max(initial=0)
        if largest > float(jnp.finfo(leaf.dtype).max):
            raise UserError(f"weights: {name} holds {largest:.3g}, which {leaf.dtype} has not.")
        return jnp.asarray(stacked, leaf.dtype)

    values = [fill(name, leaf) for name, leaf in named_leaves(skeleton)]
    structure = jax.tree_util.tree_structure(skeleton)
    return jax.tree_util.tree_unflatten(structure, values)


def _layers(name: str, leaf: jax.Array) -> Sequence[jax.Array]:
    """The layers of a stacked array, or the array alone."""
    return leaf if _STACKED.fullmatch(name) else [leaf]


def _report(
    model: nn.Module, source: Any, table: KeyTable, problems: Sequence[tuple[str, str]]
) -> str:
    hints: list[tuple[str, str, Callable[[str], bool]]] = [
        ("head", table.head, lambda line: True),
        ("mixer", MIXER, lambda line: True),
        ("prompts", PROMPTS, lambda line: True),
        ("adapters", ADAPTERS, lambda line: True),
        ("positions", table.positions, lambda line: "has shape" in line),
        ("positions", table.relative_positions, lambda line: "has shape" in line),
        ("input_channels", table.stem, lambda line: "has shape" in line),
    ]
    lines = []
    for path, line in problems:
        for name, pattern, applies in hints:
            if re.fullmatch(pattern, path) and applies(line):
                line += f" (adapt=[{name!r}] takes it)"
        lines.append(f"\n  {line}")
    count = f"{len(lines)} mismatch" + ("es" if len(lines) > 1 else "")
    return f"weights {_told(source)}: {count} with {type(model).__name__}:" + "".join(lines)


def _told(source: Any) -> str:
    return "(a mapping)" if isinstance(source, Mapping) else repr(str(source))
