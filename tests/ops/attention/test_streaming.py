"""The chunked form: what it skips, what it keeps, and what it must work inside of."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, PartitionSpec

from scanmax import ops
from scanmax.ops import reference
from scanmax.testing import compare


def arrays(*shapes, dtype=jnp.float64, seed=0):
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes]


def equations(jaxpr):
    """All equations of a jaxpr and of those inside it."""
    for equation in jaxpr.eqns:
        yield equation
        for parameter in equation.params.values():
            for inner in jax.tree.leaves(parameter, is_leaf=lambda x: hasattr(x, "eqns")):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from equations(inner)


class StreamingTest(chex.TestCase):
    def setUp(self):
        super().setUp()
        self.enterContext(jax.enable_x64(True))
        self.enterContext(jax.numpy_dtype_promotion("strict"))
        self.enterContext(jax.numpy_rank_promotion("raise"))

    def test_blocks_after_a_causal_query_are_never_read(self):
        # blocks of 4; queries 0..7 see keys 0..7, and keys 8..11 see queries 8..11
        query, key, value, cotangent = arrays(*[(12, 1, 4)] * 4)
        op = functools.partial(
            ops.dot_product_attention, is_causal=True, form="chunked", chunk_size=4
        )
        expected, pull_back = jax.vjp(op, query, key, value)
        gradients = pull_back(cotangent.at[8:].set(0))
        late = jnp.arange(12)[:, None, None] >= 8
        key, value = (jnp.where(late, jnp.nan, x) for x in (key, value))
        actual, pull_back = jax.vjp(op, query, key, value)
        chex.assert_trees_all_equal(actual[:8], expected[:8])
        self.assertTrue(bool(jnp.isnan(actual[8:]).all()))
        chex.assert_trees_all_equal(pull_back(cotangent.at[8:].set(0))[0][:8], gradients[0][:8])
        query = jnp.where(late, query, jnp.nan)
        d_key, d_value = jax.vjp(op, query, *arrays((12, 1, 4), (12, 1, 4)))[1](cotangent)[1:]
        chex.assert_tree_all_finite((d_key[8:], d_value[8:]))

    def test_blocks_outside_the_window_are_never_read(self):
        query, key, value, cotangent = arrays(*[(16, 1, 4)] * 4)
        op = functools.partial(
            ops.dot_product_attention, local_window_size=(2, 1), form="chunked", chunk_size=4
        )
        # queries 8..11 see keys 6..12: the first block of keys is out of their reach
        first = jnp.arange(16)[:, None, None] < 4
        expected = op(query, key, value)
        key, value = (jnp.where(first, jnp.nan, x) for x in (key, value))
        actual, pull_back = jax.vjp(op, query, key, value)
        chex.assert_trees_all_equal(actual[8:], expected[8:])
        d_query, d_key, d_value = pull_back(cotangent)
        chex.assert_tree_all_finite((d_query[8:], d_key[12:], d_value[12:]))
        self.assertTrue(bool(jnp.isnan(d_query[:4]).all()))

    def test_bias_gradients_keep_the_shape_of_the_bias(self):
        rows, columns = (2, 5, 4, 3), (2, 6, 2, 3)
        query, key, value, cotangent = arrays(rows, columns, columns, rows)
        for shape in ((5, 1), (2, 1, 5, 6)):
            (bias,) = arrays(shape)

            def gradient(op, bias, **options):
                call = functools.partial(op, query, key, value, normalizer="stablemax", **options)
                return jax.jit(jax.grad(lambda bias: jnp.vdot(call(bias), cotangent)))(bias)

            with self.subTest(shape=shape):
                actual = gradient(
                    ops.dot_product_attention, bias, form="chunked", chunk_size=(3, 4)
                )
                expected = gradient(reference.dot_product_attention, bias)
                compare.assert_relative(actual, expected, 1e-12)

    def test_precision_reaches_every_product(self):
        query, key, value, bias = arrays((4, 2, 3), (4, 1, 3), (4, 1, 3), (2, 4, 4))
        for form, products in (("parallel", 6), ("chunked", 7)):
            for precision in ("highest", "default"):

                def loss(query, key, value, bias, form=form, precision=precision):
                    return jnp.sum(
                        ops.dot_product_attention(
                            query, key, value, bias, form=form, precision=precision, chunk_size=2
                        )
                    )

                jaxpr = jax.make_jaxpr(jax.grad(loss, (0, 1, 2, 3)))(query, key, value, bias)
                found = [
                    e.params["precision"]
                    for e in equations(jaxpr.jaxpr)
                    if e.primitive.name == "dot_general"
                ]
                self.assertEqual(len(found), products, form)
                wanted = jax.lax.Precision(precision)
                self.assertTrue(all(p == (wanted, wanted) for p in found), (form, found))

    def test_the_default_form_depends_on_the_length(self):
        def loops(T, **options):
            x = jax.ShapeDtypeStruct((T, 1, 8), jnp.float32)
            jaxpr = jax.make_jaxpr(lambda x: ops.dot_product_attention(x, x, x, **options))(x)
            return any(e.primitive.name in ("while", "scan") for e in equations(jaxpr.jaxpr))

        self.assertFalse(loops(256))
        self.assertTrue(loops(257))
        self.assertFalse(loops(257, form="parallel"))
        self.assertTrue(loops(5, form="chunked"))

    def test_mixed_dtypes(self):
        query, key, value = arrays((6, 2, 4), (6, 2, 4), (6, 2, 3), dtype=jnp.float32)
        for form in ("parallel", "chunked"):
            op = functools.partial(ops.dot_product_attention, form=form)
            y, pull_back = jax.vjp(op, query.astype(jnp.bfloat16), key, value)
            chex.assert_type(y, jnp.float32)
            gradients = pull_back(y)
            chex.assert_type(gradients, [jnp.bfloat16, jnp.float32, jnp.float32])
            y = op(query, key, value.astype(jnp.bfloat16))
            chex.assert_type(y, jnp.bfloat16)

    def test_empty_key_sequences_give_zero(self):
        query, key, value = arrays((3, 2, 4), (0, 2, 4), (0, 2, 5))
        for form in ("parallel", "chunked"):
            y = ops.dot_product_attention(query, key, value, form=form)
            np.testing.assert_array_equal(y, np.zeros((3, 2, 5)))


class TransformationTest(chex.TestCase):
    """Standard promotion: how a model calls it."""

    def inputs(self, dtype=jnp.float64):
        return arrays((8, 10, 4, 8), (8, 10, 2, 8), (8, 10, 2, 8), (4, 10, 10), dtype=dtype)

    def test_shard_map_over_batch_with_a_replicated_bias(self):
        self.enterContext(jax.enable_x64(True))
        inputs = self.inputs()
        mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
        sharded, whole = PartitionSpec("data"), PartitionSpec()
        for form in ("parallel", "chunked"):
            op = functools.partial(
                ops.dot_product_attention, is_causal=True, form=form, chunk_size=4
            )
            mapped = jax.shard_map(
                op, mesh=mesh, in_specs=(sharded, sharded, sharded, whole), out_specs=sharded
            )

            def loss(*inputs, op=op):
                return jnp.sum(jnp.sin(op(*inputs)))

            gradients = functools.partial(jax.grad, argnums=(0, 1, 2, 3))
            expected = jax.jit(gradients(loss))(*inputs)
            actual = jax.jit(gradients(functools.partial(loss, op=mapped)))(*inputs)
            compare.assert_relative(actual, expected, 1e-10)

    def test_sharded_arguments_under_jit(self):
        self.enterContext(jax.enable_x64(True))
        inputs = self.inputs()
        mesh = jax.make_mesh((4, 2), ("data", "tensor"), axis_types=(AxisType.Auto,) * 2)
        spec = PartitionSpec("data", None, "tensor")
        placed = [
            jax.device_put(x, jax.NamedSharding(mesh, spec if x.ndim == 4 else PartitionSpec()))
            for x in inputs
        ]

        @jax.jit
        def gradients(*inputs):
            return jax.grad(
                lambda *x: jnp.sum(
                    jnp.sin(ops.dot_product_attention(*x, form="chunked", chunk_size=4))
                ),
                (0, 1, 2, 3),
            )(*inputs)

        compare.assert_relative(gradients(*placed), gradients(*inputs), 1e-10)

    def test_gradients_per_example(self):
        self.enterContext(jax.enable_x64(True))
        query, key, value, bias = self.inputs()

        def gradient(form):
            def loss(query, key, value):
                op = functools.partial(ops.dot_product_attention, form=form, chunk_size=4)
                return jnp.sum(jnp.sin(op(query, key, value, bias)))

            return jax.jit(jax.vmap(jax.grad(loss, (0, 1, 2)), (1, None, 0), 1))

        # heads as the mapped axis of query, batch as that of value: no layout is special
        query, value = query[0, :, :2], value[:2]
        args = (query[:, :, None], key[0][:, :1], value[:, :, :1])
        bias = bias[:1]
        compare.assert_relative(gradient("chunked")(*args), gradient("parallel")(*args), 1e-10)

    def test_parallel_has_second_derivatives(self):
        self.enterContext(jax.enable_x64(True))
        x, v = arrays((4, 1, 3), (4, 1, 3))

        def loss(x):
            return jnp.sum(jnp.sin(ops.dot_product_attention(x, x, x, form="parallel")))

        forward_over_reverse = jax.jvp(jax.grad(loss), (x,), (v,))[1]
        reverse_over_reverse = jax.grad(lambda x: jnp.vdot(jax.grad(loss)(x), v))(x)
        compare.assert_relative(forward_over_reverse, reverse_over_reverse, 1e-10)

    def test_equals_jax_nn(self):
        query, key, value, bias = self.inputs(jnp.float32)
        mask = (
            jnp.asarray(np.random.default_rng(0).random((8, 1, 10, 10)) < 0.7).at[..., 0].set(True)
        )
        lengths = jnp.arange(3, 11, dtype=jnp.int32)
        for args, options in (
            ((bias[None], mask), {"is_causal": True, "scale": 0.3}),
            ((), {"local_window_size": (3, 2)}),
            ((), {"local_window_size": 2, "is_causal": True}),
            ((), {"query_seq_lengths": lengths, "key_value_seq_lengths": lengths}),
        ):
            expected = jax.nn.dot_product_attention(query, key, value, *args, **options)
            for form in ("parallel", "chunked"):
                actual = ops.dot_product_attention(
                    query, key, value, *args, **options, form=form, chunk_size=4
                )
                np.testing.assert_allclose(actual, expected, rtol=2e-5, atol=2e-6)
        # unequal lengths: causality counts from the start of both
        for T, S in ((10, 6), (6, 10)):
            args = (query[:, :T], key[:, :S], value[:, :S])
            np.testing.assert_allclose(
                ops.dot_product_attention(*args, is_causal=True, form="chunked", chunk_size=4),
                jax.nn.dot_product_attention(*args, is_causal=True),
                rtol=2e-5,
                atol=2e-6,
            )


class ForwardModeTest(chex.TestCase):
    def test_the_form_that_has_it_is_named(self):
        (x,) = arrays((1, 9, 2, 4), dtype=jnp.float32)
        ones = jnp.ones
        calls = {
            "dot_product_attention": lambda x, **form: ops.dot_product_attention(x, x, x, **form),
            "manhattan_attention": lambda x, **form: ops.manhattan_attention(
                x, x, x, -ones(2), grid=(3, 3), **form
            ),
            "tensor_attention": lambda x, **form: ops.tensor_attention(x, x, x, x, x, **form),
        }
        for name, call in calls.items():
            jax.jvp(lambda x, call=call: call(x, form="parallel"), (x,), (x,))
            for take in (jax.jacfwd, lambda f: lambda x: jax.jvp(f, (x,), (x,))):
                told = rf'^{name}: forward mode .* goes through form="parallel" alone'
                with self.assertRaisesRegex(TypeError, told):
                    take(lambda x, call=call: call(x, form="chunked"))(x)
        # Another mistake stays what it is.
        with self.assertRaisesRegex(TypeError, "unexpected keyword argument 'causal'"):
            ops.dot_product_attention(x, x, x, causal=True)


class MemoryTest(chex.TestCase):
    def temporary_bytes(self, T, heads=1, bias=False, **options):
        def loss(x, bias, cotangent):
            y = ops.dot_product_attention(x, x, x, bias, **options)
            return jnp.vdot(y, cotangent)

        x = jax.ShapeDtypeStruct((T, heads, 64), jnp.float32)
        b = jax.ShapeDtypeStruct((1, T), jnp.float32) if bias else None
        gradient = jax.jit(jax.grad(loss, (0, 1) if bias else 0))
        return gradient.lower(x, b, x).compile().memory_analysis().temp_size_in_bytes

    def test_training_at_32768_tokens_stays_in_a_quarter_gibibyte(self):
        # the matrix alone would be 4 GiB
        for options in ({}, {"is_causal": True, "bias": True}):
            self.assertLess(self.temporary_bytes(32768, **options), 2**28)

    def test_training_memory_is_linear_in_the_length(self):
        grown = self.temporary_bytes(65536, chunk_size=512)
        self.assertLess(grown, 2.1 * self.temporary_bytes(32768, chunk_size=512))
