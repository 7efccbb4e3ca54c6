"""python -m scanmax.train.export WORKDIR [--step=last] [--output=DIR] [--platforms=cpu,tpu]
        [--format=stablehlo | saved_model | onnx | weights] [--batch_size=N] [--layout=timm]

Writes a trained model for programs that know nothing of scanmax: `model.safetensors` (weights) and
`model.stablehlo` (the forward pass, for plain jax), or a folder `saved_model` for TensorFlow (extra
tensorflow), or `model.onnx` (extra onnx), or `weights.safetensors` in the names of another library;
beside each `model.json` (what goes in and comes out).
docs/export.md shows how they are read.
"""

import json
import pathlib
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from scanmax.errors import UserError, suggest
from scanmax.files import write_whole
from scanmax.models.weights import save_weights
from scanmax.train.formats import package_of, write_onnx, write_saved_model
from scanmax.train.inference import Trained, load_for_inference
from scanmax.train.remote import is_remote

# What a forward pass can be lowered for, whatever this machine has.
PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
# What is written of each format.
FILES = {
    "stablehlo": ("model.safetensors", "model.stablehlo", "model.json"),
    "saved_model": ("saved_model", "model.json"),
    "onnx": ("model.onnx", "model.json"),
    "weights": ("weights.safetensors", "model.json"),
}


def export(
    trained: Trained,
    output: str | pathlib.Path,
    *,
    batch_size: int = 0,
    platforms: tuple[str, ...] = (),
    format: str = "stablehlo",
    layout: str = "",
) -> pathlib.Path:
    """Writes the files of a format.

    Args:
      trained: a model, as load_for_inference gives it.
      output: the folder, made where it is missing.
      batch_size: rows that the forward pass takes; 0 is any number, of ONNX one. Not of weights.
      platforms: what it is lowered for, of "cpu", "cuda", "rocm" and "tpu"; () is this machine's.
      format: "stablehlo", "saved_model", "onnx" or "weights", which are the arrays alone.
      layout: whose names and axes the weights have, "timm", "torchvision", "transformers" or
        "authors", as `scanmax.save_weights` takes it; "" is ours. Of format "weights".

    Returns:
      The folder.

    Raises:
      UserError: the model cannot be lowered so, a package is missing, or the folder cannot be
        written.
    """
    if format not in FILES:
        raise UserError(f"unknown --format={format}; {suggest(format, FILES)}")
    for platform in platforms:
        if platform not in PLATFORMS:
            raise UserError(f"unknown platform {platform!r}: {', '.join(PLATFORMS)} are known")
    if batch_size < 0:
        raise UserError(f"--batch_size={batch_size} must be at least 0")
    if format in ("onnx", "weights") and platforms:
        raise UserError(f"--platforms is of stablehlo and saved_model: {format} is of no platform")
    if batch_size and format == "weights":
        raise UserError(f"--batch_size={batch_size} is of a forward pass: weights have no rows")
    if layout and format != "weights":
        raise UserError(f"--layout={layout} is of --format=weights, not of --format={format}")
    if format in ("saved_model", "onnx"):
        package_of(format)
    output = pathlib.Path(output)
    told: dict[str, Any] = {
        "model": trained.config.model.name,
        "step": trained.step,
        "class_names": trained.data["class_names"],
        "preprocessing": trained.data.get("preprocessing"),
        "tokenizer": trained.data.get("tokenizer"),
        "jax": jax.__version__,
    }
    if format == "onnx":
        batch_size = batch_size or 1
    exported = None if format == "weights" else _lowered(trained, batch_size, platforms)
    if exported is not None:
        told |= {
            "input": _type_of(exported.in_avals[-1]),
            "outputs": [_type_of(leaf) for leaf in exported.out_avals],
            "platforms": list(exported.platforms),
        }
    try:
        output.mkdir(parents=True, exist_ok=True)
        if format == "weights":
            file, own = output / "weights.safetensors", {"layout": layout or None}
            save_weights(trained.variables, file, model=trained.model, **own)
            told |= own
        elif format == "stablehlo":
            save_weights(trained.variables, output / "model.safetensors")
            write_whole(output / "model.stablehlo", exported.serialize())
        else:
            told |= _write_for_others(trained, exported, output, batch_size, format)
        write_whole(output / "model.json", json.dumps(told, indent=2) + "\n")
    except OSError as error:
        raise UserError(f"cannot write to {output}: {error.strerror or error}") from error
    return output


def _lowered(trained: Trained, batch_size: int, platforms: tuple[str, ...]) -> Any:
    """The forward pass as a program of weights and of so many rows, 0 of any number."""
    names = {
        name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
        for name, leaf in _named(trained.variables).items()
    }
    rows: Any = batch_size or jax.export.symbolic_shape("batch")[0]
    example = trained.example(1)
    inputs = jax.ShapeDtypeStruct((rows, *example.shape[1:]), example.dtype)

    def forward(weights, inputs):
        variables = _nested(weights)
        if batch_size:
            return trained.model.apply(variables, inputs)
        # Ops choose blocks by sizes that they know: the unknown number of rows is mapped over.
        return jax.vmap(lambda row: trained.model.apply(variables, row[None])[0])(inputs)

    try:
        return jax.export.export(jax.jit(forward), platforms=platforms or None)(names, inputs)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        hint = "; --batch_size=N fixes the number of rows" if not batch_size else ""
        raise UserError(f"the model cannot be exported: {reason}{hint}") from error


def _type_of(leaf: Any) -> dict[str, Any]:
    return {"shape": [str(size) for size in leaf.shape], "dtype": jnp.dtype(leaf.dtype).name}


def _write_for_others(
    trained: Trained, exported: Any, output: pathlib.Path, batch_size: int, format: str
) -> dict[str, Any]:
    """Writes and tries a SavedModel or an ONNX file; gives the names of what goes in and out."""
    example = trained.example(batch_size or 2)
    rng = np.random.default_rng(0)
    if jnp.issubdtype(example.dtype, jnp.floating):
        inputs = rng.normal(size=example.shape).astype(example.dtype)
    else:
        inputs = rng.integers(0, trained.data["vocab_size"], example.shape, dtype=example.dtype)
    count = len(exported.out_avals)
    outputs = [f"output_{place}" for place in range(count)] if count > 1 else ["output"]
    names = ("images" if trained.data["kind"] == "image" else "tokens", outputs)
    if format == "saved_model":
        weights = _named(trained.variables)
        write_saved_model(exported, weights, output / "saved_model", inputs, names)
    else:
        write_onnx(
            lambda inputs: trained.model.apply(trained.variables, inputs),
            output / "model.onnx",
            inputs,
            names,
        )
    return {"names": {"input": names[0], "outputs": outputs}}


def _named(tree: Any) -> dict[str, Any]:
    """Arrays by the path that save_weights writes."""
    pairs = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in pairs}


def _nested(weights: dict[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, leaf in weights.items():
        *parents, last = name.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    return tree


def main(argv: list[str]) -> int:
    """Exports the model of a workdir."""
    if any(word.lstrip("-") in ("help", "h", "helpfull") for word in argv):
        print(__doc__)
        return 0
    values = flags.FlagValues()
    flags.DEFINE_string("step", "last", "a step, last or best", flag_values=values)
    flags.DEFINE_string("output", None, "the folder; WORKDIR/export", flag_values=values)
    flags.DEFINE_integer("batch_size", 0, "rows; 0 is any number, of ONNX 1", flag_values=values)
    flags.DEFINE_string("format", "stablehlo", "saved_model, onnx, weights", flag_values=values)
    flags.DEFINE_string("layout", "", "whose names weights have, as timm", flag_values=values)
    flags.DEFINE_list("platforms", [], "cpu, cuda, rocm, tpu", flag_values=values)
    try:
        rest = values(["", *argv])[1:]
    except flags.Error as error:
        raise UserError(str(error)) from error
    if len(rest) != 1:
        raise UserError("usage: python -m scanmax.train.export WORKDIR [--step=last] ...")
    trained = load_for_inference(rest[0], values["step"].value)
    output = values["output"].value
    if is_remote(rest[0]) and not output:
        raise UserError(f"{rest[0]} is no folder here: name one by --output=DIR")
    folder = export(
        trained,
        output or pathlib.Path(rest[0]) / "export",
        batch_size=values["batch_size"].value,
        platforms=tuple(values["platforms"].value),
        format=values["format"].value,
        layout=values["layout"].value,
    )
    for name in FILES[values["format"].value]:
        print(folder / name)
    return 0


def run() -> None:
    """Entry of the console script scanmax-export."""
    from scanmax.cli import run_main

    sys.exit(run_main(main))


if __name__ == "__main__":
    run()
