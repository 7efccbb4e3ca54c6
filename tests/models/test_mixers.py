"""Mixers: their equations, their prefix tokens, and one token at a time."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scanmax import ops
from scanmax.errors import UserError
from scanmax.models.mixers import MIXERS, create_mixer

GRID, PREFIX, DIM = (3, 4), 2, 8
TOKENS = PREFIX + GRID[0] * GRID[1]
CAUSAL = sorted(set(MIXERS) - {"nc_ssd"})


@pytest.fixture(autouse=True)
def strict():
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


def mixer_and_params(name, **fields):
    mixer = create_mixer(name, heads=2, **fields)
    x = jax.random.normal(jax.random.key(0), (2, TOKENS, DIM))
    boxed = jax.eval_shape(lambda key: mixer.init(key, x), jax.random.key(1))["params"]
    rng = np.random.default_rng(0)
    # None of them zero or small, as some start; nothing is compiled.
    params = jax.tree.map(
        lambda leaf: jnp.asarray(0.3 * rng.normal(size=leaf.shape) + 0.1, leaf.dtype),
        nn.unbox(boxed),
    )
    return mixer, params, x


@pytest.mark.parametrize("name", ["attention", "linear_attention"])
def test_the_sown_matrix_is_what_attention_applies(name):
    mixer, params, x = mixer_and_params(name, prefix_tokens=PREFIX)

    @jax.jit
    def run(params, x):
        y, state = mixer.apply({"params": params}, x, grid=GRID, mutable=["intermediates"])
        return y, state["intermediates"]["attention"][0]

    y, matrix = run(params, x)
    chex.assert_shape(matrix, (2, 2, TOKENS, TOKENS))
    chex.assert_trees_all_close(matrix.sum(-1), jnp.ones((2, 2, TOKENS)), atol=1e-5)
    kernel, bias = params["qkv"]["kernel"][:, 2], params["qkv"]["bias"][2]
    value = jnp.einsum("btd,dhk->bthk", x, kernel) + bias[None, None]
    mixed = jnp.einsum("bhts,bshk->bthk", matrix, value)
    expected = jnp.einsum("bthk,hkd->btd", mixed, params["out"]["kernel"])
    chex.assert_trees_all_close(y, expected + params["out"]["bias"][None, None], atol=1e-4)


def test_the_bidirectional_scan_counts_each_token_once():
    mixer, params, _ = mixer_and_params("ssd", prefix_tokens=PREFIX)
    rng = np.random.default_rng(0)
    xbc = jnp.asarray(rng.normal(size=(1, 6, 16 + 2 * 64)), jnp.float32)
    dt = jnp.asarray(rng.normal(size=(1, 6, 2)), jnp.float32)
    A, D = -jnp.array([0.5, 1.0]), jnp.array([1.0, 2.0])
    rates = {"A": A, "D": D, "dt_bias": jnp.zeros(2)}
    y, state = mixer.apply(
        {"params": params}, xbc, dt, rates, method="scan_both", mutable=["intermediates"]
    )
    x, B, C = jnp.split(xbc, (16, 80), axis=-1)
    x, B, C = x.reshape(1, 6, 2, 8), B[:, :, None], C[:, :, None]
    forward = ops.ssd(x, dt, A, B, C, dt_softplus=True)
    x_back, dt_back, B_back, C_back = (jnp.flip(array, 1) for array in (x, dt, B, C))
    backward = jnp.flip(ops.ssd(x_back, dt_back, A, B_back, C_back, dt_softplus=True), 1)
    own = jnp.sum(C * B, -1)[..., None] * jax.nn.softplus(dt)[..., None] * x
    skip = D[None, None, :, None] * x
    chex.assert_trees_all_close(y, forward + backward - own + skip, rtol=1e-4, atol=1e-4)
    # The sown matrix is the hidden attention of this sum.
    mixed = jnp.einsum("bhts,bshp->bthp", state["intermediates"]["attention"][0], x)
    chex.assert_trees_all_close(mixed + skip, y, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", sorted(set(MIXERS) - {"mamba2"}))
def test_prefix_and_grid_see_each_other(name):
    mixer, params, x = mixer_and_params(name, prefix_tokens=PREFIX)

    @jax.jit
    def influence(x):
        tangent = jax.jacobian(lambda x: mixer.apply({"params": params}, x, grid=GRID)[0].sum(-1))(
            x
        )
        return jnp.abs(tangent[:, 0]).sum(-1)

    # Every output depends on every input, the class token on every patch.
    assert float(influence(x).min()) > 0


@pytest.mark.parametrize("name", CAUSAL)
def test_causal_mixers_read_the_past_only(name):
    mixer, params, x = mixer_and_params(name, is_causal=True)
    run = jax.jit(lambda x: mixer.apply({"params": params}, x))
    changed = run(x.at[:, 7:].add(1.0))
    chex.assert_trees_all_close(changed[:, :7], run(x)[:, :7], atol=1e-5)
    assert float(jnp.abs(changed[:, 7:] - run(x)[:, 7:]).min(axis=(0, 2)).max()) > 0


OPTIONS = {
    "attention": (
        {},
        {"kv_heads": 1, "rotary_base": 100.0, "qk_norm": True},
        {"local_window_size": 3, "logits_soft_cap": 2.0},
        {"normalizer": "stablemax"},
    ),
    "linear_attention": ({}, {"normalize": False}),
    "mamba2": ({},),
    "ssd": ({"state_size": 4, "groups": 2},),
}


@pytest.mark.parametrize(
    ("name", "options"), [(name, options) for name in CAUSAL for options in OPTIONS[name]]
)
def test_parts_and_single_tokens_give_the_whole(name, options):
    mixer, params, x = mixer_and_params(name, is_causal=True, options=options)
    whole = jax.jit(lambda x: mixer.apply({"params": params}, x))(x)
    run = jax.jit(lambda x, state: mixer.apply({"params": params}, x, state=state))
    state, outputs = mixer.init_state(2, TOKENS, DIM), []
    for part in (x[:, :5], x[:, 5:6], x[:, 6:7], x[:, 7:]):
        y, state = run(part, state)
        outputs.append(y)
    chex.assert_trees_all_close(jnp.concatenate(outputs, 1), whole, rtol=1e-4, atol=1e-4)


def test_nc_ssd_knows_no_order_without_its_convolution():
    mixer, params, x = mixer_and_params("nc_ssd", options={"conv_size": 1})
    run = jax.jit(lambda x: mixer.apply({"params": params}, x))
    order = np.random.default_rng(0).permutation(TOKENS)
    chex.assert_trees_all_close(run(x[:, order]), run(x)[:, order], atol=1e-4)


def test_a_users_mistake_is_told():
    with pytest.raises(UserError, match="unknown mixer 'atention'; did you mean 'attention'"):
        create_mixer("atention", heads=1)
    with pytest.raises(UserError, match="no field 'kv_head'; did you mean 'kv_heads'"):
        create_mixer("attention", heads=1, options={"kv_head": 1})
    x = jnp.zeros((1, 4, 6))
    with pytest.raises(ValueError, match="heads=4 do not divide 6"):
        create_mixer("attention", heads=4).init(jax.random.key(0), x)
    with pytest.raises(ValueError, match="no causal form"):
        create_mixer("nc_ssd", heads=2, is_causal=True).init(jax.random.key(0), x)
    with pytest.raises(ValueError, match="expected 2 \\* 3 tokens"):
        create_mixer("nc_ssd", heads=2).init(jax.random.key(0), x, grid=(2, 3))
    with pytest.raises(NotImplementedError, match="cannot generate"):
        create_mixer("nc_ssd", heads=2).init_state(1, 2, 4)
