"""Mixers that are attention with another logit, mask or mixture: what they apply."""

import chex
import jax
import jax.numpy as jnp
import pytest
from small_mixers import GRID, PREFIX, compiled, mixer_and_variables

from scanmax import ops
from scanmax.models.mixers.attention.position_bias import LogCpb, RelativePositionBias


@pytest.fixture(autouse=True)
def strict():
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


def applied(name, options=None, grid=GRID, **fields):
    """Variables, input, output and sown matrix of a mixer with prefix tokens."""
    mixer, variables, x = mixer_and_variables(
        name, options, grid=grid, prefix_tokens=PREFIX, **fields
    )

    def run(variables, x):
        y, state = mixer.apply(variables, x, grid=grid, mutable=["intermediates"])
        return y, state["intermediates"]["attention"][0]

    return variables, x, *compiled(run, variables, x)(variables, x)


def mixed(variables, x, matrix):
    """The output that the matrix gives with the mixer's own values and projection."""
    params = variables["params"]
    kernel, bias = params["qkv"]["kernel"][:, 2], params["qkv"]["bias"][2]
    value = jnp.einsum("btd,dhk->bthk", x, kernel) + bias[None, None]
    y = jnp.einsum("bhts,bshk->bthk", matrix, value)
    return (
        jnp.einsum("bthk,hkd->btd", y, params["out"]["kernel"]) + params["out"]["bias"][None, None]
    )


@pytest.mark.parametrize("position_bias", [None, "log_cpb", "relative"])
def test_cosine_applies_its_matrix(position_bias):
    options = {"position_bias": position_bias, "bias_hidden": 4, "pretrain_grid": (2, 5)}
    variables, x, y, matrix = applied("cosine", options)
    chex.assert_trees_all_close(y, mixed(variables, x, matrix), atol=1e-4)
    params = variables["params"]
    query, key, _ = (
        jnp.einsum("btd,dhk->bthk", x, params["qkv"]["kernel"][:, i])
        + params["qkv"]["bias"][i][None, None]
        for i in range(3)
    )
    bias = None
    if position_bias is not None:
        module = {"log_cpb": LogCpb(2, 4, (2, 5), PREFIX)}.get(
            position_bias, RelativePositionBias(2, (2, 5), PREFIX)
        )
        bias = module.apply({"params": params["position_bias"]}, GRID)
        assert not bias[:, :PREFIX].any()
        assert not bias[:, :, :PREFIX].any()
        assert bias[:, PREFIX:, PREFIX:].all()
    expected = ops.length_scaled_cosine_attention_matrix(
        query, key, params["temperature"], params["query_embedding"], bias
    )
    chex.assert_trees_all_close(matrix, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("alibi", {}),
        ("ssa", {"position": "sigmoid", "kv_heads": 2}),
        ("ssa", {"per_head": False, "combine": "product"}),
        ("soft_causal", {"strength": 0.3, "rotary_base": None}),
        ("heterogeneous", {"granularity": "layer"}),
        ("rmt", {"placement": "weights", "lepe_size": 0}),
        ("rmt_decomposed", {"lepe_size": 0}),
    ],
)
def test_the_sown_matrix_is_what_is_applied(name, options):
    variables, x, y, matrix = applied(name, options)
    params = variables["params"]
    if params["out"]["kernel"].ndim == 2:
        kernel = params["out"]["kernel"].reshape(2, -1, x.shape[-1])
        params = {**params, "out": {**params["out"], "kernel": kernel}}
    chex.assert_trees_all_close(y, mixed({"params": params}, x, matrix), rtol=1e-4, atol=1e-4)


def test_the_prefix_stands_behind_a_soft_causal_grid():
    *_, matrix = applied("soft_causal", {"strength": 0.0})
    seen = matrix[0, 0] > 0
    assert seen[:PREFIX, PREFIX:].all(), "prefix tokens read every patch"
    assert not seen[PREFIX:, :PREFIX].any(), "at strength 0 no patch reads what comes after it"
    assert jnp.array_equal(seen[PREFIX:, PREFIX:], jnp.tri(12, dtype=bool))


def test_the_strength_may_be_traced_inside_a_step():
    mixer, variables, x = mixer_and_variables("soft_causal", grid=GRID)
    traces = 0

    @jax.jit
    def step(variables, x, strength):
        nonlocal traces
        traces += 1
        return mixer.clone(strength=strength).apply(variables, x, grid=GRID)

    soft, hard = step(variables, x, jnp.array(0.5)), step(variables, x, jnp.array(0.0))
    assert traces == 1
    assert float(jnp.abs(soft - hard).max()) > 1e-3
    chex.assert_trees_all_close(hard, mixer.clone(strength=0.0).apply(variables, x, grid=GRID))


def test_rmt_starts_and_adds_as_released():
    mixer, variables, x = mixer_and_variables("rmt", grid=GRID)
    with_lepe = mixer.apply(variables, x, grid=GRID)
    params = variables["params"]
    bare = {**params}
    lepe = bare.pop("lepe")
    without = mixer.clone(lepe_size=0).apply({"params": bare}, x, grid=GRID)
    value = jnp.einsum("btd,dhk->bthk", x, params["qkv"]["kernel"][:, 2])
    value = (value + params["qkv"]["bias"][2][None, None]).reshape(2, *GRID, -1)
    added = ops.depthwise_conv2d(value, lepe["kernel"]) + lepe["bias"][None, None, None]
    expected = jnp.einsum("btd,de->bte", added.reshape(x.shape), params["out"]["kernel"])
    chex.assert_trees_all_close(with_lepe - without, expected, rtol=1e-3, atol=1e-4)


def test_selective_attention_is_plain_where_its_vectors_are_zero():
    mixer, variables, x = mixer_and_variables("ssa", {"position": None})
    params = dict(variables["params"])
    zeros = {name: jnp.zeros_like(params.pop(name)) for name in ("query_vector", "value_vector")}
    plain, _, _ = mixer_and_variables("attention")
    chex.assert_trees_all_close(
        mixer.apply({"params": {**params, **zeros}}, x), plain.apply({"params": params}, x)
    )
