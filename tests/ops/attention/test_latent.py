"""Multi-head latent attention: both forms, the cache of latents, and its steps."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np

from scanmax import ops
from scanmax.ops import reference
from scanmax.testing import OpCase, OpSuite, compare

HEADS, K, R, C, V = 2, 3, 2, 4, 5
TOKENS = ("query", "query_rotary", "latent", "key_rotary")


def make_args(rng, case):
    batch, T, S = case.batch, case.length, getattr(case, "source", case.length)
    rotary = getattr(case, "rotary", R)
    args = {
        "query": rng.normal(size=(*batch, T, HEADS, K)),
        "query_rotary": rng.normal(size=(*batch, T, HEADS, rotary)),
        "latent": rng.normal(size=(*batch, S, C)),
        "key_rotary": rng.normal(size=(*batch, S, rotary)),
        "key_up": rng.normal(size=(C, HEADS, K)),
        "value_up": rng.normal(size=(C, HEADS, V)),
    }
    if hasattr(case, "mask"):
        args["bias"] = rng.normal(size=(HEADS, T, S))
        args["mask"] = rng.random((*batch, 1, T, S)) < 0.7
        args["mask"][..., 1, :] = False
    if hasattr(case, "limits"):
        queries, keys = case.limits
        args["query_seq_lengths"] = np.resize(queries, batch).astype(np.int32)
        args["key_value_seq_lengths"] = np.resize(keys, batch).astype(np.int32)
    if hasattr(case, "packed"):
        args["segment_ids"] = np.sort(rng.integers(0, 3, size=(*batch, T)), -1)
    return args


class LatentSuite(OpSuite):
    """Arguments of every kind."""

    __test__ = False
    make_args = staticmethod(make_args)

    def poison(self, arrays, case):
        if not hasattr(case, "limits"):
            return None
        arrays = dict(arrays)
        for name in TOKENS:
            lengths = case.limits["query" not in name]
            axis = len(case.batch)
            x = np.asarray(arrays[name]).copy()
            x[np.arange(x.shape[axis]) >= np.asarray(lengths)[:, None]] = np.nan
            arrays[name] = jnp.asarray(x)
        return arrays

    def empty_rows(self, arrays, case):
        if hasattr(case, "mask"):
            return np.broadcast_to(np.arange(case.length) == 1, (*case.batch, case.length))
        if hasattr(case, "limits"):
            queries, keys = map(np.asarray, case.limits)
            return (np.arange(case.length) >= queries[:, None]) | (keys == 0)[:, None]
        return None


class LatentAttentionTest(LatentSuite):
    op = ops.latent_attention
    reference = reference.latent_attention
    step = ops.latent_attention_step
    forms = ("expanded", "absorbed")
    sequence = TOKENS
    required_lengths = (1, 2, 7, 63, 64, 65)
    cases = (
        OpCase(length=7, batch=(2,), options={"is_causal": True, "chunk_size": 3}, full=True),
        OpCase(
            length=6,
            batch=(3,),
            limits=((6, 4, 1), (6, 3, 0)),
            resume=False,
            options={"normalizer": "sigmoid"},
            full=True,
        ),
        OpCase(
            length=4,
            source=5,
            batch=(1, 2),
            mask=True,
            resume=False,
            options={"logits_soft_cap": 2.0, "normalizer": "softplus"},
            full=True,
        ),
        OpCase(length=8, packed=True, options={"is_causal": True, "scale": 0.3}),
        OpCase(length=1, options={"is_causal": True}),
        OpCase(length=2, rotary=0),
        *(
            OpCase(length=length, options={"chunk_size": 32, "local_window_size": 9})
            for length in (63, 64, 65)
        ),
    )
    errors = (
        ({"query_rotary": lambda x: x[..., :1]}, ValueError, r"query_rotary has .*\[\*B, T, H, R"),
        ({"latent": lambda x: x[0]}, ValueError, r"latent has shape \(7, 4\); expected \[\*B, S"),
        ({"key_rotary": lambda x: x[:, 1:]}, ValueError, r"key_rotary has shape \(2, 6, 2\)"),
        ({"key_up": lambda x: x[1:]}, ValueError, r"key_up has .* \[C, H, K\] = \(4, 2, 3\)"),
        ({"value_up": lambda x: x[:, 1:]}, ValueError, r"value_up has .* \[C, H, V\]"),
        ({"latent": lambda x: x.astype(int)}, ValueError, "latent has dtype int"),
        ({"mask": jnp.ones((3, 3), bool)}, ValueError, r"mask has shape \(3, 3\); .*broadcast"),
        ({"segment_ids": jnp.ones(7, jnp.int32)}, ValueError, r"segment_ids has .* \[\*B, T\]"),
        ({"query_seq_lengths": jnp.ones(3, jnp.int32)}, ValueError, "query_seq_lengths has shape"),
        ({"form": "chunked"}, ValueError, "'expanded', 'absorbed'"),
        ({"normalizer": "softmin"}, ValueError, "normalizer='softmin' is not one of"),
    )

    def init_state(self, arrays, options):
        size = arrays["latent"].shape[-2] + 2
        return ops.init_latent_cache((2,), size, C, R, dtype=arrays["latent"].dtype)

    def test_a_broken_token_of_packed_rows_spoils_its_own_sequence(self):
        arrays = make_args(np.random.default_rng(0), OpCase(length=6))
        arrays = {name: jnp.asarray(x) for name, x in arrays.items()}
        arrays["segment_ids"] = jnp.asarray([0, 0, 0, 1, 1, 1])
        broken = {**arrays, "latent": arrays["latent"].at[1].set(jnp.nan)}
        for form in self.forms:

            def loss(key_up, arrays, form=form):
                arrays = {**arrays, "key_up": key_up}
                y = ops.latent_attention(**arrays, is_causal=True, form=form)
                return jnp.sum(y[3:]), y

            (_, y), gradient = jax.value_and_grad(loss, has_aux=True)(arrays["key_up"], broken)
            (_, whole), expected = jax.value_and_grad(loss, has_aux=True)(arrays["key_up"], arrays)
            self.assertEqual(
                np.isnan(y).any((1, 2)).tolist(), [False, True, True, False, False, False]
            )
            compare.assert_relative(y[3:], whole[3:], 1e-12)
            compare.assert_relative(gradient, expected, 1e-12)


class LatentAttentionMatrixTest(LatentSuite):
    op = ops.latent_attention_matrix
    reference = reference.latent_attention_matrix
    cases = (
        OpCase(length=4, source=5, batch=(2,), mask=True, full=True),
        OpCase(length=6, batch=(3,), limits=((6, 4, 1), (6, 3, 0))),
        OpCase(length=5, packed=True, options={"is_causal": True, "local_window_size": 2}),
    )

    def make_args(self, rng, case):
        args = make_args(rng, case)
        args.pop("value_up")
        return args

    def empty_rows(self, arrays, case):
        return None


class LatentCacheTest(chex.TestCase):
    """Steps over a cache, in both forms."""

    def setUp(self):
        super().setUp()
        self.enterContext(jax.enable_x64(True))
        self.enterContext(jax.numpy_dtype_promotion("strict"))
        self.enterContext(jax.numpy_rank_promotion("raise"))
        args = make_args(np.random.default_rng(0), OpCase(length=6, batch=(2,)))
        *tokens, self.key_up, self.value_up = map(jnp.asarray, args.values())
        self.tokens = tuple(tokens)
        self.seen = jnp.arange(6)[None] >= jnp.array([2, 0])[:, None]

    def cache(self, size, module=ops, **options):
        return module.init_latent_cache((2,), size, C, R, dtype=jnp.float64, **options)

    def test_prefill_then_steps_equal_the_whole_in_both_forms(self):
        """And so do their gradients, those of what the cache keeps too."""
        options = {"local_window_size": 3, "normalizer": "stablemax"}
        ups = self.key_up, self.value_up

        def whole(tokens):
            y = reference.latent_attention(
                *tokens, *ups, mask=self.seen[:, None, None], is_causal=True, **options
            )[:, 4:]
            return jnp.sum(jnp.sin(y)), y

        def steps(tokens, form):
            state = ops.extend_latent_cache(self.cache(6), *(x[:, :4] for x in tokens[2:]))
            outputs = []
            for t in (4, 5):
                y, state = ops.latent_attention_step(
                    state,
                    *(x[:, t] for x in tokens),
                    *ups,
                    mask=self.seen[:, None],
                    form=form,
                    **options,
                )
                outputs.append(y)
            y = jnp.stack(outputs, 1)
            return jnp.sum(jnp.sin(y)), (y, state)

        (_, y), gradients = jax.jit(jax.value_and_grad(whole, has_aux=True))(self.tokens)
        for form in ("expanded", "absorbed"):
            run = jax.jit(jax.value_and_grad(functools.partial(steps, form=form), has_aux=True))
            (_, (found, state)), given = run(self.tokens)
            compare.assert_relative(found, y, 1e-12)
            compare.assert_relative(given, gradients, 1e-10)
            self.assertEqual(int(state.position), 6)
        kept = reference.extend_latent_cache(self.cache(6, reference), *self.tokens[2:])
        compare.assert_relative((state.latent[..., :C], state.latent[..., C:]), kept, 0.0)

        @jax.jit
        def last(kept, tokens):
            return reference.latent_attention_step(
                tuple(x[:, :5] for x in kept), *tokens, *ups, mask=self.seen[:, None], **options
            )[0]

        found = last(kept, tuple(x[:, 5] for x in self.tokens))
        compare.assert_relative(found, y[:, 1], 1e-12)

    def test_a_full_cache_is_loud(self):
        state = ops.extend_latent_cache(self.cache(6), *self.tokens[2:])
        tokens = [x[:, 0] for x in self.tokens]
        y, _ = ops.latent_attention_step(state, *tokens, self.key_up, self.value_up)
        self.assertTrue(bool(jnp.isnan(y).all()))
        with self.assertRaisesRegex(ValueError, "6 tokens, and the cache has room for 4"):
            ops.extend_latent_cache(self.cache(4), *self.tokens[2:])
        with self.assertRaisesRegex(ValueError, r"key_rotary has shape \(2, 6, 1\); expected"):
            ops.extend_latent_cache(state, self.tokens[2], self.tokens[3][..., :1])
        with self.assertRaisesRegex(ValueError, "latent_dim=0"):
            ops.init_latent_cache((), 1, 0)
        with self.assertRaisesRegex(ValueError, "rotary_dim=-1"):
            ops.init_latent_cache((), 1, 1, -1)

    def test_a_cache_of_half_precision_stays_so(self):
        state = ops.init_latent_cache((2,), 6, C, R, dtype=jnp.bfloat16)
        tokens = [x[:, 0].astype(jnp.bfloat16) for x in self.tokens]
        ups = (x.astype(jnp.bfloat16) for x in (self.key_up, self.value_up))
        y, new = ops.latent_attention_step(state, *tokens, *ups)
        chex.assert_type((y, new.latent), jnp.bfloat16)


def test_the_form_is_that_of_fewer_products():
    """By the flops of the compiled programs: few queries of many keys, and as many as keys."""

    def flops(queries, keys, form):
        shapes = (queries, 4, 8), (queries, 4, 4), (keys, 16), (keys, 4), (16, 4, 8), (16, 4, 8)
        arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
        run = jax.jit(lambda *arrays: ops.latent_attention(*arrays, form=form))
        return run.lower(*arrays).compile().cost_analysis()["flops"]

    for queries, keys, best, other in (
        (1, 64, "absorbed", "expanded"),
        (64, 64, "expanded", "absorbed"),
    ):
        assert flops(queries, keys, None) == flops(queries, keys, best)
        assert flops(queries, keys, best) < flops(queries, keys, other)
