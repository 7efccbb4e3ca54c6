"""Selective self-attention against its equations, and what its users rely on."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

from scanmax import ops
from scanmax.ops import reference
from scanmax.testing import OpCase, OpSuite, compare


class SelectiveTemperatureTest(OpSuite):
    op = ops.selective_temperature
    reference = reference.selective_temperature
    cases = (
        OpCase(token=(2, 5, 3), strength=(3,), counts=(5,), full=True),
        OpCase(
            token=(5, 1),
            strength=(3,),
            counts=(),
            options={"combine": "product", "position": "exponential"},
        ),
        OpCase(strength=(), counts=(2, 5), options={"position": "exponential"}),
        OpCase(token=(5, 3)),
    )
    errors = (
        ({"token": None, "strength": None, "num_keys": None}, ValueError, "both None"),
        ({"num_keys": None}, ValueError, "belong together"),
        ({"strength": lambda x: x[None]}, ValueError, r"strength has shape \(1, 3\)"),
        ({"num_keys": lambda x: x[None, None]}, ValueError, "num_keys has shape"),
        ({"combine": "mean"}, ValueError, "'sum', 'product'"),
        ({"position": "linear"}, ValueError, "'sigmoid', 'exponential'"),
    )

    def make_args(self, rng, case):
        args = {}
        for name in ("token", "strength"):
            if hasattr(case, name):
                args[name] = rng.normal(size=getattr(case, name))
        if hasattr(case, "counts"):
            args["num_keys"] = rng.integers(1, 50, size=case.counts)
        return args


class SelectiveSuite(OpSuite):
    __test__ = False
    sequence = ("query", "key", "value")
    required_lengths = (1, 7)
    required_batch_ranks = (0, 2)

    def make_args(self, rng, case):
        batch, T, S = case.batch, case.length, getattr(case, "source", case.length)
        args = {
            "query": rng.normal(size=(*batch, T, 4, 5)),
            "key": rng.normal(size=(*batch, S, 2, 5)),
            "value": rng.normal(size=(*batch, S, 2, 3)),
        }
        if hasattr(case, "heads"):
            args["query_temperature"] = rng.uniform(0.5, 2, size=(*batch, T, case.heads))
            args["value_temperature"] = rng.uniform(0.5, 2, size=(S, 2))
        return args


class SelectiveAttentionTest(SelectiveSuite):
    op = ops.selective_attention
    reference = reference.selective_attention
    forms = ("parallel", "chunked")
    cases = (
        OpCase(length=7, source=9, heads=4, full=True, forms=("parallel",)),
        OpCase(length=7, batch=(1, 2), heads=1, forms=("chunked",), options={"is_causal": True}),
        OpCase(length=1, forms=("parallel",)),
    )
    errors = (
        ({"query_temperature": lambda x: x[:3]}, ValueError, "query_temperature has shape"),
        ({"value_temperature": lambda x: x[..., None]}, ValueError, "value_temperature has shape"),
    )


class SelectiveAttentionMatrixTest(SelectiveSuite):
    op = ops.selective_attention_matrix
    reference = reference.selective_attention_matrix
    sequence = ()
    cases = (
        OpCase(length=5, source=6, heads=4, full=True),
        OpCase(length=5, options={"is_causal": True}),
    )

    def make_args(self, rng, case):
        args = super().make_args(rng, case)
        args.pop("value")
        return args


class SelectiveTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.enterContext(jax.enable_x64(True))

    def test_a_temperature_of_one_is_plain_attention(self):
        x = jnp.asarray(np.random.default_rng(0).normal(size=(6, 2, 4)))
        one = ops.selective_temperature(jnp.zeros((6, 2)))
        compare.assert_relative(
            ops.selective_attention(x, x, x, one, one), ops.dot_product_attention(x, x, x), 1e-12
        )

    def test_the_position_only_variant_is_the_released_one(self):
        # logits * (1 + exp(-exp(beta)) log(row length)) under a causal mask
        x = jnp.asarray(np.random.default_rng(0).normal(size=(6, 1, 4)))
        beta, lengths = jnp.array(0.2), jnp.arange(1, 7)
        tau = ops.selective_temperature(strength=beta, num_keys=lengths, position="exponential")
        logits = x[:, 0] @ x[:, 0].T / 2 * (1 + np.exp(-np.exp(0.2)) * np.log(lengths)[:, None])
        logits = jnp.where(jnp.tri(6, dtype=bool), logits, -jnp.inf)
        actual = ops.selective_attention_matrix(x, x, tau, is_causal=True)
        compare.assert_relative(actual[0], jax.nn.softmax(logits), 1e-12)
