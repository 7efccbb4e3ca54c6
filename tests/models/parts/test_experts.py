"""Mixtures of experts as MLPs: against a loop over experts and tokens, in both hosts, sharded."""

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import scanmax
from scanmax.errors import UserError
from scanmax.models.parts.experts import ExpertMlp
from scanmax.models.parts.memory import ProductKeyMemory
from scanmax.testing.model_suite import COMPILER_OPTIONS
from scanmax.testing.prng import QUICK_PRNG

D, T, E = 6, 6, 4


def loop_over_experts(params, x, top_k, capacity, gated):
    """Every token through every expert that it chose and that had room, one at a time."""

    def mlp(e, token):
        hidden = token @ params["fc1_kernel"][e] + params["fc1_bias"][e]
        if gated:
            gate = token @ params["gate_kernel"][e] + params["gate_bias"][e]
            hidden = jax.nn.silu(gate) * hidden
        else:
            hidden = jax.nn.silu(hidden)
        return hidden @ params["fc2_kernel"][e] + params["fc2_bias"][e]

    rows, dropped = [], 0
    for row in x:
        taken, out = [0] * E, []
        for token in row:
            p = jax.nn.softmax(token @ params["router"]["kernel"])
            chosen = np.argsort(-np.asarray(jax.lax.stop_gradient(p)), kind="stable")[:top_k]
            total = sum(p[e] for e in chosen) if top_k > 1 else 1.0
            y = jnp.zeros_like(token)
            for e in chosen:
                taken[e] += 1
                if taken[e] <= capacity:
                    y = y + p[e] / total * mlp(e, token)
                else:
                    dropped += 1
            out.append(y)
        rows.append(jnp.stack(out))
    return jnp.stack(rows), dropped


@pytest.mark.parametrize(
    ("top_k", "factor", "gated"), [(2, 1.0, True), (1, 0.5, False), (2, None, False)]
)
def test_it_is_a_loop_over_experts_and_tokens(top_k, factor, gated):
    with jax.enable_x64(True):
        dtypes = {"dtype": jnp.float64, "param_dtype": jnp.float64}
        model = ExpertMlp(
            8, E, top_k=top_k, capacity_factor=factor, gated=gated, activation="silu", **dtypes
        )
        rng = np.random.default_rng(0)
        x, cotangent = jnp.asarray(rng.normal(size=(2, T, D))), rng.normal(size=(2, T, D))
        params = nn.meta.unbox(jax.eval_shape(model.init, jax.random.key(0), x))["params"]
        params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), params)
        capacity = model.capacity(T, train=True)

        def found(params, x):
            y, sown = model.apply({"params": params}, x, train=True, mutable=["losses", "metrics"])
            return jnp.sum(y * cotangent), (y, sown)

        def expected(params, x):
            y, dropped = loop_over_experts(params, x, top_k, capacity, gated)
            return jnp.sum(y * cotangent), (y, dropped)

        grads, (y, sown) = jax.jit(jax.grad(found, (0, 1), has_aux=True))(params, x)
        wanted, (z, dropped) = jax.grad(expected, (0, 1), has_aux=True)(params, x)
    np.testing.assert_allclose(y, z, rtol=1e-12, atol=1e-12)
    chex.assert_trees_all_close(grads, wanted, rtol=1e-10, atol=1e-12)
    # What found no room is counted.
    assert (dropped > 0) == (factor is not None)
    np.testing.assert_allclose(sown["metrics"]["dropped"][0], dropped / (2 * T * top_k))
    # Both losses, from their definitions.
    logits = np.asarray(x) @ np.asarray(params["router"]["kernel"])
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    order = np.argsort(-p, axis=-1)[..., :top_k]
    share = np.bincount(order.ravel(), minlength=E) / order.size
    balance = 0.01 * E * np.sum(share * p.mean((0, 1)))
    z_loss = 0.001 * np.mean(np.log(np.exp(logits).sum(-1)) ** 2)
    np.testing.assert_allclose(sown["losses"]["load_balance"][0], balance, rtol=1e-10)
    np.testing.assert_allclose(sown["losses"]["router_z"][0], z_loss, rtol=1e-10)


def test_mistakes_are_named():
    model = scanmax.create_model("mamba2_130m", dim=16, depth=1, heads=2, moe={"num_experts": 4})
    with pytest.raises(UserError, match="with mlp_ratio=0 there are none"):
        jax.eval_shape(functools.partial(model.init, jax.random.key(0)), jnp.zeros((1, T), int))
    x = jnp.zeros((1, T, D))
    for fields, message in (
        ({"top_k": 5}, "top_k=5 of num_experts=4"),
        ({"eval_capacity_factor": 0.0}, "capacity_factor=0.0"),
    ):
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(functools.partial(ExpertMlp(8, E, **fields).init, jax.random.key(0)), x)


@pytest.mark.parametrize("scan", [False, True])
def test_a_language_model_of_experts_generates_what_it_reads(scan):
    model = scanmax.create_model(
        "lm_tiny", vocab_size=11, dim=8, depth=2, heads=2, moe={"num_experts": 3},
        scan_layers=scan, mixer_options={},
    )  # fmt: skip
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 11, (2, 5)))

    @functools.partial(jax.jit, compiler_options=COMPILER_OPTIONS)
    def begin(key):
        variables = nn.meta.unbox(model.init(key, tokens))
        whole = model.apply(variables, tokens)
        _, sown = model.apply(variables, tokens, train=True, mutable=["losses", "metrics"])
        return variables, whole, sown, model.apply(variables, tokens[:, :3], 5, method="prefill")

    @functools.partial(jax.jit, compiler_options=COMPILER_OPTIONS)
    def step(variables, state, token):
        return model.apply(variables, state, token, method="step")

    variables, whole, sown, (logits, state) = begin(jax.random.key(0, impl=QUICK_PRNG))
    np.testing.assert_allclose(logits, whole[:, :3], atol=1e-6)
    for index in (3, 4):
        logits, state = step(variables, state, tokens[:, index])
        np.testing.assert_allclose(logits, whole[:, index], atol=1e-6)
    # A value of each layer.
    assert sum(leaf.size for leaf in jax.tree.leaves(sown["losses"])) == 4
    assert sum(leaf.size for leaf in jax.tree.leaves(sown["metrics"])) == 2


def numbers(model, x, seed=0):
    """Random parameters."""
    rng = np.random.default_rng(seed)
    shapes = nn.meta.unbox(jax.eval_shape(model.init, jax.random.key(0), x))
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype), shapes)


def test_sigmoid_gates_without_dropping_are_a_sum_over_chosen_experts():
    """sigma-MoE: the same sums through places and sorted, with gradients, and its balance."""
    fields = {
        "router": "sigmoid", "balance": "entropy", "activation": "relu", "use_bias": False,
        "capacity_factor": None, "balance_weight": 1.0,
    }  # fmt: skip
    x = jnp.asarray(np.random.default_rng(1).normal(size=(2, T, D)), jnp.float32)
    variables = numbers(ExpertMlp(8, E, **fields), x)

    def run(variables, x, dropless):
        model = ExpertMlp(8, E, dropless=dropless, **fields)
        y, sown = model.apply(variables, x, train=True, mutable=["losses", "metrics"])
        return jnp.sum(y**2), (y, sown)

    run = jax.jit(jax.grad(run, (0, 1), has_aux=True), static_argnums=2)
    (grads, (y, sown)), (others, (z, _)) = run(variables, x, True), run(variables, x, False)
    chex.assert_trees_all_close((y, grads), (z, others), rtol=1e-4, atol=1e-4)
    params = jax.tree.map(np.asarray, variables["params"])
    logits = np.asarray(x) @ params["router"]["kernel"]
    hidden = np.maximum(np.einsum("btd,edf->btef", x, params["fc1_kernel"]), 0)
    each = np.einsum("btef,efd->bted", hidden, params["fc2_kernel"])
    chosen = np.argsort(np.argsort(-logits, -1), -1) < 2
    expected = np.sum((chosen / (1 + np.exp(-logits)))[..., None] * each, -2)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)
    p = np.mean(np.exp(logits) / np.exp(logits).sum(-1, keepdims=True), (0, 1))
    np.testing.assert_allclose(sown["losses"]["load_balance"][0], np.sum(p * np.log(p)), rtol=1e-5)


def test_routers_choose_otherwise_in_training_alone():
    rng = np.random.default_rng(2)
    # All tokens prefer the first experts.
    x = jnp.asarray(rng.normal(0.3, 0.1, size=(1, 8, D)), jnp.float32)
    shares = {}
    for router, fields in {
        "sigmoid": {}, "sinkhorn": {}, "noisy": {"balance": "importance_load"},
        "sigmoid_dropout": {"router": "sigmoid", "expert_dropout": 0.5},
    }.items():  # fmt: skip
        fields = {"router": router, "top_k": 1, "capacity_factor": None, **fields}
        model = ExpertMlp(4, E, **fields)
        variables = numbers(model, x, seed=3)
        # Every expert says its number alone.
        variables["params"] |= {
            "router": {"kernel": jnp.tile(jnp.array([3.0, 2.0, 1.0, 0.0]) / 2, (D, 1))},
            "fc2_kernel": jnp.zeros((E, 4, D)),
            "fc2_bias": jnp.eye(E, D),
        }

        def chosen(train, model=model, variables=variables):
            rngs = {"dropout": jax.random.key(0)}
            y, sown = model.apply(variables, x, train, rngs=rngs, mutable=["losses", "metrics"])
            return np.sum(np.asarray(y)[0, :, :E] > 0, 0), sown

        shares[router], sown = chosen(True)
        still, _ = chosen(False)
        assert still.tolist() == [8, 0, 0, 0]
        if router == "noisy":
            assert float(sown["losses"]["load_balance"][0]) > 0
    assert shares["sigmoid"].tolist() == [8, 0, 0, 0]
    assert (shares["sinkhorn"] > 0).sum() > 1
    assert (shares["noisy"] > 0).sum() > 1
    assert (shares["sigmoid_dropout"] > 0).sum() > 1


def test_a_router_starts_with_columns_of_one_norm_and_names_are_checked():
    x = jnp.zeros((1, T, D))
    params = ExpertMlp(8, E, dense_start=True).init(jax.random.key(0), x)["params"]
    norms = jnp.linalg.norm(nn.meta.unbox(params)["router"]["kernel"], axis=0)
    np.testing.assert_allclose(norms, norms[0], rtol=1e-5)
    for fields, message in (
        ({"router": "sigmod"}, "did you mean 'sigmoid'"),
        ({"balance": "none"}, "balance='none'"),
        ({"dropless": True, "dropout_rate": 0.1}, "no dropout within"),
    ):
        with pytest.raises(UserError, match=message):
            jax.eval_shape(functools.partial(ExpertMlp(8, E, **fields).init, jax.random.key(0)), x)


def test_a_memory_that_reads_all_rows_is_an_mlp_of_product_keys():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, 3, 4)), jnp.float32)
    model = ProductKeyMemory(3, top_k=9, heads=2)
    params = numbers(model, x)["params"]
    expected = 0
    for head in range(2):
        first = np.asarray(x)[..., :2] @ params["first"]["kernel"][:, head]
        second = np.asarray(x)[..., 2:] @ params["second"]["kernel"][:, head]
        scores = (first[..., :, None] + second[..., None, :]).reshape(2, 3, 9)
        expected = expected + np.maximum(scores, 0) @ params["values"]
    np.testing.assert_allclose(model.apply({"params": params}, x), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(UserError, match="halves its width, 3"):
        model.init(jax.random.key(0), x[..., 1:])
