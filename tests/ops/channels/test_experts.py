"""Gates of experts, the way to them and back, against their equations and against lists."""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from scanmax import ops
from scanmax.ops import reference
from scanmax.testing import OpCase, OpSuite


def draw_logits(rng, batch, length, experts):
    """Far enough apart that neither rounding nor a finite difference changes a choice."""
    order = rng.permuted(np.tile(np.arange(experts), (*batch, length, 1)), axis=-1)
    return order + rng.uniform(-0.2, 0.2, size=order.shape)


def draw_gates(rng, batch, length, experts, top_k):
    order = draw_logits(rng, batch, length, experts)
    return np.where(order >= experts - top_k - 0.5, rng.uniform(0.5, 1.0, size=order.shape), 0.0)


class ExpertGatesTest(OpSuite):
    op = ops.expert_gates
    reference = reference.expert_gates
    sequence = ()
    cases = (
        OpCase(length=7, batch=(2,), options={"top_k": 2, "capacity": 3}, full=True),
        OpCase(length=1, options={"top_k": 4}),
        OpCase(length=9, batch=(1, 2), options={"top_k": 1, "capacity": 2, "normalize": False}),
        OpCase(
            length=3, options={"top_k": 2, "normalize": False, "scores": "sigmoid"}, selects=True
        ),
    )
    errors = (
        ({"selection": jnp.ones((7, 4))}, ValueError, r"selection has shape \(7, 4\)"),
        ({"scores": "relu"}, ValueError, "scores='relu' is not one of"),
        ({"top_k": 5}, ValueError, r"top_k=5 with gates of shape \(2, 7, 4\)"),
        ({"capacity": 0}, ValueError, "capacity=0"),
    )

    def make_args(self, rng, case):
        args = {"logits": draw_logits(rng, case.batch, case.length, 4)}
        if getattr(case, "selects", False):
            args["selection"] = draw_logits(rng, case.batch, case.length, 4)
        return args

    def test_an_expert_takes_its_first_tokens_and_no_more(self):
        logits = jnp.tile(jnp.array([3.0, 2.0, 1.0]), (5, 1))
        gates = ops.expert_gates(logits, top_k=2, capacity=3)
        np.testing.assert_array_equal(np.sum(np.asarray(gates) != 0, 0), [3, 3, 0])
        assert (np.asarray(gates)[:3, :2] > 0).all()

    def test_no_gate_depends_on_a_later_token(self):
        rng = np.random.default_rng(0)
        logits = jnp.asarray(draw_logits(rng, (), 8, 4))
        options = {"top_k": 2, "capacity": 2}
        short = ops.expert_gates(logits[:5], **options)
        chex.assert_trees_all_equal(ops.expert_gates(logits, **options)[:5], short)


class DispatchToExpertsTest(OpSuite):
    op = ops.dispatch_to_experts
    reference = reference.dispatch_to_experts
    sequence = ()
    differentiable = ("x",)
    cases = (
        OpCase(length=7, batch=(2,), options={"capacity": 3}, full=True),
        OpCase(length=1, options={"capacity": 2}),
        OpCase(length=9, batch=(1, 2), options={"capacity": 9}),
    )
    errors = (
        ({"capacity": 0}, ValueError, "capacity=0"),
        ({"gates": lambda g: g[..., 1:, :]}, ValueError, "gates has shape"),
    )

    def make_args(self, rng, case):
        shape = (*case.batch, case.length)
        return {"x": rng.normal(size=(*shape, 3)), "gates": draw_gates(rng, *self.sizes(case), 2)}

    def sizes(self, case):
        return case.batch, case.length, 4


class CombineExpertsTest(DispatchToExpertsTest):
    op = ops.combine_experts
    reference = reference.combine_experts
    differentiable = ("y",)
    cases = (
        OpCase(length=7, batch=(2,), capacity=3, options={"top_k": 2}, full=True),
        OpCase(length=1, capacity=2, options={"top_k": 4}),
        OpCase(length=9, batch=(1, 2), capacity=9, options={"top_k": 3}),
    )
    errors = (
        ({"top_k": 5}, ValueError, "top_k=5 with gates of shape"),
        ({"gates": lambda g: g[..., 1:]}, ValueError, "gates has shape"),
    )

    def make_args(self, rng, case):
        return {
            "y": rng.normal(size=(*case.batch, 4, case.capacity, 3)),
            "gates": draw_gates(rng, *self.sizes(case), 2),
        }

    def test_the_gradient_of_the_gates(self):
        rng = np.random.default_rng(1)
        with jax.enable_x64(True):
            y, cotangent = jnp.asarray(rng.normal(size=(4, 3, 3))), rng.normal(size=(7, 3))
            gates = jnp.asarray(draw_gates(rng, (), 7, 4, 2))

            def gradient(function):
                return jax.grad(lambda g: jnp.sum(function(y, g, top_k=2) * cotangent))(gates)

            found, expected = gradient(ops.combine_experts), gradient(reference.combine_experts)
        assert np.abs(found).max() > 0.1
        np.testing.assert_allclose(found, expected, rtol=1e-12)
