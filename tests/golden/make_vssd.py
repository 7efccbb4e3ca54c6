"""Writes vssd.npz beside this file: outputs and gradients of a small VSSD with seeded weights.

    python tests/golden/make_vssd.py

The weights are drawn anew from their seed by whoever reads the file (`seeded_variables`). When the
file was made, the authors' public code gave these logits and gradients too, with the same weights.
"""

import functools
import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import scanmax
from scanmax.testing.model_suite import COMPILER_OPTIONS

HERE = pathlib.Path(__file__).parent
FIELDS = {
    "num_classes": 10,
    "dims": (8, 16, 32, 64),
    "depths": (1, 1, 1, 1),
    "heads": (2, 2, 4, 4),
    "state_size": 8,
}


def small_model(dtype=jnp.float32):
    """The model of the file."""
    return scanmax.create_model("vssd_micro", **FIELDS, dtype=dtype, param_dtype=dtype)


def seeded_variables(model, dtype=np.float32):
    """Variables off their initial values, drawn path by path in alphabetical order."""
    images = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    skeleton = nn.unbox(jax.eval_shape(model.init, jax.random.key(0), images))
    leaves = jax.tree_util.tree_leaves_with_path(skeleton)
    rng = np.random.default_rng(20240726)
    drawn = {}
    for path, leaf in sorted(leaves, key=lambda pair: jax.tree_util.keystr(pair[0])):
        name = jax.tree_util.keystr(path)
        array = rng.normal(size=leaf.shape)
        if name.endswith("['variance']"):
            array = 0.5 + np.abs(array)
        elif name.endswith("kernel']"):
            # Reads its inputs' scale: the sum keeps it.
            array /= np.sqrt(np.prod(leaf.shape[:-1]))
        else:
            array = 0.2 * array + (1.0 if "scale" in name else 0.0)
        drawn[name] = array.astype(dtype)
    paths = [jax.tree_util.keystr(path) for path, _ in leaves]
    return jax.tree.unflatten(jax.tree.structure(skeleton), [drawn[name] for name in paths])


def seeded_images(dtype=np.float32):
    """Images [2, 64, 64, 3] and the cotangent [2, 10] of the logits."""
    rng = np.random.default_rng(11505)
    return rng.normal(size=(2, 64, 64, 3)).astype(dtype), rng.normal(size=(2, 10)).astype(dtype)


def outputs(model, variables, images, cotangent):
    """Logits, and the gradients of sum(logits * cotangent), parameters by path and images.

    Gradients of parameters are told by their sum, weighed by 1, 2, ... along every array.
    """

    @functools.partial(jax.jit, compiler_options=COMPILER_OPTIONS)
    def run(variables, images):
        def loss(params, images):
            logits = model.apply({**variables, "params": params}, images)
            return jnp.sum(logits * cotangent), logits

        grads, logits = jax.grad(loss, (0, 1), has_aux=True)(variables["params"], images)
        return logits, *grads

    logits, grads, input_grad = run(variables, images)
    sums = {
        jax.tree_util.keystr(path): weighed_sum(np.asarray(leaf))
        for path, leaf in jax.tree_util.tree_leaves_with_path(grads)
    }
    return {"logits": np.asarray(logits), "input_grad": np.asarray(input_grad), **sums}


def weighed_sum(array):
    """The sum of all entries, each times its place counted from 1, over the number of entries."""
    return np.sum(array.reshape(-1) * np.arange(1, array.size + 1)) / array.size


def main() -> None:
    with jax.enable_x64(True):
        model = small_model(jnp.float64)
        images, cotangent = seeded_images(np.float64)
        found = outputs(model, seeded_variables(model, np.float64), images, cotangent)
    found["input_grad"] = found["input_grad"].astype(np.float32)
    np.savez_compressed(HERE / "vssd.npz", **found)


if __name__ == "__main__":
    main()
