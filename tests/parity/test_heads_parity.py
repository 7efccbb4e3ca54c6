"""ConViT's attention, CaiT's class attention and the gates of maps against timm's layers."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tolerances

from benchmarks.peers import import_peer
from scanmax.models.layers import BatchNorm
from scanmax.models.mixers import create_mixer
from scanmax.models.parts.channel_attention import Cbam, EfficientChannelAttention, SqueezeExcite
from scanmax.models.parts.class_attention import ClassAttention
from scanmax.testing import compare

pytestmark = pytest.mark.parity


@pytest.fixture(scope="module")
def torch():
    import_peer("timm")
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    return torch


def numpy(x):
    return x.detach().numpy()


def heads_of(weight, heads, parts=1):
    """torch's [parts H K, D] as [D, parts, H, K]; a single part has no axis."""
    weight = numpy(weight).T
    weight = weight.reshape(weight.shape[0], parts, heads, -1)
    return weight[:, 0] if parts == 1 else weight


def check(torch, layer, inputs, module, params, *, ours, as_input, as_ours, stats=None, **keywords):
    """Outputs and the input's gradient of a seeded weighing of them."""
    theirs = torch.tensor(as_input(inputs), requires_grad=True)
    expected = layer.eval()(theirs)
    weighing = np.random.default_rng(1).normal(size=expected.shape).astype(np.float32)
    (gradient,) = torch.autograd.grad(expected, theirs, torch.tensor(weighing))
    shapes = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, **keywords), ours(inputs))
    variables = {"params": params, **({"batch_stats": stats} if stats else {})}
    same = jax.tree.map(lambda a, b: a.shape == b.shape, nn.unbox(shapes), variables)
    assert all(jax.tree.leaves(same)), same

    @jax.jit
    def run(x):
        y, pull_back = jax.vjp(lambda x: module.apply(variables, x, **keywords), x)
        return y, pull_back(jnp.asarray(as_ours(weighing)))[0]

    compare.assert_relative(
        run(ours(inputs)), (as_ours(numpy(expected)), as_ours(numpy(gradient))), tolerances.PARITY
    )


def same(x):
    return x


def first(x):
    return x.transpose(0, 3, 1, 2)


def last(x):
    return x.transpose(0, 2, 3, 1)


@pytest.mark.parametrize("heads", [4, 6])
def test_gpsa_equals_timm(torch, heads):
    from timm.models.convit import GPSA

    dim, side = 24, 4
    layer = GPSA(dim, num_heads=heads, qkv_bias=True, locality_strength=0.7)
    layer.local_init()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    params = {
        "query_key": {
            "kernel": heads_of(layer.qk.weight, heads, 2),
            "bias": numpy(layer.qk.bias).reshape(2, heads, -1),
        },
        "value": {
            "kernel": heads_of(layer.v.weight, heads),
            "bias": numpy(layer.v.bias).reshape(heads, -1),
        },
        "position": numpy(layer.pos_proj.weight),
        "gate": numpy(layer.gating_param),
        "out": {
            "kernel": numpy(layer.proj.weight).T.reshape(heads, -1, dim),
            "bias": numpy(layer.proj.bias),
        },
    }
    x = np.random.default_rng(0).normal(size=(2, side * side, dim)).astype(np.float32)
    mixer, views = create_mixer("gpsa", heads=heads), {"as_input": same, "as_ours": same}
    check(torch, layer, x, mixer, params, ours=jnp.asarray, grid=(side, side), **views)


@pytest.mark.parametrize("heads", [1, 4, 9, 12])
def test_gpsa_starts_as_timm(torch, heads):
    from timm.models.convit import GPSA

    layer = GPSA(36, num_heads=heads, locality_strength=0.7)
    layer.local_init()
    mixer = create_mixer("gpsa", heads=heads, options={"locality_strength": 0.7})
    x = jnp.zeros((1, 4, 36))
    init = jax.jit(lambda key: nn.unbox(mixer.init(key, x, grid=(2, 2)))["params"])
    params = init(jax.random.key(0))
    square = int(heads**0.5) ** 2
    np.testing.assert_allclose(
        params["position"][:square], numpy(layer.pos_proj.weight)[:square], rtol=1e-6
    )
    np.testing.assert_array_equal(params["value"]["kernel"], heads_of(layer.v.weight, heads))
    np.testing.assert_array_equal(params["gate"], numpy(layer.gating_param))


def test_class_attention_equals_timm(torch):
    from timm.models.cait import ClassAttn

    dim, heads = 24, 4
    layer = ClassAttn(dim, num_heads=heads, qkv_bias=True)
    params = {
        ours: {
            "kernel": heads_of(getattr(layer, theirs).weight, heads),
            "bias": numpy(getattr(layer, theirs).bias).reshape(heads, -1),
        }
        for ours, theirs in (("query", "q"), ("key", "k"), ("value", "v"))
    }
    params["out"] = {
        "kernel": numpy(layer.proj.weight).T.reshape(heads, -1, dim),
        "bias": numpy(layer.proj.bias),
    }
    x = np.random.default_rng(0).normal(size=(2, 9, dim)).astype(np.float32)
    module, views = ClassAttention(heads=heads), {"as_input": same, "as_ours": same}
    check(torch, layer, x, module, params, ours=jnp.asarray, **views)


def maps():
    return np.random.default_rng(0).normal(size=(2, 5, 6, 128)).astype(np.float32)


MAPS = {"ours": jnp.asarray, "as_input": first, "as_ours": last}


def pointwise(conv):
    return numpy(conv.weight)[:, :, 0, 0].T


def test_squeeze_excite_equals_timm(torch):
    from timm.layers import SEModule

    layer = SEModule(128)
    params = {
        "squeeze": pointwise(layer.fc1),
        "squeeze_bias": numpy(layer.fc1.bias),
        "excite": pointwise(layer.fc2),
        "excite_bias": numpy(layer.fc2.bias),
    }
    check(torch, layer, maps(), SqueezeExcite(), params, **MAPS)


def test_eca_equals_timm(torch):
    from timm.layers import EcaModule

    layer = EcaModule(channels=128)
    params = {"kernel": numpy(layer.conv.weight)[0, 0]}
    check(torch, layer, maps(), EfficientChannelAttention(), params, **MAPS)


def test_cbam_equals_timm(torch):
    from timm.layers.cbam import CbamModule

    layer = CbamModule(128)
    norm = layer.spatial.conv.bn
    with torch.no_grad():
        for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            tensor.add_(0.5 * torch.rand(tensor.shape))
    params = {
        "squeeze": pointwise(layer.channel.fc1),
        "excite": pointwise(layer.channel.fc2),
        "spatial": {"kernel": numpy(layer.spatial.conv.conv.weight).transpose(2, 3, 1, 0)},
        "norm": {"scale": numpy(norm.weight), "bias": numpy(norm.bias)},
    }
    stats = {"norm": {"mean": numpy(norm.running_mean), "variance": numpy(norm.running_var)}}
    check(torch, layer, maps(), Cbam(use_bias=False), params, stats=stats, **MAPS)


def test_the_running_variance_of_batch_norm_is_that_of_torch(torch):
    layer = torch.nn.BatchNorm2d(5, momentum=0.1).train()
    x = np.random.default_rng(0).normal(size=(2, 3, 2, 5)).astype(np.float32)
    expected = numpy(layer(torch.tensor(first(x))))
    norm = BatchNorm()
    variables = norm.init(jax.random.key(0), jnp.asarray(x))
    actual, updates = norm.apply(variables, jnp.asarray(x), train=True, mutable=["batch_stats"])
    running = numpy(layer.running_mean), numpy(layer.running_var)
    ours = updates["batch_stats"]["mean"], updates["batch_stats"]["variance"]
    compare.assert_relative((actual, ours), (last(expected), running), tolerances.PARITY)
