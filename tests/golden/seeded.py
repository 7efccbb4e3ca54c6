"""Weights and images that anyone draws anew from their seed, and what a model makes of them."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from scanmax.testing.model_suite import COMPILER_OPTIONS


def seeded_variables(model, shape, dtype=np.float32, kind=jnp.float32):
    """Variables off their initial values, drawn path by path in alphabetical order."""
    inputs = jax.ShapeDtypeStruct((1, *shape), kind)
    skeleton = nn.unbox(jax.eval_shape(model.init, jax.random.key(0), inputs))
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


def seeded_images(shape, answer, dtype=np.float32):
    """Two images [2, Y, X, C] and the cotangent of their answers, of that shape each."""
    rng = np.random.default_rng(11505)
    images = rng.normal(size=(2, *shape)).astype(dtype)
    return images, rng.normal(size=(2, *answer)).astype(dtype)


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


WHOLE = ("logits", "input_grad")


def packed(found):
    """The same with the numbers of all parameters as one array, in the order of their names."""
    sums = [found[name] for name in sorted(set(found) - set(WHOLE))]
    return {name: found[name] for name in WHOLE} | {"sums": np.array(sums)}
