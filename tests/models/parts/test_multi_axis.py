"""MAXIM's gated MLP and cross-gating, against their equations in numpy."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from scanmax.models.mixers import create_mixer
from scanmax.models.parts.multi_axis import CrossGating
from scanmax.ops import reference

SIZES = {"block": (2, 3), "grid": (3, 2)}


def start(module, *args, **options):
    """Random parameters, none 0 or 1, and how their layers act."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda key: module.init(key, *args, **options), jax.random.key(0))
    params = jax.tree.map(lambda leaf: rng.normal(0, 0.5, leaf.shape), nn.unbox(shapes))
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)["params"]

    def layer(name, x):
        p = params[name]
        if "scale" in p:
            x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
            return x * p["scale"] + p["bias"]
        for axis, size in SIZES.items():
            if name.endswith((f"{axis}_mix", f"_{axis}")):
                mix = getattr(reference, f"{axis}_mix")
                return mix(x, p["kernel"], p["bias"], **{f"{axis}_size": size})
        return x @ p["kernel"] + p["bias"]

    return {"params": params}, layer


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def test_half_is_gated_over_grids_and_half_in_blocks():
    x = jnp.asarray(np.random.default_rng(1).normal(size=(2, 5, 6, 4)), jnp.float32)
    options = {f"{axis}_size": size for axis, size in SIZES.items()}
    mixer = create_mixer("multi_axis", heads=1, options=options)
    variables, layer = start(mixer, x.reshape(2, 30, 4), grid=(5, 6))
    halves, done = np.split(gelu(layer("in_proj", x)), 2, -1), []
    for axis, half in zip(("grid", "block"), halves):
        a, b = np.split(gelu(layer(f"{axis}_in", layer(f"{axis}_norm", half))), 2, -1)
        gate = layer(f"{axis}_mix", layer(f"{axis}_gate_norm", b)) + 1
        done.append(half + layer(f"{axis}_out", a * gate))
    expected = layer("out_proj", np.concatenate(done, -1))
    y = mixer.apply(variables, x.reshape(2, 30, 4), grid=(5, 6))
    chex.assert_trees_all_close(y.reshape(x.shape), expected, rtol=1e-4, atol=1e-4)


def test_two_maps_gate_each_other():
    rng = np.random.default_rng(1)
    x, y = (jnp.asarray(rng.normal(size=(2, 5, 6, c)), jnp.float32) for c in (4, 2))
    module = CrossGating(4, SIZES["block"], SIZES["grid"])
    variables, layer = start(module, x, y)
    inputs, values, gates = {}, {}, {}
    for name, maps in (("x", x), ("y", y)):
        inputs[name] = layer(f"{name}_proj", maps)
        values[name] = gelu(layer(f"{name}_in", layer(f"{name}_norm", inputs[name])))
        z = gelu(layer(f"{name}_gate_in", layer(f"{name}_gate_norm", values[name])))
        far, near = np.split(z, 2, -1)
        mixed = np.concatenate([layer(f"{name}_grid", far), layer(f"{name}_block", near)], -1)
        gates[name] = layer(f"{name}_gate_out", mixed)
    expected = inputs["y"] + layer("y_out", values["y"] * gates["x"])
    both = inputs["x"] + layer("x_out", values["x"] * gates["y"]) + expected
    chex.assert_trees_all_close(
        module.apply(variables, x, y), (both, expected), rtol=1e-4, atol=1e-4
    )
