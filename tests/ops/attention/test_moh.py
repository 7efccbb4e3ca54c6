"""Head gates, the load-balance loss, and attention with gated heads, against their equations."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from scanmax import ops
from scanmax.models.mixers import create_mixer
from scanmax.ops import reference
from scanmax.testing import OpCase, OpSuite, compare


class MohGatesTest(OpSuite):
    op = ops.moh_gates
    reference = reference.moh_gates
    sequence = ()
    cases = (
        OpCase(batch=(2,), shared=3, balance=True, options={"top_k": 2}, full=True),
        OpCase(batch=(), shared=None, balance=True, options={"top_k": 4, "rescale": False}),
        OpCase(batch=(), shared=2, balance=False, options={"top_k": 1}),
    )
    errors = (
        ({"top_k": 5}, ValueError, r"top_k=5 with routed_logits of shape \(2, 3, 4\)"),
        ({"shared_logits": lambda x: x[0]}, ValueError, "shared_logits has shape"),
        ({"balance_logits": lambda x: x[..., :1]}, ValueError, "balance_logits has shape"),
    )

    def make_args(self, rng, case):
        def draw(heads):
            # Far enough apart that neither rounding nor a finite difference changes the choice.
            order = rng.permuted(np.tile(np.arange(heads), (*case.batch, 3, 1)), axis=-1)
            return order + rng.uniform(-0.2, 0.2, size=order.shape)

        return {
            "routed_logits": draw(4),
            "shared_logits": None if case.shared is None else draw(case.shared),
            "balance_logits": draw(2) if case.balance else None,
        }


class MohQueryLogitsTest(OpSuite):
    op = ops.moh_query_logits
    reference = reference.moh_query_logits
    cases = (OpCase(batch=(2,), full=True), OpCase(batch=()))
    errors = (({"query": lambda x: x[..., :1, :]}, ValueError, "expected at least two routed"),)

    def make_args(self, rng, case):
        return {"query": rng.normal(size=(*case.batch, 3, 4, 5))}

    def test_heads_of_one_length_have_finite_gradients(self):
        query = jnp.zeros((1, 3, 2)).at[0, :, 0].set(2.0)
        np.testing.assert_array_equal(ops.moh_query_logits(query), [[2.0, 2.0, 2.0]])
        for x in (query, jnp.zeros((1, 3, 2))):
            gradient = jax.grad(lambda x: ops.moh_query_logits(x).sum())(x)
            self.assertTrue(bool(jnp.isfinite(gradient).all()))


class MohQuantizedGatesTest(MohGatesTest):
    op = ops.moh_quantized_gates
    reference = reference.moh_quantized_gates
    cases = (
        OpCase(batch=(2,), options={"shared_heads": 2, "top_k": 2}, full=True),
        OpCase(batch=(), options={"shared_heads": 0, "top_k": 1, "straight_through": False}),
    )
    errors = (
        ({"top_k": 0}, ValueError, "top_k=0 with routed_logits"),
        ({"shared_heads": -1}, ValueError, "shared_heads=-1"),
    )

    def make_args(self, rng, case):
        case.shared, case.balance = None, False
        return {"routed_logits": super().make_args(rng, case)["routed_logits"]}

    def test_level_3_gradients_equal_finite_differences(self):
        """Not those of steps, but of the scores that stand in for them."""
        arrays, options = self.inputs(self.full_cases[0])
        logits, top_k = arrays["routed_logits"], options["top_k"]
        rng, size = np.random.default_rng(0), 1e-6
        weights, way = rng.normal(size=logits.shape), rng.normal(size=logits.shape)

        def scored(logits):
            return float(np.sum(weights * ops.moh_gates(logits, top_k=top_k, rescale=False)))

        def gated(logits, **changed):
            gates = ops.moh_quantized_gates(logits, **{**options, **changed})
            return jnp.sum(weights * gates[..., 2:])

        expected = (scored(logits + size * way) - scored(logits - size * way)) / (2 * size)
        gradient = jax.grad(gated)(logits)
        np.testing.assert_allclose(np.sum(gradient * way), expected, rtol=1e-6)
        self.assertFalse(np.asarray(jax.grad(gated)(logits, straight_through=False)).any())


class HeadLoadBalanceTest(MohGatesTest):
    op = ops.head_load_balance
    reference = reference.head_load_balance
    accumulated = (0,)
    cases = (
        OpCase(batch=(2,), options={"top_k": 2}, full=True),
        OpCase(batch=(), options={"top_k": 1, "rescale": False}),
    )
    errors = (({"top_k": 0}, ValueError, "top_k=0 with routed_logits"),)

    def make_args(self, rng, case):
        case.shared, case.balance = None, False
        return {"routed_logits": super().make_args(rng, case)["routed_logits"]}


def draw_gates(rng, batch, length, heads, shared, top_k):
    """Gates of `shared` heads and of top_k random others."""
    gates = rng.uniform(0.5, 1.5, size=(*batch, length, heads)) * rng.choice([-1, 1], size=heads)
    order = rng.permuted(np.tile(np.arange(heads - shared), (*batch, length, 1)), axis=-1)
    gates[..., shared:] *= order < top_k
    return gates


class MohAttentionTest(OpSuite):
    op = ops.moh_attention
    reference = reference.moh_attention
    forms = ("masked", "gathered")
    differentiable = ("query", "key", "value")
    cases = (
        OpCase(
            length=7,
            source=5,
            batch=(2,),
            heads=(6, 3),
            options={"shared_heads": 1, "top_k": 2, "chunk_size": 3, "is_causal": True},
            full=True,
        ),
        OpCase(length=5, source=5, heads=(4, 4), options={"shared_heads": 0, "top_k": 1}),
        OpCase(
            length=6,
            source=6,
            batch=(1, 2),
            heads=(4, 1),
            options={"shared_heads": 2, "top_k": 2, "normalizer": "sigmoid"},
        ),
        OpCase(length=1, source=3, heads=(3, 3), options={"shared_heads": 3, "top_k": 0}, batch=()),
    )
    errors = (
        ({"gates": lambda x: x[..., :5]}, ValueError, r"gates has shape \(2, 7, 5\)"),
        ({"shared_heads": 7}, ValueError, "shared_heads=7: expected 0 to 6"),
        ({"top_k": 6}, ValueError, "top_k=6: expected 0 to 5"),
        ({"chunk_size": 0}, ValueError, "chunk_size=0"),
        ({"form": "chunked"}, ValueError, "'masked', 'gathered'"),
    )

    def make_args(self, rng, case):
        H, G = case.heads
        options = case.options
        return {
            "query": rng.normal(size=(*case.batch, case.length, H, 3)),
            "key": rng.normal(size=(*case.batch, case.source, G, 3)),
            "value": rng.normal(size=(*case.batch, case.source, G, 2)),
            "gates": draw_gates(
                rng, case.batch, case.length, H, options["shared_heads"], options["top_k"]
            ),
            "scale": np.asarray(0.7),
        }

    def test_level_3_gates_get_the_references_gradient(self):
        for case in self.full_cases:
            arrays, options = self.inputs(case)
            others = {name: array for name, array in arrays.items() if name != "gates"}

            def loss(gates, op, others=others, **options):
                return jnp.sum(jnp.sin(op(gates=gates, **others, **options)))

            kept = {name: options[name] for name in options if name != "chunk_size"}
            expected = jax.grad(loss)(arrays["gates"], self.reference, **kept)
            self.assertFalse(np.asarray(expected)[np.asarray(arrays["gates"]) == 0].any())
            for form in self.forms:
                actual = jax.grad(loss)(arrays["gates"], self.op, form=form, **options)
                compare.assert_relative(actual, expected, 1e-10)

    def test_every_routing_fits_and_too_many_heads_are_loud(self):
        rng = np.random.default_rng(0)
        T, H = 9, 4
        x = jnp.asarray(rng.normal(size=(T, H, 3)))
        keywords = {"shared_heads": 0, "top_k": 2, "chunk_size": 4}
        same = np.zeros((T, H))
        same[:, 1:3] = 1  # every token takes the same two heads
        few = draw_gates(rng, (), T, H, 0, 2) * (rng.random((T, H)) < 0.5)
        for gates in (same, few, np.zeros((T, H)), draw_gates(rng, (), T, H, 0, 2)):
            gates = jnp.asarray(gates)
            actual = ops.moh_attention(x, x, x, gates, form="gathered", **keywords)
            expected = reference.moh_attention(x, x, x, gates, shared_heads=0, top_k=2)
            compare.assert_relative(actual, expected, 1e-12)
        gates = gates.at[4].set(1.0)
        y = ops.moh_attention(x, x, x, gates, form="gathered", **keywords)
        self.assertEqual(np.unique(np.where(np.isnan(y))[0]).tolist(), [4])


class MohAttentionMatrixTest(OpSuite):
    op = ops.moh_attention_matrix
    reference = reference.moh_attention_matrix
    differentiable = ("query", "key")
    cases = (
        OpCase(length=4, source=5, batch=(2,), heads=(4, 2), shared_heads=1, top_k=2, full=True),
        OpCase(
            length=3, source=3, heads=(2, 2), shared_heads=0, top_k=1, options={"is_causal": True}
        ),
    )
    errors = (({"gates": lambda x: x[..., :3]}, ValueError, r"gates has shape \(2, 4, 3\)"),)

    def make_args(self, rng, case):
        H, G = case.heads
        return {
            "query": rng.normal(size=(*case.batch, case.length, H, 3)),
            "key": rng.normal(size=(*case.batch, case.source, G, 3)),
            "gates": draw_gates(rng, case.batch, case.length, H, case.shared_heads, case.top_k),
        }


def test_the_router_without_parameters_is_that_of_moh_llama():
    """Longest queries of the routed heads by loops, and the layer with those heads alone."""
    rng = np.random.default_rng(0)
    mixer = create_mixer(
        "moh",
        heads=8,
        is_causal=True,
        use_bias=False,
        options={
            "router": "query_norm",
            "shared_heads": 4,
            "routed_heads": 2,
            "kv_heads": 2,
            "rotary_base": 100.0,
        },
    )
    plain = create_mixer(
        "attention",
        heads=8,
        is_causal=True,
        use_bias=False,
        options={"kv_heads": 2, "rotary_base": 100.0},
    )
    x = jnp.asarray(rng.normal(size=(2, 5, 32)), jnp.float32)
    variables = nn.unbox(jax.jit(plain.init)(jax.random.key(0), x))
    variables = jax.tree.map(lambda p: 20 * p, variables)
    y, sown = mixer.apply(variables, x, train=True, mutable=["losses"])
    assert float(sown["losses"]["load_balance"][0]) > 0
    params = jax.tree.map(np.asarray, variables["params"])
    query = np.einsum("btd,dhk->bthk", x, params["query"]["kernel"])
    mask = np.zeros((2, 5, 8))
    mask[..., :4] = 1
    for place in np.ndindex(2, 5):
        length = np.linalg.norm(query[place], axis=-1)[4:]
        mask[(*place, 4 + np.argsort(-length)[:2])] = 1
    heads = {}

    def seen(next_fun, args, kwargs, context):
        if context.module.name == "out":
            heads["y"] = args[0]
        return next_fun(*args, **kwargs)

    with nn.intercept_methods(seen):
        plain.apply(variables, x)
    expected = np.einsum("bth,bthk,hkd->btd", mask, heads["y"], params["out"]["kernel"])
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)


def test_the_gathered_form_keeps_one_block_of_logits():
    T, heads, top_k = 1024, 8, 2
    x = jnp.zeros((T, heads, 16))
    gates = jnp.zeros((T, heads)).at[:, :top_k].set(1.0)

    def memory(form):
        def run(x, gates):
            return ops.moh_attention(x, x, x, gates, shared_heads=0, top_k=top_k, form=form)

        return jax.jit(run).lower(x, gates).compile().memory_analysis().temp_size_in_bytes

    assert memory("gathered") < memory("masked") / 2
