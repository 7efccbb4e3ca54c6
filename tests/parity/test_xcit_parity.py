"""XCiT and its attention against timm, weights and gradients."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tolerances
from parity.agreement import (
    assert_agrees,
    assert_every_tensor_has_its_place,
    assert_maps_agree,
    assert_trains_alike,
)

import scanmax
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


@pytest.mark.parametrize("name", ["xcit_nano_12_p8_224", "xcit_tiny_24_p16_224"])
def test_logits_gradients_and_a_training_step_are_those_of_timm(peers, name):
    shape = {"depth": 2, "mlp_ratio": 2.0}
    theirs = {"embed_dim": 16, "num_heads": 2, "cls_attn_layers": 2, **shape}
    torch = peers.torch
    run = peers.image_model(name, 48, seed=3, dtype=torch.float64, maps={}, **theirs)
    with jax.enable_x64(True):
        double = {"dtype": np.float64, "param_dtype": np.float64}
        model = scanmax.create_model(name, num_classes=10, dim=16, heads=2, **shape, **double)
        # The softmax takes away what is added to all keys.
        assert_agrees(model, run, vanishing=r".*/attention/key/bias")
        assert_maps_agree(model, run, (0, 1))
        assert_trains_alike(model, run)


@pytest.mark.parametrize("name", ["xcit_nano_12_p16_224", "xcit_large_24_p8_384"])
def test_every_tensor_of_a_published_size_has_its_place(peers, name):
    assert_every_tensor_has_its_place(peers, name)
