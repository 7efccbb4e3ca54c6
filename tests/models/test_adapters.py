"""Layers over random features, and adapters of them in the blocks of a trained model."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import scanmax
from scanmax.errors import UserError
from scanmax.models import create_model
from scanmax.models.parts.random_features import RandomFeatureDense, SnnkAdapter

VIT = {"img_size": 8, "patch_size": 4, "dim": 8, "depth": 2, "heads": 2, "num_classes": 3}
LM = {"vocab_size": 11, "dim": 8, "depth": 2, "heads": 2}
ADAPTER = {"adapter": {"num_features": 5, "down": 3, "floor": -0.5, "radius": 2.0}}


def drawn(model, inputs):
    boxed = jax.eval_shape(lambda: model.init(jax.random.key(0), inputs))
    rng = np.random.default_rng(0)
    draw = lambda leaf: jnp.asarray(0.3 * rng.normal(size=leaf.shape), leaf.dtype)  # noqa: E731
    return jax.tree.map(draw, nn.unbox(boxed))


@pytest.mark.parametrize("activation", ["cosine", "sine", "gaussian"])
def test_a_layer_takes_the_place_of_a_dense_one(activation):
    f = {"cosine": jnp.cos, "sine": jnp.sin, "gaussian": lambda z: jnp.exp(-(z**2) / 2)}
    rng = np.random.default_rng(0)
    x, w = (jnp.asarray(0.3 * rng.normal(size=size), jnp.float32) for size in ((7, 4), (4, 3)))
    b = jnp.asarray(rng.normal(size=3), jnp.float32)
    layer = RandomFeatureDense(
        3, 20000, activation=activation, turn="both", damping=0.05, orthogonal=True, seed=1
    )
    found = layer.apply({"params": {"kernel": layer.weights_of(w, b)}}, x)
    np.testing.assert_allclose(found, f[activation](x @ w + b), atol=0.05)


def test_it_starts_as_features_of_drawn_weights():
    init = nn.initializers.normal(1.0)
    layer = RandomFeatureDense(3, 6, activation="sine", kernel_init=init, radius=0.5)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 4)), jnp.float32)
    y, variables = layer.init_with_output(jax.random.key(3), x)
    kernel = nn.unbox(variables)["params"]["kernel"]
    # sign and cosine of each of 6
    assert kernel.shape == (12, 3)
    one = layer.clone(num_features=1).init(jax.random.key(3), x)
    assert nn.unbox(one)["params"]["kernel"].shape == (2, 3)
    # rows of x count by their direction alone, as the radius says
    again = layer.apply(variables, 3 * x)
    np.testing.assert_allclose(again, y, rtol=1e-5, atol=1e-6)
    half = layer.clone(dtype=jnp.bfloat16)
    assert half.apply(variables, x).dtype == jnp.bfloat16
    np.testing.assert_allclose(half.apply(variables, x).astype(np.float32), y, atol=0.05)


@pytest.mark.parametrize("down", [None, 3])
def test_an_adapter_is_its_equation_and_starts_as_nothing(down):
    adapter = SnnkAdapter(5, down=down, floor=-0.5, radius=2.0, norm=True)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4, 8)), jnp.float32)
    y, _ = adapter.init_with_output(jax.random.key(0), x)
    np.testing.assert_array_equal(y, x)
    params = drawn(adapter, x)["params"]
    norm, kernel = params["norm"], np.asarray(params["down"]["kernel"], np.float64)
    z = np.asarray(x, np.float64)
    z = (z - z.mean(-1, keepdims=True)) / np.sqrt(z.var(-1, keepdims=True) + 1e-6)
    z = z * norm["scale"] + norm["bias"]
    z = 2 * z / np.linalg.norm(z, axis=-1, keepdims=True)
    directions, _ = RandomFeatureDense(1, 5).draws(8, jnp.float32)
    z = np.maximum(z @ np.asarray(directions).T, -0.5) / 5**0.5 @ kernel
    up, gate = params.get("up"), params.get("gate")
    z = z @ up["kernel"] + up["bias"] if down else z * gate["scale"]
    np.testing.assert_allclose(adapter.apply({"params": params}, x), x + z, rtol=1e-4, atol=1e-5)
    own = sum(leaf.size for leaf in jax.tree.leaves(params)) - 16
    assert own == (5 * 3 + 3 * 8 + 8 if down else 5 * 8 + 8)
    gradient = jax.grad(lambda p: (adapter.apply({"params": p}, x) ** 3).sum())(params)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(gradient))


def test_a_trained_vit_takes_adapters_and_leaves_them():
    images = jax.random.normal(jax.random.key(1), (2, 8, 8, 1))
    plain = create_model("vit_tiny_patch16_224", **VIT)
    other = create_model("vit_tiny_patch16_224", **VIT, **ADAPTER)
    variables = drawn(plain, images)
    with pytest.raises(UserError, match=r"adapt=\['adapters'\] takes it"):
        scanmax.load_weights(other, variables, (8, 8, 1))
    taken = nn.unbox(scanmax.load_weights(other, variables, (8, 8, 1), adapt="adapters"))
    assert {"adapter1", "adapter2"} <= set(taken["params"]["block_01"])
    logits = jax.jit(plain.apply)(variables, images)
    found = jax.jit(other.apply)(taken, images)
    np.testing.assert_allclose(found, logits, rtol=1e-5, atol=1e-6)
    again = nn.unbox(scanmax.load_weights(plain, taken, (8, 8, 1), adapt="adapters"))
    jax.tree.map(np.testing.assert_array_equal, again, variables)
    # stacked layers are the same
    params = drawn(other, images)["params"]
    scanned = other.clone(scan_layers=True)
    stacked = {"params": scanmax.models.blocks.stack_blocks(params)}
    expected = jax.jit(other.apply)({"params": params}, images)
    assert np.abs(expected - logits).max() > 0.01
    found = jax.jit(scanned.apply)(stacked, images)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_language_model_with_adapters_goes_on_token_by_token():
    tokens = jnp.asarray([[1, 2, 3, 4]])
    model = create_model("lm_tiny", **LM, **ADAPTER)
    variables = drawn(model, tokens)
    whole = jax.jit(model.apply)(variables, tokens)
    _, state = model.apply(variables, tokens[:, :3], 4, method="prefill")
    last, _ = model.apply(variables, state, tokens[:, 3], method="step")
    np.testing.assert_allclose(last, whole[:, 3], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"parallel": 2}, "adapters stand in plain blocks, and these are ParallelBlock"),
        ({"prompts": 2}, "adapters stand in plain blocks, and these are PromptedBlock"),
        ({"adapter": {"wide": 2}}, "adapter has wide; its fields are activation, damping"),
        ({"adapter": {"activation": "tanh"}}, "activation='tanh' is not one of relu"),
        ({"adapter": {"damping": 0.1}}, "activation='relu' has floor alone"),
        ({"adapter": {"activation": "sine", "floor": 0.1}}, "floor is of activation='relu'"),
    ],
)
def test_mistakes_are_one_line(fields, message):
    model = create_model("vit_tiny_patch16_224", **{**VIT, **ADAPTER, **fields})
    with pytest.raises(UserError, match=message):
        jax.eval_shape(model.init, jax.random.key(0), jnp.ones((1, 8, 8, 1)))
