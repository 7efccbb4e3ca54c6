"""The soft and tensor mixers: their equations, their landmarks, and what the polynomial leaves."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scanmax.errors import UserError
from scanmax.models.mixers import create_mixer

GRID, PREFIX, DIM = (3, 4), 1, 8
TOKENS = PREFIX + GRID[0] * GRID[1]


@pytest.fixture(autouse=True)
def strict():
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


def mixer_and_params(name, grid=GRID, **options):
    mixer = create_mixer(name, heads=2, prefix_tokens=PREFIX, options=options)
    x = jax.random.normal(jax.random.key(0), (2, PREFIX + grid[0] * grid[1], DIM))
    boxed = jax.eval_shape(lambda key: mixer.init(key, x, grid=grid), jax.random.key(1))["params"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(0.5 * rng.normal(size=leaf.shape), leaf.dtype), nn.unbox(boxed)
    )
    return mixer, params, x


@pytest.mark.parametrize(
    "options", [{}, {"landmarks": "average", "normalize": True, "conv_size": 5, "ratio": 3}]
)
def test_the_sown_matrix_of_soft_is_all_that_it_applies(options):
    mixer, params, x = mixer_and_params("soft", **options)

    @jax.jit
    def run(params, x):
        return mixer.apply({"params": params}, x, grid=GRID, mutable=["intermediates"])

    y, state = run(params, x)
    matrix = state["intermediates"]["attention"][0]
    chex.assert_shape(matrix, (2, 2, TOKENS, TOKENS))
    kernel, bias = params["value"]["kernel"], params["value"]["bias"]
    value = jnp.einsum("btd,dhk->bthk", x, kernel) + bias[None, None]
    mixed = jnp.einsum("bhts,bshk->bthk", matrix, value)
    expected = jnp.einsum("bthk,hkd->btd", mixed, params["out"]["kernel"])
    chex.assert_trees_all_close(y, expected + params["out"]["bias"][None, None], atol=1e-4)


def test_the_landmarks_of_soft_are_pooled_within_heads_and_windows():
    grid = (4, 6)
    mixer, params, _ = mixer_and_params("soft", grid, landmarks="average")
    query = jax.random.normal(jax.random.key(3), (2, 24, 2, 4))
    pooled = mixer.apply({"params": params}, query, grid, method="pool")
    maps = query.reshape(2, 2, 2, 3, 2, 2, 4)
    chex.assert_trees_all_close(pooled, maps.mean((2, 4)).reshape(2, 6, 2, 4), atol=1e-6)

    # the released order: a convolution of kernel and stride 2 within a head, then the norm
    mixer, params, x = mixer_and_params("soft", grid)
    _, state = mixer.apply(
        {"params": params},
        x,
        grid=grid,
        capture_intermediates=lambda module, _: module.name == "landmark_norm",
        mutable=["intermediates"],
    )
    (found,) = state["intermediates"]["landmark_norm"]["__call__"]
    query = jnp.einsum("btd,dhk->bthk", x, params["query"]["kernel"])
    query = (query + params["query"]["bias"][None, None])[:, PREFIX:] * 4**-0.25
    windows = query.reshape(2, 2, 2, 3, 2, 2, 4)
    convolved = jnp.einsum("byixjhk,ijkc->bhyxc", windows, params["landmark_conv"]["kernel"])
    centred = convolved - convolved.mean(-1, keepdims=True)
    normed = centred / jnp.sqrt(jnp.mean(centred**2, -1, keepdims=True) + 1e-5)
    scale, bias = (params["landmark_norm"][name] for name in ("scale", "bias"))
    normed = normed * scale[None, None, None, None] + bias[None, None, None, None]
    chex.assert_trees_all_close(found, normed.reshape(4, 2, 3, 4), atol=1e-4)


def test_averaged_landmarks_at_the_edge_are_of_pixels_only():
    mixer, params, _ = mixer_and_params("soft", (3, 5), landmarks="average")
    query = jnp.ones((1, 15, 2, 4))
    pooled = mixer.apply({"params": params}, query, (3, 5), method="pool")
    chex.assert_trees_all_close(pooled, jnp.ones((1, 6, 2, 4)))


def test_tensor_reads_pairs():
    mixer, params, x = mixer_and_params("tensor")
    # logits of size one, which a polynomial follows
    x = 0.4 * x
    made = jnp.einsum("btd,dnhk->nbthk", x, params["qkkvv"]["kernel"])
    made = made + params["qkkvv"]["bias"][:, None, None]
    q, k1, k2, v1, v2 = made
    weights = jnp.einsum("bthd,bjhd,bkhd->bhtjk", q, k1, k2) / 4
    weights = jax.nn.softmax(weights.reshape(2, 2, TOKENS, -1), -1).reshape(weights.shape)
    y = jnp.einsum("bhtjk,bjhv,bkhv->bthv", weights, v1, v2)
    expected = jnp.einsum("bthk,hkd->btd", y, params["out"]["kernel"])
    expected = expected + params["out"]["bias"][None, None]
    run = jax.jit(lambda m, p, x: m.apply({"params": p}, x), static_argnums=0)
    chex.assert_trees_all_close(run(mixer, params, x), expected, atol=1e-4)
    errors = [
        float(jnp.abs(run(mixer.clone(degree=degree), params, x) - expected).max())
        for degree in (1, 3)
    ]
    assert errors[1] < errors[0] / 3


def test_users_mistakes_are_told():
    with pytest.raises(UserError, match="landmarks='max' is not one of conv, average"):
        mixer_and_params("soft", landmarks="max")
