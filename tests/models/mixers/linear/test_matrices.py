"""The mixers of the linear family: their sown matrices, and what surrounds the ops in them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_mixers import DIM, GRID, PREFIX, TOKENS, mixer_and_variables

from scanmax import ops


def run(mixer, variables, x):
    grid = GRID if mixer.prefix_tokens else None

    @jax.jit
    def apply(variables, x):
        y, state = mixer.apply(variables, x, grid=grid, mutable=["intermediates"])
        return y, state["intermediates"]["attention"][0]

    return apply(variables, x)


def projected(params, x, name):
    kernel, bias = params[name]["kernel"], params[name]["bias"]
    return jnp.einsum("btd,dnhk->nbthk", x, kernel) + bias[:, None, None]


def output(params, y):
    return jnp.einsum("bthk,hkd->btd", y, params["out"]["kernel"]) + params["out"]["bias"]


@pytest.mark.parametrize("name", ["scaling", "cosformer", "performer", "inline", "mala", "rala"])
def test_the_sown_matrix_is_what_the_mixer_applies(name):
    bare = {"lepe_size": 0, "gate": False} if name in ("mala", "rala") else {}
    bare = {"local": False} if name == "inline" else bare
    mixer, variables, x = mixer_and_variables(name, bare, prefix_tokens=PREFIX)
    y, matrix = run(mixer, variables, x)
    assert matrix.shape == (2, 2, TOKENS, TOKENS)
    if name in ("performer", "inline"):
        np.testing.assert_allclose(matrix.sum(-1), 1, atol=1e-4)
    params = variables["params"]
    value = projected(params, x, "qkvo" if name in ("mala", "rala") else "qkv")[2]
    expected = output(params, jnp.einsum("bhts,bshk->bthk", matrix, value))
    np.testing.assert_allclose(y, expected, rtol=1e-3, atol=1e-3)


def test_the_local_term_and_the_gate_stand_around_the_attention():
    mixer, variables, x = mixer_and_variables("mala", prefix_tokens=PREFIX)
    y, matrix = run(mixer, variables, x)
    params = variables["params"]
    value, gate = projected(params, x, "qkvo")[2:]
    maps = value[:, PREFIX:].reshape(2, *GRID, DIM)
    lepe = params["lepe"]
    local = ops.depthwise_conv2d(maps, lepe["kernel"]) + lepe["bias"]
    local = jnp.pad(local.reshape(2, -1, 2, DIM // 2), ((0, 0), (PREFIX, 0), (0, 0), (0, 0)))
    mixed = jnp.einsum("bhts,bshk->bthk", matrix, value)
    np.testing.assert_allclose(y, output(params, (mixed + local) * gate), rtol=1e-3, atol=1e-3)


def test_positions_turn_features_after_the_map_and_leave_the_prefix():
    mixer, variables, x = mixer_and_variables("mala", prefix_tokens=PREFIX)
    _, matrix = run(mixer, variables, x)
    query, key = projected(variables["params"], x, "qkvo")[:2]
    phi = [jnp.where(a > 0, a + 1, jnp.exp(jnp.minimum(a, 0))) for a in (query, key)]
    options = {"grid": GRID, "layout": "interleaved", "endpoint": True, "prefix_tokens": PREFIX}
    turned = [ops.rotary_2d(a, **options) for a in phi]
    expected = ops.mala_attention_matrix(
        query, key, turned_query=turned[0], turned_key=turned[1], scale=(DIM / 2) ** -0.5
    )
    np.testing.assert_allclose(matrix, expected, rtol=1e-4, atol=1e-5)


def test_the_image_chooses_the_taps_of_its_values():
    mixer, variables, x = mixer_and_variables("inline", prefix_tokens=PREFIX)
    y, matrix = run(mixer, variables, x)
    params = variables["params"]
    value = projected(params, x, "qkv")[2]
    mean = np.asarray(x.mean(1)).reshape(2, 2, 4)
    first, second = params["residual1"], params["residual2"]
    hidden = jax.nn.gelu(
        jnp.einsum("bhc,hcd->bhd", mean, first["kernel"]) + first["bias"], approximate=False
    )
    taps = jnp.einsum("bhc,hcd->bhd", hidden, second["kernel"]) + second["bias"]
    # nine taps of a channel after another, as a torch convolution has them
    taps = np.asarray(taps).reshape(2, DIM, 3, 3)
    maps = np.asarray(value[:, PREFIX:]).reshape(2, *GRID, DIM)
    padded = np.pad(maps, ((0, 0), (1, 1), (1, 1), (0, 0)))
    local = np.zeros_like(maps)
    for i in range(3):
        for j in range(3):
            window = padded[:, i : i + GRID[0], j : j + GRID[1]]
            local += taps[:, None, None, :, i, j] * window
    mixed = np.array(jnp.einsum("bhts,bshk->bthk", matrix, value))
    mixed[:, PREFIX:] += local.reshape(2, -1, 2, 4)
    np.testing.assert_allclose(y, output(params, mixed), rtol=1e-3, atol=1e-3)


def test_the_performer_comes_near_softmax_with_many_features():
    mixer, variables, x = mixer_and_variables("performer", {"num_features": 8192})
    _, matrix = run(mixer, variables, 0.2 * x)
    query, key = projected(variables["params"], 0.2 * x, "qkv")[:2]
    exact = ops.attention_matrix(query, key)
    error = jnp.linalg.norm(matrix - exact) / jnp.linalg.norm(exact - 1 / TOKENS)
    # against the spread of the weights around equal ones
    assert float(error) < 0.4


@pytest.mark.parametrize("name", ["mala", "gated_attention", "inline"])
def test_a_local_term_is_refused_where_the_past_must_not_see_it(name):
    options = {"local": True} if name == "inline" else {"lepe_size": 3}
    with pytest.raises(ValueError, match="no causal form"):
        mixer_and_variables(name, options, is_causal=True)
