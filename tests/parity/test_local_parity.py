"""Windows against timm's Swin, halos against timm's HaloNet: outputs and gradients."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tolerances

from scanmax.models.mixers import create_mixer
from scanmax.testing import compare

pytestmark = pytest.mark.parity
HEADS, WIDTH = 2, 8
DIM = HEADS * WIDTH


def array(tensor):
    return jnp.asarray(tensor.detach().numpy())


def randomise(torch, module):
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape))


def assert_same(mixer, params, x, cotangent, grid, expected):
    """Outputs, gradients of x and of the position term."""

    def loss(params, x):
        y = mixer.apply({"params": params}, x.reshape(2, -1, DIM), grid=grid)
        return jnp.sum(y.reshape(x.shape) * cotangent), y.reshape(x.shape)

    (_, y), (grads, x_grad) = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(params, x)
    actual = {"y": y, "x": x_grad, **{name: grads[name] for name in expected if name in grads}}
    compare.assert_relative(actual, expected, tolerances.PARITY)


@pytest.mark.parametrize(("name", "shift"), [("window", 0), ("shifted_window", 2)])
def test_windows_equal_swins(peers, name, shift):
    torch, window, grid = peers.torch, 4, (8, 12)
    swin = importlib.import_module("timm.models.swin_transformer")
    block = swin.SwinTransformerBlock(
        DIM, grid, num_heads=HEADS, window_size=window, shift_size=shift
    )
    randomise(torch, block)
    x = torch.randn(2, *grid, DIM, requires_grad=True)
    y = block._attn(x)
    cotangent = torch.randn(y.shape)
    (y * cotangent).sum().backward()

    def table(tensor):
        """Swin counts query minus key, and stands heads last."""
        sides = 2 * window - 1
        return jnp.moveaxis(array(tensor).reshape(sides, sides, HEADS)[::-1, ::-1], -1, 0)

    peer = block.attn
    params = {
        "qkv": {
            "kernel": array(peer.qkv.weight.T).reshape(DIM, 3, HEADS, WIDTH),
            "bias": array(peer.qkv.bias).reshape(3, HEADS, WIDTH),
        },
        "relative_bias": table(peer.relative_position_bias_table),
        "out": {
            "kernel": array(peer.proj.weight.T).reshape(HEADS, WIDTH, DIM),
            "bias": array(peer.proj.bias),
        },
    }
    assert_same(
        create_mixer(name, heads=HEADS, options={"window_size": window}),
        params,
        array(x),
        array(cotangent),
        grid,
        {
            "y": array(y),
            "x": array(x.grad),
            "relative_bias": table(peer.relative_position_bias_table.grad),
        },
    )


def test_halos_equal_halonets(peers):
    torch, block, halo, grid = peers.torch, 4, 1, (8, 12)
    module = importlib.import_module("timm.layers.halo_attn")
    peer = module.HaloAttn(DIM, num_heads=HEADS, block_size=block, halo_size=halo)
    randomise(torch, peer)
    x = torch.randn(2, DIM, *grid, requires_grad=True)
    y = peer(x)
    cotangent = torch.randn(y.shape)
    (y * cotangent).sum().backward()

    def last(tensor):
        return jnp.moveaxis(array(tensor), 1, -1)

    # timm's tables have 2 halo entries that no pair reaches
    unused = 2 * halo
    q = array(peer.q.weight)[..., 0, 0].T.reshape(DIM, 1, HEADS, WIDTH)
    kv = array(peer.kv.weight)[..., 0, 0].T.reshape(DIM, HEADS, 2, WIDTH)
    position = peer.pos_embed
    params = {
        "qkv": {
            "kernel": jnp.concatenate([q, jnp.swapaxes(kv, 1, 2)], 1),
            "bias": jnp.zeros((3, HEADS, WIDTH)),
        },
        "relative_rows": array(position.height_rel)[unused:],
        "relative_columns": array(position.width_rel)[unused:],
        "out": {"kernel": jnp.eye(DIM).reshape(HEADS, WIDTH, DIM), "bias": jnp.zeros(DIM)},
    }
    assert_same(
        create_mixer(
            "halo", heads=HEADS, options={"block_size": block, "halo": halo, "edges": "zero"}
        ),
        params,
        last(x),
        last(cotangent),
        grid,
        {
            "y": last(y),
            "x": last(x.grad),
            "relative_rows": array(position.height_rel.grad)[unused:],
            "relative_columns": array(position.width_rel.grad)[unused:],
        },
    )
    assert not np.any(position.height_rel.grad.numpy()[:unused])
