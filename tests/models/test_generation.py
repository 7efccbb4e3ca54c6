"""Sampling: what is kept, what is drawn, where it stops, for recurrent and attention models."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

import scanmax
from scanmax.models import generation
from scanmax.models.generation import generate, restrict

VOCAB = 24
MODELS = {
    "mamba2": ("mamba2_130m", {"dim": 16, "depth": 2, "heads": 4, "state_size": 8}),
    "attention": ("lm_tiny", {"dim": 16, "depth": 2, "heads": 2}),
    "scanned": (
        "mamba2_130m",
        {
            **{"dim": 16, "depth": 2, "heads": 4, "state_size": 8, "scan_layers": True},
            "dt_limit": (0.02, 0.05),
        },
    ),
}
# Does not keep packed sequences apart.
MODELS["cosine"] = ("lm_tiny", {"dim": 16, "depth": 2, "heads": 2, "mixer": "cosine"})
PROMPT = jnp.array([[1, 2, 3, 4, 5], [5, 4, 3, 2, 1]], jnp.int32)
_built = {}


class Spoken(nn.Module):
    """A model that says the same of every place."""

    logits: jax.Array

    def prefill(self, tokens, length, last_only):
        return jnp.broadcast_to(self.logits, (len(tokens), self.logits.shape[1])), ()

    def step(self, state, token):
        return self.prefill(token, 0, True)

    def __hash__(self):
        return id(self)


def build(kind):
    """A model with weights large enough that its choices are no ties."""
    if kind not in _built:
        name, fields = MODELS[kind]
        model = scanmax.create_model(name, vocab_size=VOCAB, **fields)
        variables = jax.jit(model.init)(jax.random.key(0), PROMPT)
        _built[kind] = model, jax.tree.map(lambda leaf: 2 * leaf, variables)
    return _built[kind]


class GenerateTest(chex.TestCase):
    def setUp(self):
        super().setUp()
        self.enterContext(jax.numpy_dtype_promotion("strict"))
        self.enterContext(jax.numpy_rank_promotion("raise"))

    @parameterized.parameters(*MODELS)
    def test_greedy_takes_the_best_of_the_whole_forward(self, kind):
        model, variables = build(kind)
        tokens = generate(model, variables, PROMPT, max_new_tokens=12, temperature=0)
        chex.assert_shape(tokens, (2, 17))
        chex.assert_trees_all_equal(tokens[:, :5], PROMPT)
        # One forward pass over the result predicts each of its tokens from those before it.
        best = jnp.argmax(jax.jit(model.apply)(variables, tokens), axis=-1)
        chex.assert_trees_all_equal(tokens[:, 5:], best[:, 4:-1].astype(tokens.dtype))

    def test_draws_follow_the_distribution(self):
        model, variables = build("mamba2")
        prompt = jnp.tile(PROMPT[:1], (4096, 1))
        logits = jax.jit(model.apply)(variables, PROMPT)[0, -1] / 0.5
        drawn = generate(
            model, variables, prompt, max_new_tokens=1, temperature=0.5, key=jax.random.key(0)
        )[:, -1]
        frequency = np.bincount(drawn, minlength=VOCAB) / 4096
        np.testing.assert_allclose(frequency, jax.nn.softmax(logits), atol=0.03)

    def test_draws_are_restricted(self):
        model, variables = build("mamba2")
        options = {"max_new_tokens": 12, "top_k": 3, "temperature": 5.0}
        tokens = generate(model, variables, PROMPT, key=jax.random.key(0), **options)
        logits = jax.jit(model.apply)(variables, tokens)[:, 4:-1]
        rank = (logits > jnp.take_along_axis(logits, tokens[:, 5:, None], axis=-1)).sum(-1)
        self.assertEqual(set(np.unique(rank)), {0, 1, 2})

    def test_keys_decide_and_temperatures_share_a_program(self):
        model, variables = build("mamba2")
        options = {"max_new_tokens": 12, "temperature": 2.0}
        first, again, other = (
            generate(model, variables, PROMPT, key=jax.random.key(seed), **options)
            for seed in (1, 1, 2)
        )
        chex.assert_trees_all_equal(first, again)
        self.assertFalse(bool((first == other).all()))
        programs = generation._generate._cache_size()
        options["temperature"] = 0.1
        cool = generate(model, variables, PROMPT, key=jax.random.key(2), **options)
        self.assertEqual(generation._generate._cache_size(), programs)
        self.assertFalse(bool((cool == other).all()))

    def test_a_finished_sequence_stays_finished(self):
        model, variables = build("mamba2")
        plain = generate(model, variables, PROMPT, max_new_tokens=12, temperature=0)
        eos = int(plain[0, 8])
        ended = generate(model, variables, PROMPT, max_new_tokens=12, temperature=0, eos_token=eos)
        for row, reference in zip(np.asarray(ended)[:, 5:], np.asarray(plain)[:, 5:]):
            places = np.flatnonzero(reference == eos)
            end = places[0] if places.size else len(row)
            np.testing.assert_array_equal(row[:end], reference[:end])
            self.assertTrue((row[end:] == eos).all())
        self.assertTrue((ended[0, 8:] == eos).all())

    @parameterized.parameters("mamba2", "attention", "scanned", "cosine")
    def test_prompts_of_unequal_length_are_continued_as_if_alone(self, kind):
        model, variables = build(kind)
        self.assertEqual(model.packs, kind != "cosine")
        prompts = [[1, 2, 3, 4, 5], [5], [7, 8, 9]]
        options = {"max_new_tokens": 6, "temperature": 0}
        together = generate(model, variables, prompts, **options)
        for prompt, found in zip(prompts, together):
            alone = generate(model, variables, jnp.array([prompt], jnp.int32), **options)[0]
            np.testing.assert_array_equal(found, alone)
        # As a tokenizer pads them: with whatever token, on the left.
        tokens = jnp.array([[1, 2, 3, 4, 5], [99, -7, 99, 99, 5], [99, 99, 7, 8, 9]], jnp.int32)
        mask = jnp.array([[1, 1, 1, 1, 1], [0, 0, 0, 0, 1], [0, 0, 1, 1, 1]])
        padded = generate(model, variables, tokens, attention_mask=mask, **options)
        chex.assert_trees_all_equal(padded[:, :5], tokens)
        for row, found in zip(padded, together):
            np.testing.assert_array_equal(row[11 - len(found) :], found)

    @parameterized.parameters("mamba2", "cosine")
    def test_prompts_of_unequal_length_end_where_they_end(self, kind):
        """A prompt's own tokens do not end it, and each row draws as often as it should."""
        model, variables = build(kind)
        prompts = [[1, 2, 3, 4, 5], [5]]
        options = {"max_new_tokens": 8, "temperature": 2.0, "key": jax.random.key(3)}
        plain = generate(model, variables, prompts, **options)
        eos = int(plain[0][7])
        ended = generate(model, variables, [[1, eos, 3, 4, 5], [eos]], eos_token=eos, **options)
        self.assertEqual([len(row) for row in ended], [13, 9])
        for row, prompt in zip(ended, (5, 1)):
            drawn = np.asarray(row)[prompt:]
            end = np.flatnonzero(drawn == eos)
            self.assertTrue((drawn[end[0] :] == eos).all() if end.size else True)
        self.assertTrue((np.asarray(ended[0])[2:5] == [3, 4, 5]).all())

    def test_logits_in_half_precision_are_drawn_in_float32(self):
        # One token of 42%, a thousand that share half of the whole, and a thousand for the rest.
        probability = np.repeat([0.42, 0.5 / 1024, 0.08 / 1024], [1, 1024, 1024])
        half = jnp.asarray(np.log(probability)[None], jnp.bfloat16)
        restricted = restrict(half, top_p=0.9)
        self.assertEqual(restricted.dtype, jnp.bfloat16)
        self.assertEqual(int(jnp.isfinite(restricted).sum()), 1025)
        prompt, options = jnp.zeros((512, 1), jnp.int32), {"max_new_tokens": 1}
        drawn = generate(Spoken(half), {}, prompt, key=jax.random.key(0), **options)[:, -1]
        self.assertAlmostEqual(float((drawn == 0).mean()), 0.42, delta=0.08)

    def test_mistakes_are_told(self):
        model, variables = build("mamba2")
        for options, message in (
            ({"temperature": 0, "max_new_tokens": 0}, "max_new_tokens=0"),
            ({"temperature": -1.0, "max_new_tokens": 1}, "temperature=-1.0"),
            ({"max_new_tokens": 1}, "key=None"),
            ({"max_new_tokens": 1, "temperature": 0, "top_k": 0}, "top_k=0"),
            ({"max_new_tokens": 1, "temperature": 0, "top_p": 0.0}, "top_p=0.0"),
        ):
            with self.assertRaisesRegex(ValueError, message):
                generate(model, variables, PROMPT, **options)
        with self.assertRaisesRegex(ValueError, "prompt has shape"):
            generate(model, variables, PROMPT[0], max_new_tokens=1, temperature=0)
        for prompt, mask, message in (
            (PROMPT, jnp.ones((2, 4)), r"attention_mask has shape \(2, 4\); expected .*\(2, 5\)"),
            (PROMPT, jnp.ones((2, 5)).at[0, 4].set(0), "padding stands on the left"),
            (PROMPT, jnp.ones((2, 5)).at[0, 2].set(0), "padding stands on the left"),
            (PROMPT, jnp.zeros((2, 5)), "padding stands on the left"),
            ([[1], []], None, r"prompt 1 has shape \(0,\)"),
            ([[1], [0.5]], None, "prompt 1 has shape .* dtype float64"),
            ([], None, r"prompt=\[\]"),
            ([[1], [2]], jnp.ones((2, 1)), "a list of prompts has no padding"),
        ):
            with self.assertRaisesRegex(ValueError, message):
                generate(
                    model, variables, prompt, attention_mask=mask, max_new_tokens=1, temperature=0
                )
        with self.assertRaisesRegex(ValueError, "attention_mask is traced"):
            jax.jit(
                lambda mask: generate(
                    model, variables, PROMPT, attention_mask=mask, max_new_tokens=1, temperature=0
                )
            )(jnp.ones((2, 5)))
        vit = scanmax.create_model("deit_tiny_patch16_224")
        with self.assertRaisesRegex(ValueError, "has no prefill"):
            generate(vit, {}, PROMPT, max_new_tokens=1, temperature=0)


class RestrictTest(chex.TestCase):
    def kept(self, probabilities, **options):
        logits = jnp.log(jnp.asarray(probabilities, jnp.float32))
        return np.flatnonzero(np.isfinite(restrict(logits, **options))).tolist()

    def test_top_k(self):
        self.assertEqual(self.kept([0.1, 0.4, 0.2, 0.3], top_k=2), [1, 3])
        self.assertEqual(self.kept([0.1, 0.4, 0.2, 0.3], top_k=9), [0, 1, 2, 3])

    def test_top_p_reaches_the_sum_and_keeps_at_least_one(self):
        probabilities = [0.1, 0.4, 0.2, 0.3]
        self.assertEqual(self.kept(probabilities, top_p=0.01), [1])
        self.assertEqual(self.kept(probabilities, top_p=0.41), [1, 3])
        self.assertEqual(self.kept(probabilities, top_p=0.75), [1, 2, 3])
        self.assertEqual(self.kept(probabilities, top_p=1.0), [0, 1, 2, 3])

    def test_both(self):
        # Top-p counts the probabilities that top-k leaves: 4/7 and 3/7.
        self.assertEqual(self.kept([0.1, 0.4, 0.2, 0.3], top_k=2, top_p=0.5), [1])

    def test_batches(self):
        logits = jnp.log(jnp.array([[0.9, 0.1, 0.0001], [0.2, 0.5, 0.3]]))
        finite = np.isfinite(restrict(logits, top_p=0.6))
        np.testing.assert_array_equal(finite, [[True, False, False], [False, True, True]])
