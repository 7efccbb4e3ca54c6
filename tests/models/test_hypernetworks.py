"""Weights that follow numbers: their size, their equation, and modules of several collections."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scanmax.errors import UserError
from scanmax.models import create_model
from scanmax.models.hypernetworks import HyperNet, Hypernetized

SHAPES = {"fc/kernel": (3, 4), "fc/bias": (4,)}
GAMMA = jnp.asarray([0.2, 0.9])


class Primary(nn.Module):
    """A net with a batch norm and dropout."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Dense(5, name="fc")(x)
        x = nn.BatchNorm(use_running_average=not train, name="norm")(x)
        x = nn.Dropout(0.5, deterministic=not train)(nn.relu(x))
        return nn.Dense(3, name="out")(x)


def by_loops(params, gamma, hidden):
    """The net, number by number, in float64."""
    h = [np.cos(np.pi * z / 2) for z in gamma] + [np.sin(np.pi * z / 2) for z in gamma]
    for index, width in enumerate(hidden):
        layer = jax.tree.map(lambda x: np.asarray(x, np.float64), params[f"layer_{index}"])
        sums = [
            sum(h[i] * layer["kernel"][i, j] for i in range(len(h))) + layer["bias"][j]
            for j in range(width)
        ]
        h = [z if z > 0 else 0.01 * z for z in sums]
    made = {}
    for name, head in params.items():
        if name.startswith("head_"):
            kernel = np.asarray(head["kernel"], np.float64)
            own = [sum(h[i] * kernel[i, j] for i in range(len(h))) for j in range(kernel.shape[1])]
            made[name.removeprefix("head_").replace("__", "/")] = np.array(own)
    return made


def test_the_net_is_its_equation():
    net = HyperNet(SHAPES, hidden=(6, 7))
    variables = nn.unbox(net.init(jax.random.key(0), GAMMA))
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda x: x + 0.1 * rng.normal(size=x.shape), variables)
    made = net.apply(variables, GAMMA)
    expected = by_loops(variables["params"], np.asarray(GAMMA, np.float64), (6, 7))
    assert made.keys() == SHAPES.keys()
    for name, own in made.items():
        assert own.shape == SHAPES[name]
        np.testing.assert_allclose(own.ravel(), expected[name], rtol=1e-4, atol=1e-6)
    many = jnp.stack([GAMMA, 1 - GAMMA])
    together = net.apply(variables, many)
    np.testing.assert_allclose(together["fc/kernel"][0], made["fc/kernel"], rtol=1e-5, atol=1e-6)


def test_starts_are_kaimings_by_what_a_head_makes():
    net = HyperNet({"a": (40, 50), "b": (500,)}, hidden=(300, 400))
    params = nn.unbox(jax.jit(net.init)(jax.random.key(0), GAMMA))["params"]
    outputs = {"layer_0": 300, "layer_1": 400, "head_a": 2000, "head_b": 500}
    for name, count in outputs.items():
        deviation = np.std(params[name]["kernel"])
        assert deviation == pytest.approx((2 / count) ** 0.5, rel=0.05), name
    assert not np.any(params["layer_0"]["bias"])


def test_weights_grow_with_the_number_unless_it_is_encoded():
    x, lengths = jnp.ones((1, 4)), {}
    numbers = np.array([0.01, 0.1, 0.5, 1.0])
    for encoding, residual in ((None, False), ("cos|sin", True)):
        model = Hypernetized(Primary(), (16, 32), encoding, residual, match=("kernel",))
        params = nn.unbox(model.init(jax.random.key(1), jnp.ones(1), x))["params"]
        net = HyperNet({"fc/kernel": (4, 5), "out/kernel": (5, 3)}, (16, 32), encoding)
        made = net.apply({"params": params["hyper"]}, jnp.asarray(numbers)[:, None])
        theta = params["primary"]["fc"]["kernel"][None] + made["fc/kernel"]
        lengths[encoding] = np.linalg.norm(np.asarray(theta).reshape(4, -1), axis=1)
    np.testing.assert_allclose(lengths[None] / lengths[None][-1], numbers, rtol=1e-4)
    assert lengths["cos|sin"].max() / lengths["cos|sin"].min() < 1.6


def test_a_module_with_several_collections_follows():
    x = jax.random.normal(jax.random.key(2), (6, 4))
    model = Hypernetized(Primary(), hidden=(8,), match=("fc", "out/kernel"))
    variables = nn.unbox(model.init(jax.random.key(0), GAMMA, x))
    params = variables["params"]
    alone = Primary().init(jax.random.key(9), x)
    shapes = functools.partial(jax.tree.map, jnp.shape)
    assert shapes(params["primary"]) == shapes(alone["params"])
    # theta0 starts as the module's own do
    assert np.all(params["primary"]["norm"]["scale"] == 1)
    assert 0.2 < np.std(params["primary"]["fc"]["kernel"]) < 0.8
    made = by_loops(params["hyper"], np.asarray(GAMMA, np.float64), (8,))
    assert set(made) == {"fc/kernel", "fc/bias", "out/kernel"}
    theta = jax.tree.map(jnp.asarray, params["primary"])
    for name, own in made.items():
        layer, leaf = name.split("/")
        theta[layer][leaf] += own.reshape(theta[layer][leaf].shape)

    @jax.jit
    def run(params, gamma):
        return model.apply(
            {**variables, "params": params},
            gamma,
            x,
            train=True,
            rngs={"dropout": jax.random.key(4)},
            mutable=["batch_stats"],
        )

    y, state = run(params, GAMMA)
    stats = variables["batch_stats"]["primary"]
    _, expected = Primary().apply(
        {"params": theta, "batch_stats": stats},
        x,
        train=True,
        rngs={"dropout": jax.random.key(4)},
        mutable=["batch_stats"],
    )
    moved = state["batch_stats"]["primary"]
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6),
        moved,
        expected["batch_stats"],
    )
    found = model.apply({**variables, **state}, GAMMA, x)
    plain = Primary().apply({"params": theta, **expected}, x)
    np.testing.assert_allclose(found, plain, rtol=1e-4, atol=1e-5)
    # Each example at its own numbers, and gradients in all that is learned and in the numbers.
    many = jnp.stack([GAMMA, 1 - GAMMA])
    each = jax.vmap(lambda gamma, row: model.apply(variables, gamma, row[None])[0])(many, x[:2])
    np.testing.assert_allclose(each[0], model.apply(variables, GAMMA, x[:1])[0], rtol=1e-4)
    loss = jax.jit(jax.grad(lambda p, g: (run(p, g)[0] ** 2).sum(), argnums=(0, 1)))
    gradients, of_gamma = loss(params, GAMMA)
    assert all(np.any(leaf) for leaf in jax.tree.leaves((gradients["hyper"], of_gamma)))
    assert all(np.any(leaf) for leaf in jax.tree.leaves(gradients["primary"]["out"]))
    assert y.shape == (6, 3)


def test_a_network_by_name_follows_scanned_too():
    fields = {"img_size": 8, "patch_size": 4, "dim": 8, "depth": 2, "heads": 2, "num_classes": 3}
    images = jax.random.normal(jax.random.key(1), (2, 8, 8, 1))
    primary = create_model("vit_tiny_patch16_224", **fields, scan_layers=True, remat=True)
    model = Hypernetized(primary, hidden=(4,), match=("mlp/fc./kernel", "^head"))
    variables = nn.unbox(jax.jit(model.init)(jax.random.key(0), GAMMA, images))
    heads = {name for name in variables["params"]["hyper"] if name.startswith("head_")}
    assert heads == {
        "head_blocks__mlp__fc1__kernel",
        "head_blocks__mlp__fc2__kernel",
        "head_head__bias",
        "head_head__kernel",
    }

    def loss(params, gamma):
        return (model.apply({"params": params}, gamma, images, train=True) ** 2).sum()

    gradients = jax.jit(jax.grad(loss))(variables["params"], GAMMA)
    assert all(np.any(gradients["hyper"][name]["kernel"]) for name in heads)


@pytest.mark.parametrize(
    ("fields", "gamma", "message"),
    [
        ({"match": ("conv",)}, GAMMA, "match='conv' is none of fc/bias, fc/kernel"),
        ({}, GAMMA[None], r"gamma has shape \(1, 2\); expected \[G\]"),
    ],
)
def test_mistakes_are_one_line(fields, gamma, message):
    model = Hypernetized(Primary(), **fields)
    with pytest.raises(UserError, match=message):
        jax.eval_shape(model.init, jax.random.key(0), gamma, jnp.ones((1, 4)))
