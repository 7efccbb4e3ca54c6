"""Cross-covariance attention against timm's, weights and gradients."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tolerances

from scanmax.models.mixers import create_mixer

pytestmark = pytest.mark.parity


def test_cross_covariance_equals_timms(peers):
    torch = peers.torch
    xcit = importlib.import_module("timm.models.xcit")
    torch.manual_seed(0)
    heads, dim = 2, 12
    peer = xcit.XCA(dim, num_heads=heads, qkv_bias=True)
    with torch.no_grad():
        for parameter in peer.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    x = torch.randn(2, 15, dim, requires_grad=True)
    y = peer(x)
    cotangent = torch.randn(y.shape)
    (y * cotangent).sum().backward()

    def array(tensor):
        return jnp.asarray(tensor.detach().numpy())

    width = dim // heads
    params = {
        "qkv": {
            "kernel": array(peer.qkv.weight.T).reshape(dim, 3, heads, width),
            "bias": array(peer.qkv.bias).reshape(3, heads, width),
        },
        "temperature": array(peer.temperature).reshape(heads),
        "out": {
            "kernel": array(peer.proj.weight.T).reshape(heads, width, dim),
            "bias": array(peer.proj.bias),
        },
    }
    mixer = create_mixer("xca", heads=heads)

    def loss(params, x):
        y = mixer.apply({"params": params}, x)
        return (y * array(cotangent)).sum(), y

    run = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
    (_, ours), (grads, x_grad) = run(params, array(x))
    for actual, expected in (
        (ours, y),
        (x_grad, x.grad),
        (grads["temperature"].reshape(heads, 1, 1), peer.temperature.grad),
        (grads["qkv"]["kernel"].reshape(dim, 3 * dim), peer.qkv.weight.grad.T),
    ):
        expected = expected.detach().numpy()
        scale = np.abs(expected).max()
        np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerances.PARITY * scale)
