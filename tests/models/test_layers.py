"""Shared modules: axes that cannot be misspelt, constraints, drop path, statistics."""

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from scanmax import ops
from scanmax.models import layers

RULES = (("batch", "data"), ("mlp", "tensor"), *((axis, None) for axis in ("length", "heads")))


@pytest.fixture
def mesh():
    return jax.make_mesh((4, 2), ("data", "tensor"), axis_types=(AxisType.Auto,) * 2)


def test_a_misspelt_axis_is_refused_with_and_without_rules():
    x = jnp.zeros((2, 3))
    with pytest.raises(ValueError, match=r"'bacth'.*did you mean 'batch'"):
        layers.constrain(x, ("bacth", None))
    with pytest.raises(ValueError, match="name 1 axes; the array has 2"):
        layers.constrain(x, ("batch",))
    with (
        pytest.raises(ValueError, match="rules have no axis 'vocab'"),
        nn.logical_axis_rules(RULES),
    ):
        layers.constrain(x, ("batch", "vocab"))
    with pytest.raises(ValueError, match="unknown logical axis 'embde'"):
        layers.Dense(3, ("embde", "mlp")).init(jax.random.key(0), x)


def test_constraints_split_what_the_mesh_divides(mesh):
    def spec(shape):
        with jax.set_mesh(mesh), nn.logical_axis_rules(RULES):
            x = jax.jit(lambda x: layers.constrain_last(x, "mlp"))(jnp.zeros(shape))
        return x.sharding.spec

    assert spec((8, 5, 6)) == jax.P("data", None, "tensor")
    # One example, or an odd width, stays whole.
    assert spec((1, 5, 6)) == jax.P(None, None, "tensor")
    assert spec((8, 5, 7))[0] == "data"
    # Of several mesh axes, the first that divide.
    with jax.set_mesh(mesh), nn.logical_axis_rules((("batch", ("data", "tensor")),)):
        for size, part in ((8, 1), (4, 1), (3, 3)):
            rows = jax.jit(lambda x: layers.constrain(x, ("batch",)))(jnp.zeros(size))
            assert rows.sharding.shard_shape((size,)) == (part,)
    # Without rules there is nothing to do.
    x = jnp.ones((8, 2, 6))
    assert layers.constrain_last(x, "mlp") is x


def test_dense_contracts_the_last_axes():
    x = jax.random.normal(jax.random.key(0), (2, 5, 3, 4))
    dense = layers.Dense((2, 3), ("heads", "kv", None, "mlp"), contract=2)
    variables = dense.init(jax.random.key(1), x)
    params = nn.unbox(variables)["params"]
    expected = np.einsum("btij,ijkl->btkl", x, params["kernel"]) + params["bias"]
    chex.assert_trees_all_close(dense.apply(variables, x), expected, atol=1e-5)
    assert variables["params"]["kernel"].names == ("heads", "kv", None, "mlp")
    assert variables["params"]["bias"].names == (None, "mlp")


def test_drop_path_drops_whole_examples_and_keeps_the_mean():
    x = jnp.ones((4000, 2, 3))
    drop = layers.DropPath()
    y = drop.apply({}, x, 0.25, True, rngs={"dropout": jax.random.key(0)})
    chex.assert_trees_all_close(jnp.unique(y), jnp.array([0.0, 4 / 3]), rtol=1e-6)
    chex.assert_trees_all_equal(y, jnp.broadcast_to(y[:, :1, :1], y.shape))
    assert abs(float(y.mean()) - 1) < 0.03
    assert drop.apply({}, x, 0.25) is x
    assert drop.apply({}, x, 0.0, True) is x
    assert layers.drop_path_rates(0.2, 3) == (0.0, 0.1, 0.2)


def test_batch_norm_averages_in_training_and_reads_in_evaluation():
    x = 3 + 2 * jax.random.normal(jax.random.key(0), (64, 5))
    norm = layers.BatchNorm(momentum=0.5)
    variables = norm.init(jax.random.key(1), x, train=True)
    chex.assert_trees_all_equal(variables["batch_stats"]["mean"], jnp.zeros(5))
    y, updates = norm.apply(variables, x, train=True, mutable=["batch_stats"])
    chex.assert_trees_all_close(y.mean(0), jnp.zeros(5), atol=1e-5)
    chex.assert_trees_all_close(updates["batch_stats"]["mean"], 0.5 * x.mean(0), rtol=1e-5)
    # torch's running variance: the batch's is biased, and divides by n only where it normalises.
    for rows, ddof in ((64, 1), (2, 1), (1, 0)):
        part = x[:rows]
        updates = norm.apply(variables, part, train=True, mutable=["batch_stats"])[1]
        chex.assert_trees_all_close(
            updates["batch_stats"]["variance"], 0.5 + 0.5 * part.var(0, ddof=ddof), rtol=1e-5
        )
    # Statistics at rest: nothing but the variance's epsilon changes x.
    chex.assert_trees_all_close(norm.apply(variables, x), x, rtol=1e-4)


def test_conv_is_depthwise_where_groups_and_channels_agree():
    x = jax.random.normal(jax.random.key(0), (1, 5, 4, 3))
    deep = layers.Conv(3, 3, groups=3)
    variables = nn.unbox(deep.init(jax.random.key(1), x))
    assert variables["params"]["kernel"].shape == (3, 3, 1, 3)
    expected = ops.conv2d(x, variables["params"]["kernel"], groups=3)
    chex.assert_trees_all_close(deep.apply(variables, x), expected, atol=1e-6)
    wide = layers.Conv(6, 3, stride=2, padding=1).init(jax.random.key(1), x)
    assert wide["params"]["kernel"].names == (None, None, "conv_in", "conv_out")


def test_patches_must_fit():
    with pytest.raises(ValueError, match="multiples of patch_size=4"):
        layers.PatchEmbed(2, 4).init(jax.random.key(0), jnp.zeros((1, 8, 6, 3)))


def test_an_embedding_scores_what_it_embeds():
    embed = layers.Embed(7, 4)
    tokens = jnp.array([[1, 6]])
    variables = nn.unbox(embed.init(jax.random.key(0), tokens))
    table = variables["params"]["embedding"]
    x = embed.apply(variables, tokens)
    chex.assert_trees_all_equal(x[0], table[jnp.array([1, 6])])
    chex.assert_trees_all_close(embed.apply(variables, x, method="attend"), x @ table.T, atol=1e-6)


def test_a_gated_mlp_multiplies_its_two_halves():
    x = jax.random.normal(jax.random.key(0), (2, 3))
    mlp = layers.Mlp(5, activation="silu", gated=True)
    params = nn.unbox(mlp.init(jax.random.key(1), x))["params"]
    params = jax.tree.map(lambda leaf: leaf + 0.1, params)
    fc1, gate, fc2 = (params[name] for name in ("fc1", "gate", "fc2"))
    hidden = jax.nn.silu(x @ gate["kernel"] + gate["bias"]) * (x @ fc1["kernel"] + fc1["bias"])
    expected = hidden @ fc2["kernel"] + fc2["bias"]
    chex.assert_trees_all_close(mlp.apply({"params": params}, x), expected, atol=1e-6)
    with pytest.raises(ValueError, match="did you mean 'gelu'"):
        layers.activation("gellu")


def test_gelu_is_the_exact_one():
    x = jnp.linspace(-8.0, 8.0, 401)
    chex.assert_trees_all_close(layers.activation("gelu")(x), jax.nn.gelu(x, False), atol=1e-6)
    narrow = x.astype(jnp.bfloat16)
    chex.assert_trees_all_close(
        layers.activation("gelu")(narrow), jax.nn.gelu(narrow, False), atol=2e-2
    )


@pytest.mark.parametrize("use_bias", [True, False])
def test_maps_apart_are_those_of_one_product(monkeypatch, use_bias):
    # A TPU takes a product for each map; the numbers and gradients are those of one.
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 6)), jnp.float32)
    fields = {"features": (3, 2, 4), "axes": ("embed", None, "heads", "kv"), "use_bias": use_bias}
    whole, apart = layers.Dense(**fields), layers.Dense(**fields, apart=True)
    variables = nn.unbox(whole.init(jax.random.key(0), x))

    def loss(module, stack):
        return lambda *given: jnp.sum(jnp.sin(stack(module.apply(*given))))

    expected = jax.value_and_grad(loss(whole, lambda y: y), (0, 1))(variables, x)
    for platform in ("cpu", "tpu"):
        monkeypatch.setattr(layers, "platform", lambda platform=platform: platform)
        assert [y.shape for y in apart.apply(variables, x)] == [(2, 5, 2, 4)] * 3
        stack = functools.partial(jnp.stack, axis=2)
        found = jax.value_and_grad(loss(apart, stack), (0, 1))(variables, x)
        chex.assert_trees_all_close(found, expected, rtol=1e-5, atol=1e-5)
