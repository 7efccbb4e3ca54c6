"""The equations of the basic mixers: what they sow is what they apply."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_mixers import GRID, PREFIX, TOKENS, mixer_and_variables

from scanmax import ops


@pytest.fixture(autouse=True)
def strict():
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


@pytest.mark.parametrize("name", ["attention", "linear_attention"])
def test_the_sown_matrix_is_what_attention_applies(name):
    mixer, variables, x = mixer_and_variables(name, prefix_tokens=PREFIX)
    params = variables["params"]

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
    mixer, variables, _ = mixer_and_variables("ssd", prefix_tokens=PREFIX)
    params = variables["params"]
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
