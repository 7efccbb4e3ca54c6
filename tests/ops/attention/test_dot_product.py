"""dot_product_attention, attention_matrix and attention_step against their equations."""

import dataclasses
from typing import ClassVar

import chex
import jax
import jax.numpy as jnp
import numpy as np

from scanmax import ops
from scanmax.ops import reference
from scanmax.testing import OpCase, OpSuite, compare


class AttentionSuite(OpSuite):
    """Arguments of every kind: GQA, unequal lengths, biases, masks and sequence lengths."""

    __test__ = False
    sequence = ("query", "key", "value")

    def make_args(self, rng, case):
        batch, T, S = case.batch, case.length, getattr(case, "source", case.length)
        H, G = getattr(case, "heads", (2, 1))
        args = {
            "query": rng.normal(size=(*batch, T, H, 5)),
            "key": rng.normal(size=(*batch, S, G, 5)),
            "value": rng.normal(size=(*batch, S, G, 3)),
        }
        if hasattr(case, "bias"):
            args["bias"] = rng.normal(size=case.bias)
        if hasattr(case, "mask"):
            # of each batch entry, or the same for all
            lead = batch if len(case.mask) == 3 and batch else ()
            args["mask"] = rng.random((*lead, *case.mask)) < 0.7
            args["mask"][..., 1, :] = False
        if hasattr(case, "scale"):
            args["scale"] = np.asarray(case.scale)
        if hasattr(case, "key_lengths"):
            args["key_value_seq_lengths"] = np.resize(case.key_lengths, batch).astype(np.int32)
        if hasattr(case, "query_lengths"):
            args["query_seq_lengths"] = np.resize(case.query_lengths, batch).astype(np.int32)
        if hasattr(case, "packed"):
            args["segment_ids"] = np.sort(rng.integers(0, 3, size=(*batch, T)), -1)
        return args

    def poison(self, arrays, case):
        arrays = dict(arrays)
        for names, lengths in (
            (("query",), getattr(case, "query_lengths", None)),
            (("key", "value"), getattr(case, "key_lengths", None)),
        ):
            if lengths is None:
                continue
            for name in names:
                if name in arrays:
                    x = np.asarray(arrays[name]).copy()
                    hidden = np.arange(x.shape[-3]) >= np.asarray(lengths)[..., None]
                    x[hidden] = np.nan
                    arrays[name] = jnp.asarray(x)
        return arrays if hasattr(case, "key_lengths") else None


class DotProductAttentionTest(AttentionSuite):
    op = ops.dot_product_attention
    reference = reference.dot_product_attention
    forms = ("parallel", "chunked")
    cases = (
        # everything at once; the second query is masked out whole
        OpCase(
            length=7,
            source=9,
            batch=(2,),
            heads=(4, 2),
            bias=(1, 4, 7, 9),
            mask=(1, 7, 9),
            scale=0.4,
            options={"chunk_size": (4, 5), "logits_soft_cap": 2.0},
            full=True,
        ),
        OpCase(
            length=6,
            batch=(3,),
            key_lengths=(6, 4, 0),
            query_lengths=(6, 4, 1),
            bias=(2, 1, 6),
            options={"chunk_size": 4, "normalizer": "sigmoid"},
            full=True,
        ),
        OpCase(
            length=8,
            options={
                "chunk_size": 3,
                "normalizer": "stablemax",
                "is_causal": True,
                "local_window_size": 2,
            },
            full=True,
        ),
        OpCase(
            length=5,
            source=3,
            mask=(2, 5, 3),
            options={"chunk_size": 2, "normalizer": "softmax_two_pass", "is_causal": True},
            full=True,
        ),
        OpCase(
            length=7,
            batch=(2,),
            packed=True,
            options={"chunk_size": (4, 3), "is_causal": True},
            full=True,
        ),
        OpCase(
            length=6,
            packed=True,
            mask=(1, 6, 6),
            options={"chunk_size": 4, "normalizer": "sigmoid"},
        ),
        OpCase(length=1, options={"is_causal": True}),
        OpCase(length=2, batch=(1, 2), options={"chunk_size": 32}),
        *(
            OpCase(
                length=length,
                heads=(3, 3),
                options={"chunk_size": (64, 48), "is_causal": length == 200},
                forms=("chunked",),
            )
            for length in (63, 64, 65, 200)
        ),
        OpCase(length=70, source=20, options={"chunk_size": 16, "local_window_size": (9, 3)}),
        OpCase(length=20, source=70, options={"chunk_size": 16, "local_window_size": (None, 3)}),
    )
    errors = (
        ({"key": lambda x: x[..., :1, :][..., [0, 0, 0], :]}, ValueError, "its 3 heads do not"),
        ({"key": lambda x: x[..., :4]}, ValueError, r"key has shape \(2, 9, 2, 4\); expected"),
        ({"value": lambda x: x[:, :8]}, ValueError, r"value has shape \(2, 8, 2, 3\); expected"),
        (
            {"query": lambda x: x[0, 0]},
            ValueError,
            r"query has shape \(4, 5\); expected at",
        ),
        ({"bias": lambda x: x[..., :8]}, ValueError, r"bias has shape \(1, 4, 7, 8\); .*broadcast"),
        ({"mask": lambda x: x.astype(jnp.float32)}, ValueError, "mask has dtype float32"),
        ({"scale": lambda x: jnp.ones(4)}, ValueError, r"scale has shape \(4,\)"),
        ({"query_seq_lengths": jnp.ones(3, jnp.int32)}, ValueError, "query_seq_lengths has shape"),
        ({"key_value_seq_lengths": jnp.ones(2)}, ValueError, "lengths has dtype float"),
        ({"segment_ids": jnp.ones(7, jnp.int32)}, ValueError, r"segment_ids has .* \[\*B, T\]"),
        ({"segment_ids": jnp.ones((2, 7), jnp.int32)}, ValueError, r"segment_ids has .*each key"),
        ({"normalizer": "softmin"}, ValueError, "normalizer='softmin' is not one of 'softmax'"),
        ({"local_window_size": (-1, 2)}, ValueError, "local_window_size=.* negative"),
        ({"chunk_size": 0}, ValueError, "chunk_size=0"),
        ({"form": "recurrent"}, ValueError, "'parallel', 'chunked'"),
        ({"implementation": "cudnn"}, NotImplementedError, "does not serve the backend 'cpu'"),
        ({"implementation": "triton"}, ValueError, "implementation='triton'"),
    )

    def empty_rows(self, arrays, case):
        if hasattr(case, "mask"):
            return np.broadcast_to(np.arange(case.length) == 1, (*case.batch, case.length))
        if hasattr(case, "key_lengths"):
            row = np.arange(case.length) >= np.asarray(case.query_lengths)[:, None]
            return row | (np.asarray(case.key_lengths) == 0)[:, None]
        return None


class AttentionMatrixTest(AttentionSuite):
    op = ops.attention_matrix
    reference = reference.attention_matrix
    sequence = ()
    cases = (
        OpCase(
            length=7,
            source=9,
            batch=(2,),
            heads=(4, 2),
            bias=(1, 4, 7, 9),
            mask=(1, 7, 9),
            scale=0.4,
            options={"logits_soft_cap": 2.0},
            full=True,
        ),
        OpCase(
            length=6,
            batch=(3,),
            key_lengths=(6, 4, 0),
            query_lengths=(6, 4, 1),
            options={"normalizer": "sigmoid"},
        ),
        OpCase(length=5, packed=True, options={"normalizer": "stablemax", "is_causal": True}),
    )

    def make_args(self, rng, case):
        args = super().make_args(rng, case)
        args.pop("value")
        return args

    def empty_rows(self, arrays, case):
        return None


# Normalizers a user would add: what a few lines must be enough for.


@dataclasses.dataclass(frozen=True)
class SoftmaxOne(ops.Softmax):
    """exp(l) / (1 + sum exp(l)): attention that can attend to nothing."""

    null_logit: ClassVar[float] = 0.0


@dataclasses.dataclass(frozen=True)
class Softplus(ops.Normalizer):
    """softplus(l) / sum."""

    def score(self, logits, level, num_keys):
        return jax.nn.softplus(logits)


@dataclasses.dataclass(frozen=True)
class SquaredRelu(ops.Normalizer):
    """relu(l)^2 / n."""

    normalized: ClassVar[bool] = False

    def score(self, logits, level, num_keys):
        return jnp.square(jax.nn.relu(logits)) / num_keys


class NormalizerTest(AttentionSuite):
    """A user's normalizer works in every form, with gradients, from its score alone."""

    op = ops.dot_product_attention
    reference = reference.dot_product_attention
    forms = ("parallel", "chunked")
    required_lengths = required_batch_ranks = ()
    cases = tuple(
        OpCase(
            length=5,
            source=6,
            batch=(2,),
            mask=(1, 1, 5, 6),
            key_lengths=(6, 3),
            query_lengths=(5, 5),
            options={"chunk_size": (3, 4), "normalizer": normalizer},
            full=isinstance(normalizer, SoftmaxOne | SquaredRelu),
        )
        for normalizer in (SoftmaxOne(), Softplus(), SquaredRelu(), ops.Sigmoid(bias=-1.5))
    )

    def empty_rows(self, arrays, case):
        return np.broadcast_to(np.arange(5) == 1, (2, 5))

    def test_normalizers_compare_by_value(self):
        self.assertEqual(ops.Sigmoid(bias=1.0), ops.Sigmoid(bias=1.0))
        self.assertNotEqual(ops.Sigmoid(bias=1.0), ops.Sigmoid())
        self.assertEqual(hash(SoftmaxOne()), hash(SoftmaxOne()))

    def test_softmax_one_matches_a_key_of_zeros(self):
        x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 6, 1, 4)), jnp.float64)
        padded = jnp.pad(x, ((0, 0), (1, 0), (0, 0), (0, 0)))
        for form in self.forms:
            compare.assert_relative(
                ops.dot_product_attention(x, x, x, normalizer=SoftmaxOne(), form=form),
                ops.dot_product_attention(x, padded, padded, form=form),
                1e-12,
            )


class AttentionStepTest(chex.TestCase):
    """Steps over a cache equal the whole causal op."""

    def setUp(self):
        super().setUp()
        self.enterContext(jax.enable_x64(True))
        self.enterContext(jax.numpy_dtype_promotion("strict"))
        self.enterContext(jax.numpy_rank_promotion("raise"))
        rng = np.random.default_rng(0)
        T, H, G = 6, 4, 2
        self.tokens = tuple(
            jnp.asarray(rng.normal(size=(2, T, heads, width)))
            for heads, width in ((H, 5), (G, 5), (G, 3))
        )
        self.bias = jnp.asarray(rng.normal(size=(2, H, T, T)))

    def cache(self, size, module=ops, dtype=jnp.float64):
        return module.init_kv_cache((2,), size, 2, 5, 3, dtype=dtype)

    def unroll(self, module, state, first, last=6, **options):
        outputs = []
        for t in range(first, last):
            y, state = module.attention_step(state, *(x[:, t] for x in self.tokens), **options)
            outputs.append(y)
        return jnp.stack(outputs, 1), state

    def test_steps_equal_the_whole(self):
        for options in (
            {},
            {"local_window_size": 2, "logits_soft_cap": 1.5, "scale": 0.7},
            {"normalizer": "stablemax", "local_window_size": (3, 1)},
            {"normalizer": "sigmoid"},
        ):
            whole = reference.dot_product_attention(*self.tokens, is_causal=True, **options)
            y, state = self.unroll(ops, self.cache(9), 0, **options)
            compare.assert_relative(y, whole, 1e-12)
            self.assertEqual(int(state.position), 6)
            chex.assert_trees_all_equal(state.key[:, :6], self.tokens[1])

    def test_step_equals_its_equation(self):
        options = {"local_window_size": 1, "scale": 0.3}
        y, _ = self.unroll(ops, self.cache(6), 0, 3, **options)
        expected, _ = self.unroll(reference, self.cache(6, reference), 0, 3, **options)
        compare.assert_relative(y, expected, 1e-12)

    def test_prefill_then_steps_equal_the_whole(self):
        whole = reference.dot_product_attention(*self.tokens, is_causal=True)
        state = ops.extend_kv_cache(self.cache(8), *(x[:, :4] for x in self.tokens[1:]))
        y, state = self.unroll(ops, state, 4)
        compare.assert_relative(y, whole[:, 4:], 1e-12)
        kept = reference.extend_kv_cache(self.cache(8, reference), *self.tokens[1:])
        compare.assert_relative((state.key[:, :6], state.value[:, :6]), kept, 0.0)

    def test_bias_and_left_padding(self):
        padding = jnp.array([2, 0])
        seen = jnp.arange(6)[None] >= padding[:, None]  # [B, S]
        whole = reference.dot_product_attention(
            *self.tokens, self.bias, seen[:, None, None], is_causal=True
        )
        state = self.cache(6)
        for t in range(6):
            tokens = (x[:, t] for x in self.tokens)
            y, state = ops.attention_step(state, *tokens, self.bias[:, :, t], seen[:, None])
            compare.assert_relative(y, whole[:, t], 1e-12)

    def test_a_full_cache_is_loud(self):
        state = ops.extend_kv_cache(self.cache(6), *self.tokens[1:])
        y, _ = ops.attention_step(state, *(x[:, 0] for x in self.tokens))
        self.assertTrue(bool(jnp.isnan(y).all()))
        # four tokens lie in it, two more fit, three do not
        first = ops.extend_kv_cache(self.cache(6), *(x[:, :4] for x in self.tokens[1:]))
        for count in (2, 3):
            kept = ops.extend_kv_cache(first, *(x[:, :count] for x in self.tokens[1:]))
            self.assertEqual(bool(jnp.isfinite(kept.key).all()), count == 2)
            y = ops.dot_product_attention(self.tokens[0][:, :count], kept.key, kept.value)
            self.assertEqual(bool(jnp.isnan(y).all()), count == 3)
            chex.assert_trees_all_equal(kept.key[:, :3], first.key[:, :3])
        with self.assertRaisesRegex(ValueError, "6 tokens, and the cache has room for 4"):
            ops.extend_kv_cache(self.cache(4), *self.tokens[1:])
        with self.assertRaisesRegex(ValueError, r"query has shape \(2, 4, 4\); expected"):
            ops.attention_step(state, *(x[:, 0, :, :4] for x in self.tokens))
        with self.assertRaisesRegex(ValueError, "max_length=0"):
            ops.init_kv_cache((), 0, 1, 1)

    def test_half_precision_cache_and_gradient(self):
        state = self.cache(6, dtype=jnp.bfloat16)
        tokens = [x[:, 0].astype(jnp.bfloat16) for x in self.tokens]

        def loss(tokens):
            y, new = ops.attention_step(state, *tokens)
            chex.assert_type((y, new.key, new.value), jnp.bfloat16)
            return jnp.sum(y.astype(jnp.float32))

        gradients = jax.grad(loss)(tokens)
        # a single key: its value is the output of both heads that read it
        np.testing.assert_allclose(gradients[2].astype(jnp.float32), 2.0)
        np.testing.assert_allclose(gradients[0].astype(jnp.float32), 0.0, atol=0.02)
