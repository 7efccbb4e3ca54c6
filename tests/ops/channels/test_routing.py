"""Noisy gates, loads and losses of balance."""

import jax
import jax.numpy as jnp
import numpy as np

from scanmax import ops
from scanmax.ops import reference
from scanmax.testing import OpCase, OpSuite


def draw(rng, case):
    shape = (*case.batch, case.length, 4)
    # Far enough apart that rounding does not change a choice.
    order = rng.permuted(np.tile(np.arange(4.0), (*shape[:-1], 1)), axis=-1)
    return {
        "logits": order + rng.uniform(-0.1, 0.1, size=shape),
        "noise_logits": rng.uniform(-1, 0, size=shape),
        "noise": rng.uniform(-0.3, 0.3, size=shape),
    }


class NoisyLogitsTest(OpSuite):
    op = ops.noisy_logits
    reference = reference.noisy_logits
    cases = (OpCase(length=3, batch=(2,), full=True), OpCase(length=1, options={"epsilon": 0.0}))
    errors = (({"noise": lambda z: z[..., 1:]}, ValueError, "noise has shape"),)

    def make_args(self, rng, case):
        return draw(rng, case)


class ExpertLoadTest(OpSuite):
    op = ops.expert_load
    reference = reference.expert_load
    cases = (
        OpCase(length=3, batch=(2,), options={"top_k": 2}, full=True),
        OpCase(length=2, options={"top_k": 1, "epsilon": 0.1}),
        OpCase(length=2, options={"top_k": 4}),
    )
    errors = (
        ({"noise_logits": lambda z: z[..., 1:]}, ValueError, "noise_logits has shape"),
        ({"top_k": 5}, ValueError, "top_k=5 with logits of shape"),
    )

    def make_args(self, rng, case):
        return draw(rng, case)

    def test_it_is_how_often_an_expert_is_chosen_with_noise_of_its_own_drawn_anew(self):
        rng = np.random.default_rng(0)
        logits, noise_logits, noise = (rng.normal(size=4) for _ in range(3))
        size = np.log1p(np.exp(noise_logits)) + 0.01
        chance = ops.expert_load(
            *(jnp.asarray(z)[None] for z in (logits, noise_logits, noise)), top_k=2
        )
        for i in range(4):
            drawn = np.tile(logits + noise * size, (20000, 1))
            drawn[:, i] = logits[i] + rng.normal(size=20000) * size[i]
            share = (np.argsort(-drawn, -1)[:, :2] == i).any(-1).mean()
            assert abs(share - float(chance[0, i])) < 0.015


class SquaredVariationTest(OpSuite):
    op = ops.squared_variation
    reference = reference.squared_variation
    accumulated = (0,)
    cases = (OpCase(batch=(2,), full=True), OpCase(options={"epsilon": 0.1}))
    errors = (({"x": lambda x: x[0, 0]}, ValueError, "x has shape"),)

    def make_args(self, rng, case):
        return {"x": rng.uniform(1, 2, size=(*case.batch, 5))}


class EntropyBalanceTest(OpSuite):
    op = ops.entropy_balance
    reference = reference.entropy_balance
    accumulated = (0,)
    cases = (OpCase(length=3, batch=(2,), full=True), OpCase(length=1))
    errors = (({"logits": lambda z: z[0, 0]}, ValueError, "logits has shape"),)

    def make_args(self, rng, case):
        return {"logits": rng.normal(size=(*case.batch, case.length, 4))}

    def test_it_is_least_where_all_are_chosen_alike(self):
        alike, one = jnp.zeros((2, 4)), jnp.full((2, 4), -1e4).at[:, 1].set(0)
        np.testing.assert_allclose(ops.entropy_balance(alike), -np.log(4), rtol=1e-6)
        assert float(ops.entropy_balance(one)) == 0
        assert np.isfinite(jax.grad(ops.entropy_balance)(one)).all()
