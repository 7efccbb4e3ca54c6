"""Manhattan self-attention against its equations, and what its users rely on."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

from scanmax import ops
from scanmax.ops import reference
from scanmax.testing import OpCase, OpSuite, compare


class ManhattanSuite(OpSuite):
    __test__ = False

    def make_args(self, rng, case):
        grid, prefix = case.options["grid"], case.options.get("prefix_tokens", 0)
        shape = (*case.batch, prefix + grid[0] * grid[1])
        heads = getattr(case, "heads", 2)
        return {
            "query": rng.normal(size=(*shape, 2, 5)),
            "key": rng.normal(size=(*shape, heads, 5)),
            "value": rng.normal(size=(*shape, heads, 3)),
            "log_decay": -rng.uniform(0.1, 0.8, size=2),
        }


class ManhattanAttentionTest(ManhattanSuite):
    op = ops.manhattan_attention
    reference = reference.manhattan_attention
    cases = (
        OpCase(
            full=True, heads=1, options={"grid": (2, 3), "decomposed": True, "prefix_tokens": 1}
        ),
        OpCase(batch=(2,), options={"grid": (2, 3), "prefix_tokens": 1}),
        OpCase(batch=(1, 2), options={"grid": (3, 2), "decomposed": True, "placement": "weights"}),
        OpCase(options={"grid": (1, 1), "decomposed": True, "form": "chunked"}),
    )
    errors = (
        ({"grid": (3, 3)}, ValueError, r"expected T = 1 \+ 3 \* 3"),
        ({"log_decay": lambda x: x[:1]}, ValueError, r"log_decay has shape \(1,\)"),
        ({"value": lambda x: x[:3]}, ValueError, r"value has shape \(3, 1, 3\)"),
        ({"placement": "output"}, ValueError, "'logits', 'weights'"),
    )


class ManhattanAttentionMatrixTest(ManhattanSuite):
    op = ops.manhattan_attention_matrix
    reference = reference.manhattan_attention_matrix
    cases = (
        OpCase(full=True, options={"grid": (2, 3), "decomposed": True, "prefix_tokens": 1}),
        OpCase(batch=(2,), heads=1, options={"grid": (2, 2), "placement": "weights"}),
    )

    def make_args(self, rng, case):
        args = super().make_args(rng, case)
        args.pop("value")
        return args


class ManhattanTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.enterContext(jax.enable_x64(True))

    @parameterized.parameters((1, 2.0, 4.0), (4, 2.0, 4.0), (3, 1.0, 6.0))
    def test_decays_equal_their_equation(self, heads, initial, span):
        options = {"initial": initial, "span": span, "dtype": jnp.float64}
        chex.assert_trees_all_close(
            ops.manhattan_log_decay(heads, **options),
            reference.manhattan_log_decay(heads, **options),
            rtol=1e-13,
        )
        with self.assertRaisesRegex(ValueError, "initial=0"):
            ops.manhattan_log_decay(heads, initial=0.0)

    @parameterized.parameters("logits", "weights")
    def test_equal_logits_leave_the_decay_alone_and_it_decomposes(self, placement):
        # then A_Y A_X is the whole, on the weights up to the number of tokens in the sums
        grid, decay = (3, 4), -jnp.array([0.3, 0.9])
        x = jnp.zeros((12, 2, 4))
        options = {"grid": grid, "placement": placement}
        whole = ops.manhattan_attention_matrix(x, x, decay, **options)
        parts = ops.manhattan_attention_matrix(x, x, decay, decomposed=True, **options)
        compare.assert_relative(parts, whole, 1e-12)
        mask = ops.decay_mask_2d(decay, grid)
        total = 12 if placement == "weights" else mask.sum(-1, keepdims=True)
        compare.assert_relative(whole, mask / total, 1e-12)

    def test_one_row_is_the_whole(self):
        rng = np.random.default_rng(0)
        query, key, value = (jnp.asarray(rng.normal(size=(5, 2, 4))) for _ in range(3))
        decay = -jnp.array([0.3, 0.9])
        compare.assert_relative(
            ops.manhattan_attention(query, key, value, decay, grid=(1, 5), decomposed=True),
            ops.distance_attention(query, key, value, decay),
            1e-12,
        )
