"""Soft assignment of tokens against its equations, and what tokenizers and slots rely on."""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from scanmax import ops
from scanmax.ops import reference
from scanmax.testing import OpCase, OpSuite

SHORT = (1, 7, 65)


class _Masked(OpSuite):
    """Suites whose mask hides tokens: the last case hides all of one example."""

    __test__ = False

    def mask(self, rng, case):
        if not getattr(case, "masked", False):
            return None
        mask = rng.uniform(size=(*case.batch, case.length)) < 0.6
        mask[0, 0] = True
        mask[-1] = False
        return mask

    def poison(self, arrays, case):
        if "mask" not in arrays:
            return None
        hidden = ~arrays["mask"][..., None]
        return arrays | {name: jnp.where(hidden, jnp.nan, arrays[name]) for name in ("x", "logits")}

    def empty_rows(self, arrays, case):
        return ~np.asarray(arrays["mask"]).any(-1) if "mask" in arrays else None


class AggregateTokensTest(_Masked):
    op = ops.aggregate_tokens
    reference = reference.aggregate_tokens
    sequence = ("x", "logits", "mask")
    required_lengths = SHORT
    cases = (*OpCase.lengths(SHORT), OpCase(length=7, batch=(2,), masked=True))
    errors = (
        ({"logits": lambda z: z[..., 1:, :]}, ValueError, r"logits has shape"),
        ({"mask": jnp.ones(3, bool)}, ValueError, r"mask has shape \(3,\)"),
    )

    def make_args(self, rng, case):
        shape = (*case.batch, case.length)
        return {
            "x": rng.normal(size=(*shape, 3)),
            "logits": 3 * rng.normal(size=(*shape, 5)),
            "mask": self.mask(rng, case),
        }

    def test_saturated_logits_select_tokens(self):
        x = jax.random.normal(jax.random.key(0), (6, 4))
        chosen = jnp.array([4, 0, 5])
        logits = 1e4 * jax.nn.one_hot(chosen, 6).T
        chex.assert_trees_all_close(ops.aggregate_tokens(x, logits), x[chosen], atol=1e-6)

    def test_weights_of_a_slot_sum_to_one_over_tokens(self):
        logits = 5 * jax.random.normal(jax.random.key(0), (9, 4))
        weights = ops.aggregate_tokens(jnp.eye(9), logits)
        chex.assert_trees_all_close(weights.sum(1), jnp.ones(4), atol=1e-6)


class DispatchTokensTest(OpSuite):
    op = ops.dispatch_tokens
    reference = reference.dispatch_tokens
    cases = (OpCase(batch=(2,), full=True), OpCase(length=1, batch=(1, 2)))
    errors = (({"slots": lambda z: z[..., 1:, :]}, ValueError, r"logits has shape"),)

    def make_args(self, rng, case):
        return {
            "slots": rng.normal(size=(*case.batch, 4, 3)),
            "logits": 3 * rng.normal(size=(*case.batch, case.length, 4)),
        }

    def test_a_constant_map_survives_there_and_back(self):
        logits = jax.random.normal(jax.random.key(0), (12, 4))
        x = jnp.broadcast_to(jnp.array([1.0, -2.0]), (12, 2))
        back = ops.dispatch_tokens(ops.aggregate_tokens(x, logits), logits)
        chex.assert_trees_all_close(back, x, atol=1e-6)


class SlotLogitsTest(OpSuite):
    op = ops.slot_logits
    reference = reference.slot_logits
    cases = (OpCase(batch=(2,), full=True, scale=1.5), OpCase(length=1, scale=None))
    errors = (
        ({"slots": lambda z: z[..., 1:]}, ValueError, r"slots has shape"),
        ({"scale": jnp.ones(2)}, ValueError, "expected a scalar"),
    )

    def make_args(self, rng, case):
        return {
            "x": rng.normal(size=(*case.batch, case.length, 3)),
            "slots": rng.normal(size=(*case.batch, 4, 3)),
            "scale": None if case.scale is None else np.asarray(case.scale),
        }

    def test_a_token_of_zeros_is_like_no_slot_and_has_no_gradient(self):
        x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3))).at[2].set(0)
        slots = x[:2] + 1

        def total(x, slots, module):
            return jnp.sum(jnp.sin(1 + module.slot_logits(x, slots)))

        value, gradients = jax.value_and_grad(total, (0, 1))(x, slots, ops)
        np.testing.assert_allclose(value, total(x, slots, reference), rtol=1e-12)
        self.assertFalse(gradients[0][2].any())
        self.assertLess(max(float(jnp.abs(g).max()) for g in gradients), 10)


class SlotMatrixTest(OpSuite):
    op = ops.slot_matrix
    reference = reference.slot_matrix
    cases = (OpCase(length=5, batch=(2,), full=True, heads=2), OpCase(length=1, heads=None))
    errors = (({"mixing": lambda z: z[..., 1:]}, ValueError, r"mixing has shape"),)

    def make_args(self, rng, case):
        mixing = case.heads and rng.normal(size=(*case.batch, case.heads, 3, 3))
        return {"logits": rng.normal(size=(*case.batch, case.length, 3)), "mixing": mixing}

    def test_it_is_the_three_steps(self):
        keys = jax.random.split(jax.random.key(0), 3)
        logits, mixing, x = (
            jax.random.normal(key, shape) for key, shape in zip(keys, ((6, 3), (1, 3, 3), (6, 2)))
        )
        slots = mixing[0] @ ops.aggregate_tokens(x, logits)
        chex.assert_trees_all_close(
            ops.slot_matrix(logits, mixing)[0] @ x, ops.dispatch_tokens(slots, logits), atol=1e-5
        )


class SetPoolTest(_Masked):
    op = ops.set_pool
    reference = reference.set_pool
    cases = (
        OpCase(batch=(2,), full=True),
        OpCase(length=1),
        OpCase(length=5, batch=(3,), masked=True),
    )
    errors = (({"logits": lambda z: z[..., 1:]}, ValueError, r"logits has shape"),)

    def make_args(self, rng, case):
        x, logits = rng.normal(size=(2, *case.batch, case.length, 3))
        return {"x": x, "logits": 3 * logits, "mask": self.mask(rng, case)}

    def test_a_set_has_no_order_and_one_element_is_itself(self):
        x, logits = jax.random.normal(jax.random.key(0), (2, 7, 4))
        order = jnp.array([3, 1, 6, 0, 2, 5, 4])
        chex.assert_trees_all_close(
            ops.set_pool(x[order], logits[order]), ops.set_pool(x, logits), atol=1e-6
        )
        chex.assert_trees_all_equal(ops.set_pool(x[:1], logits[:1]), x[0])
