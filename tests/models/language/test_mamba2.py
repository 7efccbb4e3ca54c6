"""Mamba-2 language models: the suite of every model, prefill and step, initial values."""

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import tolerances

import scanmax
from scanmax.models.mixers import MIXERS
from scanmax.testing import ModelCase, ModelSuite, compare
from scanmax.testing.model_suite import COMPILER_OPTIONS

SMALL = {"vocab_size": 24, "dim": 16, "depth": 2, "heads": 4, "state_size": 8}


class Mamba2Suite(ModelSuite):
    family = "mamba2"
    small = (
        ModelCase(
            "mamba2_130m", {**SMALL, "groups": 2}, input_size=(9,), other_inputs=((1,), (70,))
        ),
    )


def _tokens(length, seed=0):
    return jax.random.randint(jax.random.key(seed), (2, length), 0, SMALL["vocab_size"])


class RecurrenceTest(chex.TestCase):
    """A prompt read at once and then token by token gives the logits of the whole."""

    def test_prefill_and_steps_are_the_whole(self):
        self.enterContext(jax.enable_x64(True))
        exact = {"dtype": jnp.float64, "param_dtype": jnp.float64, "residual_dtype": jnp.float64}
        model = scanmax.create_model("mamba2_130m", **SMALL, **exact, groups=2)
        # Longer than a chunk of the scan, which is 64 tokens.
        tokens = _tokens(70)
        jit = functools.partial(jax.jit, compiler_options=COMPILER_OPTIONS)
        variables = jit(model.init)(jax.random.key(1), tokens[:, :2])
        whole = jit(model.apply)(variables, tokens)
        prefill = jit(lambda v, x: model.apply(v, x, method="prefill"))
        step = jit(lambda v, state, x: model.apply(v, state, x, method="step"))
        logits, state = prefill(variables, tokens[:, :65])
        parts, start = [logits], state
        for index in range(65, 70):
            logits, state = step(variables, state, tokens[:, index])
            parts.append(logits[:, None])
        joined = np.concatenate(parts, axis=1)
        compare.assert_relative(joined, whole, tolerances.EQUIVALENCE_F64)
        chex.assert_trees_all_equal_shapes_and_dtypes(start, state)

    def test_state_does_not_grow_with_the_sequence(self):
        model = scanmax.create_model("mamba2_2.7b")
        short = jax.eval_shape(lambda: model.init_state(1, 1))
        chex.assert_trees_all_equal_shapes(
            short, jax.eval_shape(lambda: model.init_state(1, 10**6))
        )
        heads, width, past = 80, 5120, 3
        size = 64 * (heads * 128 * 64 + past * (width + 2 * 128))
        self.assertEqual(sum(leaf.size for leaf in jax.tree.leaves(short)), size)


class InitialValuesTest(chex.TestCase):
    """Parameters start where the authors' start."""

    def test_distributions(self):
        model = scanmax.create_model("mamba2_130m", vocab_size=64, dim=256, depth=4, heads=128)
        params = nn.unbox(jax.jit(model.init)(jax.random.key(0), _tokens(2)))["params"]
        mixer = params["block_03"]["mixer"]
        step = jax.nn.softplus(mixer["dt_bias"])
        rate = jnp.exp(mixer["A_log"])
        for values, low, high in ((step, 1e-3, 1e-1), (rate, 1.0, 16.0)):
            self.assertGreaterEqual(float(values.min()), low * 0.999)
            self.assertLessEqual(float(values.max()), high * 1.001)
        # Log-uniform: half of the steps lie below the geometric mean of the bounds.
        self.assertAlmostEqual(float(jnp.mean(step < 1e-2)), 0.5, delta=0.15)
        self.assertAlmostEqual(float(jnp.mean(rate)), 8.5, delta=1.5)
        chex.assert_trees_all_equal(mixer["D"], jnp.ones(128))
        # Uniform by fan-in; the output smaller by the root of the depth.
        for array, bound in (
            (mixer["in_proj"]["kernel"], 256**-0.5),
            (mixer["conv_kernel"], 0.5),
            (mixer["conv_bias"], 0.5),
            (mixer["out_proj"]["kernel"], 512**-0.5 / 2),
        ):
            self.assertLessEqual(float(jnp.abs(array).max()), bound)
            self.assertGreater(float(jnp.abs(array).max()), 0.98 * bound)
            self.assertAlmostEqual(float(array.std()) / bound, 3**-0.5, delta=0.03)
        self.assertAlmostEqual(float(params["embed"]["embedding"].std()), 0.02, delta=1e-3)


class MixerTest(chex.TestCase):
    def test_the_mixer_is_the_causal_ssd(self):
        x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 7, 16)), jnp.float32)
        fields = {"heads": 4, "state_size": 8, "is_causal": True, "use_bias": False}
        mamba2, ssd = MIXERS["mamba2"](**fields), MIXERS["ssd"](**fields)
        variables = jax.jit(mamba2.init)(jax.random.key(0), x)
        outputs = [jax.jit(mixer.apply)(variables, x) for mixer in (mamba2, ssd)]
        chex.assert_trees_all_equal(*outputs)
