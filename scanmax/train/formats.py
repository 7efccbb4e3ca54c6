"""A forward pass for other programs: a SavedModel of TensorFlow, or a file of ONNX.

Both are run once, beside JAX, before they are given away: what differs is refused.
"""

import importlib
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.interpreters.mlir import make_ir_context

from scanmax.errors import UserError

# What a format needs besides scanmax: the package that is imported, the extra that brings it.
NEEDS = {"saved_model": ("tensorflow", "tensorflow"), "onnx": ("jax2onnx", "onnx")}
# Share of the largest output by which another program's may differ.
CLOSE = 1e-4


def package_of(format: str) -> Any:
    """The package that writes a format.

    Raises:
      UserError: it is not installed; the message says how it is.
    """
    package, extra = NEEDS[format]
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise UserError(
            f'--format={format} needs {package}: pip install "scanmax[{extra}]"'
        ) from error


def write_saved_model(
    exported: jax.export.Exported,
    weights: Mapping[str, Any],
    folder: pathlib.Path,
    inputs: np.ndarray,
    names: tuple[str, Sequence[str]],
) -> None:
    """Writes a SavedModel whose variables are the weights, by name.

    Args:
      exported: of (weights, inputs), as scanmax.train.export lowers it.
      weights: path -> array.
      folder: of the SavedModel.
      inputs: what it is tried with.
      names: of the input, and of each output.

    Raises:
      UserError: TensorFlow is not there, cannot run the module, or finds something else.
    """
    tf = package_of("saved_model")
    # The op under jax2tf, which itself cannot be handed a module.
    from tensorflow.compiler.tf2xla.python import xla

    options: dict[str, Any] = {
        "version": exported.calling_convention_version,
        "module": without_composites(exported),
        "Sout": [[size if isinstance(size, int) else None for size in leaf.shape]
                 for leaf in exported.out_avals],
        "Tout": [tf.as_dtype(leaf.dtype) for leaf in exported.out_avals],
        "platforms": [platform.upper() for platform in exported.platforms],
    }  # fmt: skip
    if exported.calling_convention_version >= 10:
        options["use_shardy_partitioner"] = jax.config.jax_use_shardy_partitioner
    row = exported.in_avals[-1]
    shape = [size if isinstance(size, int) else None for size in row.shape]
    model = tf.Module()
    model.weights = {
        name: tf.Variable(np.asarray(weights[name]), trainable=False, name=name) for name in weights
    }

    @tf.function(input_signature=[tf.TensorSpec(shape, row.dtype, name=names[0])], autograph=False)
    def serve(inputs):
        values = [*(model.weights[name] for name in sorted(weights)), inputs]
        kept = [values[place] for place in exported.module_kept_var_idx]
        return dict(zip(names[1], xla.call_module(kept, **options), strict=True))

    model.__call__ = serve
    try:
        found = serve(tf.constant(inputs))
    except tf.errors.OpError as error:
        raise UserError(
            f"TensorFlow {tf.__version__} cannot run what JAX {jax.__version__} lowers: "
            f"{_told(error)}"
        ) from error
    check_close("TensorFlow", [found[name] for name in names[1]], exported.call(weights, inputs))
    tf.saved_model.save(model, str(folder), signatures={"serving_default": serve})


def without_composites(exported: jax.export.Exported) -> bytes:
    """The module in plain operations, in the form that a reader of three months ago knows.

    Operations such as erf go out as composites with what they are made of beside them. TensorFlow
    does not see through these to the shapes behind an unknown number of rows.
    """
    from jax.extend.mlir.dialects import stablehlo
    from jax.extend.mlir.passmanager import PassManager

    passes = "builtin.module(func.func(stablehlo-legalize-composite-to-call),inline,symbol-dce)"
    oldest = stablehlo.get_version_from_compatibility_requirement(
        stablehlo.StablehloCompatibilityRequirement.WEEK_12
    )
    with make_ir_context() as context:
        module = stablehlo.deserialize_portable_artifact(context, exported.mlir_module_serialized)
        stablehlo.register_stablehlo_passes()
        PassManager.parse(passes).run(module.operation)
        return stablehlo.serialize_portable_artifact(module, oldest)


def write_onnx(
    forward: Any, file: pathlib.Path, inputs: np.ndarray, names: tuple[str, Sequence[str]]
) -> None:
    """Writes an ONNX file of a function of one array, of as many rows as `inputs`.

    Args:
      forward: inputs -> outputs, its weights within.
      file: where to.
      inputs: what it is tried with.
      names: of the input, and of each output.

    Raises:
      UserError: jax2onnx is not there, has no equivalent of an operation, or onnxruntime finds
        something else.
    """
    jax2onnx = package_of("onnx")
    import onnxruntime

    # Before the converter, which replaces functions of jax.numpy while it traces.
    expected = jax.jit(forward)(inputs)
    try:
        jax2onnx.to_onnx(
            forward,
            [jax.ShapeDtypeStruct(inputs.shape, inputs.dtype)],
            return_mode="file",
            output_path=str(file),
            input_names=[names[0]],
            output_names=list(names[1]),
        )
        session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        found = session.run(list(names[1]), {names[0]: inputs})
        check_close("onnxruntime", found, expected)
    except Exception as error:
        file.unlink(missing_ok=True)
        if isinstance(error, UserError):
            raise
        raise UserError(f"the model cannot be written as ONNX: {_told(error)}") from error
    finally:
        # What it has traced so is of no use to anyone else.
        jax.clear_caches()


def check_close(program: str, found: Sequence[Any], expected: Any) -> None:
    """Refuses what another program computes otherwise than JAX.

    Raises:
      UserError: an output differs by more than `CLOSE` of the largest.
    """
    for theirs, ours in zip(found, jax.tree.leaves(expected), strict=True):
        theirs, ours = (np.asarray(value, np.float64) for value in (theirs, ours))
        error, size = np.abs(theirs - ours).max(), np.abs(ours).max()
        if not error <= CLOSE * size:
            raise UserError(
                f"{program} does not compute what JAX does: outputs of up to {size:.3g} differ by "
                f"{error:.3g}; nothing is written"
            )


def _told(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
