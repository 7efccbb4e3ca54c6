"""CondConv against timm's, live: outputs and gradients, dense and depthwise."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from scanmax.models.parts.conditional import CondConv

pytestmark = pytest.mark.parity


@pytest.mark.parametrize(
    ("groups", "features", "options"),
    [(1, 6, {"stride": 2, "padding": 1}), (4, 4, {"padding": 2})],
)
def test_outputs_and_gradients_are_those_of_timm(peers, groups, features, options):
    rng = np.random.default_rng(0)
    size = 2 * options["padding"] + 1
    layer = {"groups": groups, **options}
    peer = peers.timm.layers.CondConv2d(4, features, size, bias=True, num_experts=3, **layer)
    x, weights = rng.normal(size=(2, 5, 6, 4)), rng.uniform(size=(2, 3))
    kernels = rng.normal(size=(3, features, 4 // groups, size, size))
    biases = rng.normal(size=(3, features))
    peer = peer.double()
    peer.weight.data = torch.tensor(kernels.reshape(3, -1))
    peer.bias.data = torch.tensor(biases)
    tensors = [torch.tensor(a, requires_grad=True) for a in (x.transpose(0, 3, 1, 2), weights)]
    output = peer(*tensors)
    cotangent = rng.normal(size=tuple(output.shape))
    output.backward(torch.tensor(cotangent))
    with jax.enable_x64(True):
        ours = CondConv(
            features,
            size,
            experts=3,
            use_bias=True,
            dtype=np.float64,
            param_dtype=np.float64,
            **layer,
        )
        params = {
            "kernel": jnp.asarray(kernels.transpose(0, 3, 4, 2, 1)),
            "bias": jnp.asarray(biases),
        }

        def apply(params, x, weights):
            return ours.apply({"params": params}, x, weights)

        arrays = (params, jnp.asarray(x), jnp.asarray(weights))
        y, pull = jax.vjp(apply, *arrays)
        chex.assert_trees_all_close(y, output.detach().numpy().transpose(0, 2, 3, 1), rtol=1e-10)
        dparams, dx, dweights = pull(jnp.asarray(cotangent.transpose(0, 2, 3, 1)))
        expected = {
            "kernel": peer.weight.grad.numpy().reshape(kernels.shape).transpose(0, 3, 4, 2, 1),
            "bias": peer.bias.grad.numpy(),
        }
        chex.assert_trees_all_close(dparams, expected, rtol=1e-10, atol=1e-12)
        dx_of_peer, dweights_of_peer = (tensor.grad.numpy() for tensor in tensors)
        chex.assert_trees_all_close(
            (dx, dweights),
            (dx_of_peer.transpose(0, 2, 3, 1), dweights_of_peer),
            rtol=1e-10,
            atol=1e-12,
        )
