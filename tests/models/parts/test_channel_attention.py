"""Gates of maps as modules, class attention, and how a router's loss reaches the trainer."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import scanmax
from scanmax import ops
from scanmax.errors import UserError
from scanmax.models.mixers import create_mixer
from scanmax.models.parts.channel_attention import (
    CHANNEL_ATTENTION,
    Cbam,
    Pkcam,
    create_channel_attention,
)
from scanmax.models.parts.class_attention import ClassAttention
from scanmax.testing.model_suite import COMPILER_OPTIONS

SMALL = {"dim": 64, "depth": 2, "heads": 2, "img_size": 16, "patch_size": 4, "num_classes": 3}


@pytest.fixture(autouse=True)
def strict():
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


def randomised(module, *args, **keywords):
    """Random parameters, small enough to leave gates open, and statistics that are some."""
    boxed = jax.eval_shape(lambda key: module.init(key, *args, **keywords), jax.random.key(0))
    rng = np.random.default_rng(0)

    def fill(collection, leaf):
        values = rng.normal(size=leaf.shape)
        values = np.abs(values) + 0.5 if collection == "batch_stats" else 0.3 * values
        return jnp.asarray(values, leaf.dtype)

    return {
        collection: jax.tree.map(lambda leaf, name=collection: fill(name, leaf), tree)
        for collection, tree in nn.unbox(boxed).items()
    }


@pytest.mark.parametrize("kind", sorted(CHANNEL_ATTENTION))
@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "pyramid_tiny"])
def test_blocks_take_every_gate(kind, name):
    # class tokens pass the gates: after the last block they would not see them
    fields = {**SMALL, "class_token": False, "pool": "avg"}
    if name == "pyramid_tiny":
        fields = {"dims": (64, 64), "depths": (1, 1), "heads": (1, 2), "num_classes": 3}
    model = scanmax.create_model(name, mixer="attention", channel_attention=kind, **fields)
    images = jax.random.normal(jax.random.key(1), (2, 16, 16, 3))
    variables = randomised(model, images)
    blocks = {
        name: block["channel_attention"]
        for name, block in variables["params"].items()
        if "block_" in name
    }
    assert blocks

    def loss(gates):
        params = dict(variables["params"])
        for name, gate in gates.items():
            params[name] = {**params[name], "channel_attention": gate}
        logits, _ = model.apply(
            {**variables, "params": params}, images, train=True, mutable=["batch_stats"]
        )
        return jnp.sum(jnp.sin(jnp.arange(6.0).reshape(2, 3)) * logits)

    run = jax.jit(jax.grad(loss), compiler_options=COMPILER_OPTIONS)
    for path, gradient in jax.tree_util.tree_leaves_with_path(run(blocks)):
        assert np.abs(gradient).max() > 0, jax.tree_util.keystr(path)


def test_prefix_tokens_pass_the_gate_and_a_host_without_a_grid_is_told():
    from scanmax.models.blocks import Block

    block = Block("attention", heads=2, mlp_hidden=0, channel_attention="se", prefix_tokens=1)
    x = jax.random.normal(jax.random.key(0), (1, 5, 8))
    variables = randomised(block, x, grid=(2, 2))
    variables["params"]["channel_attention"]["excite_bias"] -= 1e4  # closed
    y = block.apply(variables, x, grid=(2, 2))
    chex.assert_trees_all_equal(y[:, 1:], x[:, 1:])
    assert float(jnp.abs(y[:, 0] - x[:, 0]).max()) > 0
    with pytest.raises(ValueError, match="this host has none"):
        block.apply(variables, x)
    with pytest.raises(UserError, match="unknown channel attention 'sea'; did you mean 'se'"):
        create_channel_attention("sea")


def test_the_cbam_module_is_its_two_ops():
    module, x = Cbam(reduction=4), jax.random.normal(jax.random.key(0), (2, 5, 6, 8))
    variables = randomised(module, x)
    params, stats = variables["params"], variables["batch_stats"]["norm"]
    names = ("squeeze", "excite", "squeeze_bias", "excite_bias")
    y = ops.cbam_channel_gate(x, *(params[name] for name in names))
    scale = params["norm"]["scale"] / jnp.sqrt(stats["variance"] + 1e-5)
    bias = params["norm"]["bias"] - scale * stats["mean"]
    expected = ops.cbam_spatial_gate(y, params["spatial"]["kernel"], scale, bias)
    chex.assert_trees_all_close(module.apply(variables, x), expected, rtol=1e-5)


def test_pkcam_has_as_many_weights_as_the_authors():
    # k + k + (S + 1) + 2, with S earlier stages.
    x = jax.random.normal(jax.random.key(0), (2, 3, 3, 64))
    previous = (jnp.ones((2, 16)), jnp.ones((2, 32)))
    module = Pkcam()
    params = randomised(module, x, previous)["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 3 + 3 + 3 + 2
    z = jnp.mean(x, (1, 2))
    y = module.apply({"params": params}, x, (*previous[:1], z[:, :32]))
    assert float((y / x).min()) > 1
    first = module.apply({"params": {"local": params["local"]}}, x)
    chex.assert_trees_all_close(
        first, x + ops.efficient_channel_attention(x, params["local"]), rtol=1e-5
    )


def test_class_attention_is_attention_of_the_first_rows():
    module, x = (
        ClassAttention(heads=2, query_tokens=2),
        jax.random.normal(jax.random.key(0), (2, 7, 8)),
    )
    variables = randomised(module, x)
    params = variables["params"]

    def project(name):
        p = params[name]
        return jnp.einsum("btd,dhk->bthk", x, p["kernel"]) + p["bias"][None, None]

    heads = ops.dot_product_attention(project("query"), project("key"), project("value"))
    expected = jnp.einsum("bthk,hkd->btd", heads, params["out"]["kernel"])[:, :2]
    expected = expected + params["out"]["bias"][None, None]
    chex.assert_trees_all_close(module.apply(variables, x), expected, rtol=1e-4)
    with pytest.raises(ValueError, match="query_tokens=9"):
        ClassAttention(heads=2, query_tokens=9).init(jax.random.key(0), x)


def test_gpsa_starts_as_a_soft_convolution():
    mixer = create_mixer("gpsa", heads=9, options={"locality_strength": 50.0})
    x = jax.random.normal(jax.random.key(0), (1, 20, 18))

    @jax.jit
    def run(key):
        variables = nn.unbox(mixer.init(key, x, grid=(4, 5)))
        _, state = mixer.apply(variables, x, grid=(4, 5), mutable=["intermediates"])
        return variables["params"], state["intermediates"]["attention"][0]

    params, matrix = run(jax.random.key(1))  # head 5 looks to (down 1, right 0)
    identity = np.reshape(params["value"]["kernel"], (18, 18))
    np.testing.assert_array_equal(identity, np.eye(18))
    np.testing.assert_array_equal(params["gate"], np.ones(9))
    assert matrix[0, 5, 7].argmax() == 12
    assert float(matrix[0, 5, 7, 12]) > float(jax.nn.sigmoid(1.0)) - 1e-4


def test_gpsa_trains_its_places_and_gates():
    mixer, x = create_mixer("gpsa", heads=6, prefix_tokens=1), jnp.ones((1, 5, 12))
    x = x + jax.random.normal(jax.random.key(0), x.shape)
    init = jax.jit(lambda key: nn.unbox(mixer.init(key, x, grid=(2, 2)))["params"])
    params = init(jax.random.key(1))
    # two heads beyond a square number start at random
    assert np.abs(params["position"][4:]).min() > 0

    def loss(params):
        return jnp.sum(jnp.sin(mixer.apply({"params": params}, x, grid=(2, 2))))

    for path, leaf in jax.tree_util.tree_leaves_with_path(jax.jit(jax.grad(loss))(params)):
        assert np.abs(leaf).max() > 0, jax.tree_util.keystr(path)


def test_moh_sows_its_balance_in_training_alone():
    mixer = create_mixer("moh", heads=8)
    x = jax.random.normal(jax.random.key(0), (2, 6, 16))
    variables = nn.unbox(jax.jit(lambda key: mixer.init(key, x, train=True))(jax.random.key(1)))
    assert set(variables) == {"params"}

    @jax.jit
    def run(params):
        _, state = mixer.apply({"params": params}, x, train=True, mutable=["losses"])
        router = jnp.einsum("btd,de->bte", x, params["router"]["kernel"])
        expected = 0.01 * ops.head_load_balance(router, top_k=4)
        _, rest = mixer.apply({"params": params}, x, mutable=["losses"])
        return state["losses"]["load_balance"][0], expected, rest

    @jax.jit
    @jax.grad
    def gradient(params):
        y = mixer.apply({"params": params}, x)
        return jnp.sum(jnp.sin(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape) * y)

    loss, expected, rest = run(variables["params"])
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    assert not rest
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient(variables["params"])):
        assert np.abs(leaf).max() > 0, jax.tree_util.keystr(path)
    with pytest.raises(ValueError, match="shared_heads=6 and routed_heads=4 of 8 heads"):
        create_mixer("moh", heads=8, options={"shared_heads": 6}).init(jax.random.key(0), x)
    shared = create_mixer("moh", heads=2, options={"shared_heads": 2, "routed_heads": 0})
    shapes = jax.eval_shape(shared.init, jax.random.key(0), x)
    assert set(shapes["params"]) == {"qkv", "shared", "out"}
