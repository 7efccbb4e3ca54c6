"""Local mixers: what they sow is what they apply, prefix tokens and rolled heads included."""

import chex
import jax.numpy as jnp
import numpy as np
import pytest
from small_mixers import GRID, PREFIX, TOKENS, compiled, mixer_and_variables


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("window", {}),
        ("shifted_window", {}),
        ("neighborhood", {}),
        ("halo", {}),
        ("msa_conv", {"cyclic_shift": 1}),
    ],
)
def test_the_sown_matrix_is_what_the_mixer_applies(name, options):
    mixer, variables, x = mixer_and_variables(name, options, prefix_tokens=PREFIX, grid=GRID)

    def run(variables, x):
        y, state = mixer.apply(variables, x, grid=GRID, mutable=["intermediates"])
        return y, state["intermediates"]["attention"][0]

    y, matrix = compiled(run, variables, x)(variables, x)
    chex.assert_shape(matrix, (2, 2, TOKENS, TOKENS))
    params = variables["params"]
    kernel, bias = params["qkv"]["kernel"][:, 2], params["qkv"]["bias"][2]
    value = jnp.einsum("btd,dhk->bthk", x, kernel) + bias[None, None]
    mixed = jnp.einsum("bhts,bshk->bthk", matrix, value)
    expected = jnp.einsum("bthk,hkd->btd", mixed, params["out"]["kernel"])
    chex.assert_trees_all_close(y, expected + params["out"]["bias"][None, None], atol=1e-4)


def test_where_aggregated_attention_looks():
    options = {"pool_ratio": 2}
    mixer, variables, x = mixer_and_variables(
        "aggregated", options, prefix_tokens=PREFIX, grid=GRID
    )
    params = dict(variables["params"])
    for name in ("learnable_tokens", "learnable_bias"):
        params[name] = jnp.zeros_like(params[name])

    def run(params, x):
        _, state = mixer.apply({"params": params}, x, grid=GRID, mutable=["intermediates"])
        return state["intermediates"]["attention"][0]

    matrix = compiled(run, params, x)(params, x)
    # pooled weights are shared among pixels, so that every row still sums to one
    np.testing.assert_allclose(matrix.sum(-1), np.ones((2, 2, TOKENS)), rtol=1e-5)
    assert float(matrix.min()) >= 0
