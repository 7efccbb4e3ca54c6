"""A model's variables as a file: in our own layout, or in that of a file of another library."""

import functools
import importlib
import os
import pathlib
import pkgutil
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from scanmax.errors import UserError, suggest
from scanmax.models.weights.layout import template_of
from scanmax.models.weights.load import COLLECTIONS, key_table, taken_apart
from scanmax.models.weights.sources import Tensors, flatten, read_tensors
from scanmax.models.weights.table import KeyTable, Row, Shape, bare_names, row_of


def save_weights(
    variables: Mapping[str, Any],
    path: str | os.PathLike,
    *,
    model: nn.Module | None = None,
    layout: str | None = None,
    like: str | os.PathLike | Mapping[str, Any] | None = None,
) -> None:
    """Writes variables to one file, in our own layout or in that of another library.

    In our own layout names are paths of the tree. With `layout` or `like` the file has the names,
    shapes and axes of another library: weights that were trained here go to timm, transformers or
    their authors' code. Every array is then written exactly once, and nothing is computed but
    places: reading the file gives the same numbers.

    Args:
      variables: {"params": ..., "batch_stats": ...}, with or without logical axes.
      path: a .safetensors or .npz file. numpy knows no bfloat16: .npz holds it as float32.
      model: the module that the variables are of; needed with `like`, and with `layout` where
        several families, or the variables alone, do not tell the names.
      layout: "timm", "torchvision", "transformers" or "authors", whichever the model's family
        knows. What that library works out itself when it makes the model, such as indices of
        distances in a window, is not in the file.
      like: weights in the wanted layout, whatever their values, as `load_weights` takes them: the
        file that the run started from, or `timm.create_model(name, num_classes=10).state_dict()`.
        Tensors that have no place here, such as counts of steps, are copied from it.

    Raises:
      UserError: another kind of file, variables without "params", a layout that the family has not,
        or one that has no place for an array, or a tensor that no array fills; all of them, one on
        each line.

    Example:
      >>> import tempfile, pathlib, jax, jax.numpy as jnp, scanmax
      >>> path = pathlib.Path(tempfile.mkdtemp()) / "weights.safetensors"
      >>> model = scanmax.create_model("deit_tiny_patch16_224", depth=1, img_size=32)
      >>> variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
      >>> save_weights(variables, path, layout="timm")
      >>> sorted(scanmax.models.weights.read_tensors(path))[:2]
      ['blocks.0.attn.proj.bias', 'blocks.0.attn.proj.weight']

    Reference: deit, convnext, mamba2-ssd
    """
    path = pathlib.Path(path)
    if "params" not in variables:
        raise UserError(f'variables have {sorted(variables)}; expected "params" among them.')
    if layout is not None and like is not None:
        raise UserError("save_weights takes layout= or like=, not both")
    kept = {name: nn.unbox(variables[name]) for name in COLLECTIONS if name in variables}
    tensors = {name: np.asarray(value, order="C") for name, value in flatten(kept).items()}
    if like is not None:
        if model is None:
            raise UserError("save_weights(like=...) needs model=, whose family knows the layout")
        rows = key_table(model).rows
        if not rows:
            raise UserError(f"the family of {type(model).__name__} knows no other layout than ours")
        tensors = laid_out_like(read_tensors(like), one_by_one(tensors), rows, "like=...")
    elif layout is not None:
        tensors = laid_out(one_by_one(tensors), layout, model)
    if path.suffix == ".npz":
        wide = {
            name: value.astype(np.float32) if value.dtype == jnp.bfloat16 else value
            for name, value in tensors.items()
        }
        np.savez(path, **wide)
    elif path.suffix == ".safetensors":
        from safetensors.numpy import save_file

        # What reads files of torch asks for its mark.
        own = like is None and layout is None
        save_file(tensors, path, metadata={"format": "scanmax" if own else "pt"})
    else:
        raise UserError(f"weights {str(path)!r}: expected a .safetensors or .npz file.")


def one_by_one(tensors: Tensors) -> Tensors:
    """Stacked layers taken apart."""
    ours: Tensors = {}
    for name, value in tensors.items():
        paths = taken_apart(name, value.shape)
        layers = value if len(paths) > 1 or paths[0][0] != name else [value]
        ours |= {path: layer for (path, _), layer in zip(paths, layers)}
    return ours


def laid_out(ours: Tensors, layout: str, model: nn.Module | None) -> Tensors:
    """Our tensors, layers one by one, by the names, shapes and axes of a layout."""
    shapes = {path: value.shape for path, value in ours.items()}
    if model is None:
        table, template = _evident(shapes, layout)
    else:
        table = key_table(model)
        if layout not in table.layouts:
            known = suggest(layout, table.layouts) if table.layouts else "it knows none but ours"
            raise UserError(f"layout={layout!r} is not of {type(model).__name__}; {known}")
        template, unnamed = template_of(table, shapes, layout)
        if unnamed:
            told = "".join(f"\n  {path}" for path in unnamed)
            raise UserError(
                f"layout={layout!r} has no name for {len(unnamed)} arrays of "
                f"{type(model).__name__}:{told}"
            )
    return laid_out_like(template, ours, table.rows, f"layout={layout!r}")


def _evident(shapes: Mapping[str, Shape], layout: str) -> tuple[KeyTable, Tensors]:
    """The table that names variables of these shapes, where only one does, and their template."""
    tables = _tables()
    known = sorted({name for table in tables.values() for name in table.layouts})
    if layout not in known:
        raise UserError(f"layout={layout!r}: {suggest(layout, known)}")
    found: dict[str, tuple[KeyTable, Tensors]] = {}
    for family, table in tables.items():
        if layout in table.layouts:
            template, unnamed = template_of(table, shapes, layout)
            if not unnamed:
                found[family] = table, template
    names = {tuple(sorted((k, v.shape) for k, v in t.items())) for _, t in found.values()}
    if len(names) != 1:
        why = f"they may be of {' or '.join(sorted(found))}" if found else "no family's names fit"
        raise UserError(f"layout={layout!r} of these variables needs model=: {why}")
    return next(iter(found.values()))


@functools.cache
def _tables() -> dict[str, KeyTable]:
    """The tables of families whose names do not depend on fields of the model."""
    modules = {
        info.name: importlib.import_module(f"{__package__}.{info.name}")
        for info in pkgutil.iter_modules([str(pathlib.Path(__file__).parent)])
    }
    return {name: module.TABLE for name, module in modules.items() if hasattr(module, "TABLE")}


def laid_out_like(template: Tensors, ours: Tensors, rows: Sequence[Row], told_as: str) -> Tensors:
    """Our tensors by the names, shapes and axes of a template.

    Args:
      template: weights in the wanted layout.
      ours: ours by path, layers one by one.
      rows: of the table that knows the template.
      told_as: the argument that asked for it, for messages.

    Raises:
      UserError: every mismatch, one on each line.
    """
    shapes = {path: value.shape for path, value in ours.items()}
    _, clashes = bare_names(template, rows)
    problems, found, filled = [line for _, line in clashes], {}, set()
    for name, tensor in template.items():
        (short,), _ = bare_names({name: tensor}, rows)
        row, targets = row_of(short, tensor.ndim, rows, shapes)
        absent = [path for path in targets if path not in shapes]
        if row is None or absent:
            told = f"there is no {absent[0]}" if absent else "no row of the key table knows it"
            problems.append(f"{name}: {told}")
        elif not targets:
            found[name] = np.asarray(tensor, order="C")
        else:
            arrays = [ours[path] for path in targets]
            if row.part is not None:
                arrays = [np.take(arrays[0], *row.part)]
            try:
                found[name] = put_back(row, tensor.shape, arrays)
                filled.update(targets)
            except ValueError as error:
                problems.append(f"{name}: {error}")
    problems += [f"{path}: no tensor of the layout holds it" for path in ours if path not in filled]
    if problems:
        count = f"{len(problems)} mismatch" + ("es" if len(problems) > 1 else "")
        told = "".join(f"\n  {line}" for line in problems)
        raise UserError(f"save_weights({told_as}): {count}:{told}")
    return found


def put_back(row: Row, shape: Shape, arrays: list[np.ndarray]) -> np.ndarray:
    """The tensor of that shape which a row lays out as these arrays.

    A row moves numbers about, and may turn their signs: laid out by it, the places of the tensor's
    numbers, counted from one, say where each of ours came from.

    Raises:
      ValueError: shapes that do not fit, or a row that computes something.
    """
    size = int(np.prod(shape))
    counted = np.arange(1, size + 1, dtype=np.float64)
    places = row.apply(counted.reshape(shape), [x.shape for x in arrays])
    flat = np.concatenate([place.ravel() for place in places])
    if flat.size != size or not np.array_equal(np.sort(np.abs(flat)), counted):
        raise ValueError("its layout is no rearrangement of ours")
    tensor = np.empty(size, arrays[0].dtype)
    values = np.concatenate([np.ravel(x) for x in arrays])
    tensor[np.abs(flat).astype(np.int64) - 1] = np.where(flat < 0, -values, values)
    return tensor.reshape(shape)
