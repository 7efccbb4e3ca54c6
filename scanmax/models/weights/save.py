"""A model's variables as a file: in our own layout, or in that of a file of another library."""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from scanmax.errors import UserError
from scanmax.models.weights.load import COLLECTIONS, key_table, taken_apart
from scanmax.models.weights.sources import Tensors, flatten, read_tensors
from scanmax.models.weights.table import Row, Shape, bare_names, row_of


def save_weights(
    variables: Mapping[str, Any],
    path: str | os.PathLike,
    *,
    model: nn.Module | None = None,
    like: str | os.PathLike | Mapping[str, Any] | None = None,
) -> None:
    """Writes variables to one file.

    In our own layout names are paths of the tree. With `like` the file has the names, shapes and
    axes of another: weights that were fine-tuned here go back to timm, transformers or their
    authors' code. Every array is then written exactly once, and nothing is computed but places.

    Args:
      variables: {"params": ..., "batch_stats": ...}, with or without logical axes.
      path: a .safetensors or .npz file. numpy knows no bfloat16: .npz holds it as float32.
      model: the module that the variables are of; needed with `like`.
      like: weights in the wanted layout, whatever their values, as `load_weights` takes them: the
        file that the run started from, or `timm.create_model(name, num_classes=10).state_dict()`.
        Tensors that have no place here, such as counts of steps, are copied from it.

    Raises:
      UserError: another kind of file, variables without "params", or a layout that has no place for
        an array, or a tensor that no array fills; all of them, one on each line.

    Example:
      >>> import tempfile, pathlib, jax.numpy as jnp
      >>> path = pathlib.Path(tempfile.mkdtemp()) / "weights.safetensors"
      >>> save_weights({"params": {"head": {"bias": jnp.zeros(3)}}}, path)
    """
    path = pathlib.Path(path)
    if "params" not in variables:
        raise UserError(f'variables have {sorted(variables)}; expected "params" among them.')
    kept = {name: nn.unbox(variables[name]) for name in COLLECTIONS if name in variables}
    tensors = {name: np.ascontiguousarray(value) for name, value in flatten(kept).items()}
    if like is not None:
        if model is None:
            raise UserError("save_weights(like=...) needs model=, whose family knows the layout")
        tensors = laid_out_like(read_tensors(like), tensors, model)
    if path.suffix == ".npz":
        wide = {
            name: value.astype(np.float32) if value.dtype == jnp.bfloat16 else value
            for name, value in tensors.items()
        }
        np.savez(path, **wide)
    elif path.suffix == ".safetensors":
        from safetensors.numpy import save_file

        # What reads files of torch asks for its mark.
        save_file(tensors, path, metadata={"format": "scanmax" if like is None else "pt"})
    else:
        raise UserError(f"weights {str(path)!r}: expected a .safetensors or .npz file.")


def laid_out_like(template: Tensors, tensors: Tensors, model: nn.Module) -> Tensors:
    """Our tensors by the names, shapes and axes of a template.

    Args:
      template: weights in the wanted layout.
      tensors: ours by path, stacked or not.
      model: of the family whose table knows the template.

    Raises:
      UserError: every mismatch, one on each line.
    """
    rows = key_table(model).rows
    if not rows:
        raise UserError(f"the family of {type(model).__name__} knows no other layout than ours")
    ours: Tensors = {}
    for name, value in tensors.items():
        paths = taken_apart(name, value.shape)
        layers = value if len(paths) > 1 or paths[0][0] != name else [value]
        ours |= {path: layer for (path, _), layer in zip(paths, layers)}
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
            found[name] = np.ascontiguousarray(tensor)
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
        raise UserError(f"save_weights(like=...): {count} with {type(model).__name__}:{told}")
    return found


def put_back(row: Row, shape: Shape, arrays: list[np.ndarray]) -> np.ndarray:
    """The tensor of that shape which a row lays out as these arrays.

    A row moves numbers about and changes none: laid out by it, the places of the tensor's numbers
    say where each of ours came from.

    Raises:
      ValueError: shapes that do not fit, or a row that computes something.
    """
    size = int(np.prod(shape))
    places = row.apply(np.arange(size, dtype=np.float64).reshape(shape), [x.shape for x in arrays])
    flat = np.concatenate([place.ravel() for place in places])
    if flat.size != size or not np.array_equal(np.sort(flat), np.arange(size)):
        raise ValueError("its layout is no rearrangement of ours")
    tensor = np.empty(size, arrays[0].dtype)
    tensor[flat.astype(np.int64)] = np.concatenate([np.ravel(x) for x in arrays])
    return tensor.reshape(shape)
