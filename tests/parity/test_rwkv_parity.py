"""The causal wkv against transformers' RWKV, live: outputs, gradients, and the last state."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tolerances

from benchmarks.peers import import_peer
from scanmax import ops
from scanmax.testing import compare

pytestmark = pytest.mark.parity


def test_wkv_is_that_of_transformers(peers):
    import torch

    rwkv = import_peer("transformers.models.rwkv.modeling_rwkv")
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=size) * 2 for size in ((2, 19, 4), (2, 19, 4), (4,), (4,))]
    arrays = [x.astype(np.float32) for x in arrays]
    cotangent = rng.normal(size=(2, 19, 4)).astype(np.float32)
    key, value, rate, bonus = (torch.as_tensor(x).requires_grad_() for x in arrays)
    expected, (numerator, denominator, level) = rwkv.rwkv_linear_attention_cpu(
        rate, bonus, key, value, return_state=True
    )
    gradients = torch.autograd.grad(expected, (key, value, rate, bonus), torch.as_tensor(cotangent))

    def ours(key, value, rate, bonus):
        return ops.wkv(key, value, -jnp.exp(rate), bonus, return_state=True)

    (y, state), pull_back = jax.vjp(ours, *map(jnp.asarray, arrays))
    actual = pull_back((jnp.asarray(cotangent), jnp.zeros_like(state)))
    compare.assert_relative(y, expected.detach().numpy(), tolerances.PARITY)
    for one, other in zip(actual, gradients, strict=True):
        compare.assert_relative(one, other.numpy(), tolerances.PARITY)
    mean = (numerator / denominator).detach().numpy()
    weight = (denominator.log() + level).detach().numpy()
    compare.assert_relative(state, np.stack([mean, weight], 1), tolerances.PARITY)
