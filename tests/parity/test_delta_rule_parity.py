"""The gated delta rule against the torch code of transformers' Qwen3-Next, states and gradients."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tolerances

from scanmax import ops

pytestmark = pytest.mark.parity


@pytest.mark.parametrize(
    "peer", ["torch_chunk_gated_delta_rule", "torch_recurrent_gated_delta_rule"]
)
def test_gated_delta_rule(peers, peer):
    torch = peers.torch
    module = importlib.import_module("transformers.models.qwen3_next.modeling_qwen3_next")
    rng = np.random.default_rng(0)
    lead = (2, 70, 3)
    key = rng.normal(size=(*lead, 8))
    arrays = [
        rng.normal(size=(*lead, 8)),
        key / np.linalg.norm(key, axis=-1, keepdims=True),
        rng.normal(size=(*lead, 5)),
        rng.uniform(size=lead),
        -rng.exponential(0.2, size=lead),
    ]
    state = rng.normal(size=(2, 3, 8, 5)).astype(np.float32)
    arrays = [x.astype(np.float32) for x in arrays]
    query, key, value, beta, decay = tensors = [torch.tensor(x).requires_grad_() for x in arrays]
    y, last = getattr(module, peer)(
        query,
        key,
        value,
        g=decay,
        beta=beta,
        initial_state=torch.tensor(state),
        output_final_state=True,
    )
    expected = (y, last, *torch.autograd.grad(y.sin().sum(), tensors))

    def attend(*arrays):
        *tokens, decay = arrays
        y, last = ops.delta_rule(
            *tokens, log_decay=decay, scale=8**-0.5, initial_state=state, return_state=True
        )
        return jnp.sin(y).sum(), (y, last)

    gradients, results = jax.grad(attend, range(5), has_aux=True)(*map(jnp.asarray, arrays))
    for actual, wanted in zip((*results, *gradients), expected):
        wanted = wanted.detach().numpy()
        atol = tolerances.PARITY * np.abs(wanted).max()
        np.testing.assert_allclose(actual, wanted, rtol=0, atol=atol)
