"""Mamba language models: the suite of every model, prefill and step, initial values."""

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import tolerances

import scanmax
from scanmax.testing import ModelCase, ModelSuite, compare
from scanmax.testing.model_suite import COMPILER_OPTIONS

SMALL = {"vocab_size": 24, "dim": 16, "depth": 2, "d_state": 4}


class MambaSuite(ModelSuite):
    family = "mamba"
    small = (ModelCase("mamba_130m", SMALL, input_size=(9,), other_inputs=((1,), (70,))),)


def _tokens(length):
    return jax.random.randint(jax.random.key(0), (2, length), 0, SMALL["vocab_size"])


def test_prefill_and_steps_are_the_whole():
    with jax.enable_x64(True):
        exact = {"dtype": jnp.float64, "param_dtype": jnp.float64, "residual_dtype": jnp.float64}
        model = scanmax.create_model("mamba_130m", **SMALL, **exact)
        jit = functools.partial(jax.jit, compiler_options=COMPILER_OPTIONS)
        tokens = _tokens(70)
        variables = jit(model.init)(jax.random.key(1), tokens[:, :2])
        whole = jit(model.apply)(variables, tokens)
        logits, start = jit(lambda v, x: model.apply(v, x, method="prefill"))(
            variables, tokens[:, :66]
        )
        step = jit(lambda v, state, x: model.apply(v, state, x, method="step"))
        parts, state = [logits], start
        for index in range(66, 70):
            logits, state = step(variables, state, tokens[:, index])
            parts.append(logits[:, None])
        joined = jnp.concatenate(parts, axis=1)
        compare.assert_relative(joined, whole, tolerances.EQUIVALENCE_F64)
        chex.assert_trees_all_equal_shapes_and_dtypes(start, state)


def test_the_state_does_not_grow_with_the_sequence():
    model = scanmax.create_model("mamba_2.8b")
    short = jax.eval_shape(lambda: model.init_state(1, 1))
    chex.assert_trees_all_equal_shapes(short, jax.eval_shape(lambda: model.init_state(1, 10**6)))
    size = 64 * 5120 * (16 + 3)
    assert sum(leaf.size for leaf in jax.tree.leaves(short)) == size


def test_parameters_start_where_the_authors_start():
    model = scanmax.create_model("mamba_130m", vocab_size=64, dim=256, depth=4)
    params = nn.unbox(jax.jit(model.init)(jax.random.key(0), _tokens(2)))["params"]
    mixer = params["block_03"]["mixer"]
    step = jax.nn.softplus(mixer["ssm"]["dt_bias"])
    assert float(step.min()) > 0.999e-3
    assert float(step.max()) < 1.001e-1
    rates = np.exp(mixer["ssm"]["A_log"])
    np.testing.assert_allclose(rates, np.broadcast_to(np.arange(1, 17), (512, 16)), rtol=1e-5)
    chex.assert_trees_all_equal(mixer["ssm"]["D"], jnp.ones(512))
    for array, bound in (
        (mixer["in_proj"]["kernel"], 256**-0.5),
        (mixer["conv_kernel"], 0.5),
        (mixer["ssm"]["x_proj"]["kernel"], 512**-0.5),
        (mixer["ssm"]["dt_proj"]["kernel"], 0.25),
        (mixer["out_proj"]["kernel"], 512**-0.5 / 2),
    ):
        assert 0.98 * bound < float(jnp.abs(array).max()) <= bound


def test_original_names_differ_in_one_letter():
    from scanmax.models.weights.load import key_table, named_leaves
    from scanmax.models.weights.table import convert

    model = scanmax.create_model("mamba_130m", **SMALL)
    skeleton = jax.eval_shape(model.init, jax.random.key(0), _tokens(2))
    shapes = {path: leaf.shape for path, leaf in named_leaves(skeleton)}
    block = {
        "norm.weight": (16,),
        "mixer.A_log": (32, 4),
        "mixer.D": (32,),
        "mixer.conv1d.weight": (32, 1, 4),
        "mixer.conv1d.bias": (32,),
        "mixer.in_proj.weight": (64, 16),
        "mixer.out_proj.weight": (16, 32),
        "mixer.x_proj.weight": (9, 32),
        "mixer.dt_proj.weight": (32, 1),
        "mixer.dt_proj.bias": (32,),
    }
    tensors = {
        "backbone.embedding.weight": (24, 16),
        "backbone.norm_f.weight": (16,),
        "lm_head.weight": (24, 16),
        **{f"backbone.layers.{i}.{k}": v for i in range(2) for k, v in block.items()},
    }
    converted, problems = convert(
        {name: np.zeros(shape, np.float32) for name, shape in tensors.items()},
        key_table(model).rows,
        shapes,
    )
    assert not problems, problems
    assert set(converted) == set(shapes)
