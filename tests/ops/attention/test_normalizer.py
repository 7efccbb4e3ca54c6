"""Every normalizer in attention: both forms, gradients, masks, lengths, GQA, steps, modules."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, PartitionSpec

from scanmax import ops
from scanmax.models.mixers import MIXERS
from scanmax.ops import reference
from scanmax.ops.attention import streaming
from scanmax.testing import OpCase, OpSuite, compare

SEVERAL = ("lssar", "sparsemax", "entmax15")


class NormalizersTest(OpSuite):
    """Masked, with lengths and grouped heads; the second query attends to nothing."""

    op = ops.dot_product_attention
    reference = reference.dot_product_attention
    forms = ("parallel", "chunked")
    sequence = ("query", "key", "value")
    required_lengths = required_batch_ranks = ()
    cases = (
        *(
            OpCase(
                length=5,
                source=7,
                batch=(2,),
                heads=(4, 2),
                mask=(1, 5, 7),
                options={
                    "chunk_size": (3, 4),
                    "normalizer": normalizer,
                    "local_window_size": (3, None),
                },
                full=not isinstance(normalizer, str),
            )
            for normalizer in (
                ops.SoftplusReweighted(offset=0.5),
                ops.Entmax15(),
                *("softplus", "relu_softmax", "square_norm"),
            )
        ),
        *(
            OpCase(
                length=6,
                batch=(2,),
                heads=(2, 1),
                key_lengths=(6, 0),
                bias=(2, 6, 6),
                options={
                    "chunk_size": 4,
                    "normalizer": normalizer,
                    "is_causal": True,
                    "logits_soft_cap": 3.0,
                },
            )
            for normalizer in ("lssar", "sparsemax")
        ),
    )

    def make_args(self, rng, case):
        (H, G), T = case.heads, case.length
        S = getattr(case, "source", T)
        args = {
            "query": 2 * rng.normal(size=(*case.batch, T, H, 5)),
            "key": rng.normal(size=(*case.batch, S, G, 5)),
            "value": rng.normal(size=(*case.batch, S, G, 3)),
        }
        if hasattr(case, "mask"):
            args["mask"] = rng.random((*case.batch, *case.mask)) < 0.8
            args["mask"][..., 1, :] = False
        if hasattr(case, "bias"):
            args["bias"] = rng.normal(size=case.bias)
        if hasattr(case, "key_lengths"):
            lengths = np.resize(case.key_lengths, case.batch)
            args["key_value_seq_lengths"] = lengths.astype(np.int32)
        return args

    def empty_rows(self, arrays, case):
        if hasattr(case, "mask"):
            return np.broadcast_to(np.arange(case.length) == 1, (2, case.length))
        return np.broadcast_to(np.arange(2)[:, None] == 1, (2, case.length))

    def test_gradients_with_a_bias_and_lengths(self):
        for case in self.cases[-2:]:
            arrays, options = self.inputs(case)
            floats, others = self.split_differentiable(arrays)
            cotangent = jnp.asarray(np.random.default_rng(0).normal(size=(2, 6, 2, 3)))
            expected = self.compiled_vjp(options, "parallel")(floats, others, cotangent)
            actual = self.compiled_vjp(options, "chunked")(floats, others, cotangent)
            compare.assert_relative(actual, expected, 1e-10)


class WeightsTest(chex.TestCase):
    def setUp(self):
        super().setUp()
        self.enterContext(jax.enable_x64(True))

    def arrays(self, *shapes):
        rng = np.random.default_rng(0)
        return [jnp.asarray(rng.normal(size=shape)) for shape in shapes]

    def test_matrix_is_what_mixes_the_values(self):
        query, key = self.arrays((1, 6, 2, 4), (1, 6, 2, 4))
        identity = jnp.broadcast_to(jnp.eye(6)[:, None], (1, 6, 2, 6))
        for name in ("softmax_one", "squared_relu", "two_quad", *SEVERAL):
            options = {"normalizer": name, "is_causal": True}
            weights = ops.attention_matrix(query, key, **options)
            y = ops.dot_product_attention(
                query, key, identity, form="chunked", chunk_size=4, **options
            )
            compare.assert_relative(jnp.moveaxis(y, 1, 2), weights, 1e-12)
            self.assertGreaterEqual(float(weights.min()), 0)
            if name != "softmax_one":
                total = weights.sum(-1)
                empty = weights.max(-1) == 0
                np.testing.assert_allclose(total[~empty], 1, atol=2e-3)
                # only rectified scores may leave a row empty
                self.assertTrue(name == "squared_relu" or not bool(empty.any()), name)

    def test_sparse_rows_in_float32_over_many_blocks(self):
        query, key, value = (x.astype(jnp.float32) for x in self.arrays(*[(1, 300, 1, 8)] * 3))
        for name in SEVERAL:
            op = functools.partial(ops.dot_product_attention, normalizer=name, scale=1.0)
            exact = op(*(x.astype(jnp.float64) for x in (query, key, value)), form="parallel")
            y = op(query, key, value, form="chunked", chunk_size=32)
            compare.assert_rms(y, exact, 2e-5)

    def test_softplus_needs_the_width(self):
        with self.assertRaisesRegex(ValueError, "width of the keys"):
            ops.Softplus().score(jnp.zeros(3), None, 3)
        self.assertEqual(ops.Softplus().for_width(64), ops.Softplus(dim=64))
        self.assertEqual(ops.Softplus(dim=8).for_width(64), ops.Softplus(dim=8))
        with self.assertRaisesRegex(ValueError, "power=0"):
            ops.SoftplusReweighted(power=0)

    def test_one_pass_streaming_refuses_what_needs_several(self):
        (x,) = self.arrays((1, 4, 1, 4))
        plan = streaming.Plan(ops.Sparsemax(), None, None, None, (2, 2), None)
        with self.assertRaisesRegex(NotImplementedError, "several passes"):
            streaming.stream(plan, x, x, x, None, None, jnp.asarray(1.0), None)

    def test_steps_equal_the_whole(self):
        tokens = self.arrays((2, 5, 4, 5), (2, 5, 2, 5), (2, 5, 2, 3))
        for name in ("softmax_one", "softplus", "lssar", "entmax15"):
            whole = ops.dot_product_attention(*tokens, is_causal=True, normalizer=name)
            state = ops.init_kv_cache((2,), 7, 2, 5, 3, dtype=jnp.float64)
            step = jax.jit(functools.partial(ops.attention_step, normalizer=name))
            for t in range(5):
                y, state = step(state, *(x[:, t] for x in tokens))
                compare.assert_relative(y, whole[:, t], 1e-12)


class TransformationTest(chex.TestCase):
    def test_shard_map_over_batch(self):
        self.enterContext(jax.enable_x64(True))
        rng = np.random.default_rng(0)
        query, key, value = (jnp.asarray(rng.normal(size=(8, 6, 2, 4))) for _ in "qkv")
        bias = jnp.asarray(rng.normal(size=(2, 6, 6)))
        mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
        sharded, whole = PartitionSpec("data"), PartitionSpec()
        for name in ("lssar", "entmax15"):
            op = functools.partial(
                ops.dot_product_attention, normalizer=name, form="chunked", chunk_size=4
            )
            mapped = jax.shard_map(
                op, mesh=mesh, in_specs=(sharded, sharded, sharded, whole), out_specs=sharded
            )

            def gradients(op, *inputs):
                return jax.jit(jax.grad(lambda *x: jnp.sum(jnp.sin(op(*x))), (0, 1, 2, 3)))(*inputs)

            inputs = (query, key, value, bias)
            compare.assert_relative(gradients(mapped, *inputs), gradients(op, *inputs), 1e-10)


def test_the_attention_module_takes_every_name():
    x = jnp.ones((1, 5, 8)) * jnp.arange(5.0)[:, None]
    for name in ops.NORMALIZERS:
        module = MIXERS["attention"](heads=2, normalizer=name)
        variables = jax.eval_shape(lambda module=module: module.init(jax.random.key(0), x))
        y = jax.eval_shape(lambda v, module=module: module.apply(v, x), variables)
        chex.assert_shape(y, x.shape)
