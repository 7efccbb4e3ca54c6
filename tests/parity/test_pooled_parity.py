"""Pooled and convolved attention mixers against timm's PVTv2 and Next-ViT and transformers' CvT."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tolerances

from scanmax.models.mixers import create_mixer
from scanmax.testing import compare

pytestmark = pytest.mark.parity
DIM, HEADS, GRID = 16, 2, (6, 8)


@pytest.fixture(scope="module")
def peers():
    pytest.importorskip("torch")
    return pytest.importorskip("benchmarks.peers").import_peer


def moved(module, seed=0):
    """The module in evaluation, its weights and statistics off their special initial values."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in module.state_dict().items():
            if value.is_floating_point():
                noise = torch.randn(value.shape, generator=generator)
                value.add_(0.3 * noise.abs() if "var" in name else 0.3 * noise)
    return module.eval()


def state(module):
    return {name: value.detach().numpy() for name, value in module.state_dict().items()}


def linear(weights, name, shape=None):
    """A product's kernel [in, *shape] and bias [*shape]."""
    kernel, bias = weights[f"{name}.weight"].T, weights[f"{name}.bias"]
    shape = (HEADS, DIM // HEADS) if shape is None else shape
    return {"kernel": kernel.reshape(DIM, *shape), "bias": bias.reshape(shape)}


def output(weights, name):
    kernel = weights[f"{name}.weight"].T.reshape(HEADS, DIM // HEADS, DIM)
    return {"kernel": kernel, "bias": weights[f"{name}.bias"]}


def conv(weights, name):
    found = {"kernel": weights[f"{name}.weight"].transpose(2, 3, 1, 0)}
    return found | ({"bias": weights[f"{name}.bias"]} if f"{name}.bias" in weights else {})


def norm(weights, name):
    return {"scale": weights[f"{name}.weight"], "bias": weights[f"{name}.bias"]}


def statistics(weights, name):
    return {
        "mean": weights[f"{name}.running_mean"],
        "variance": weights[f"{name}.running_var"],
    }


def assert_equal(module, call, mixer, variables, grid=GRID, prefix=0):
    """Outputs and the gradient of the inputs agree."""
    import torch

    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, prefix + grid[0] * grid[1], DIM)).astype(np.float32)
    cotangent = rng.normal(size=x.shape).astype(np.float32)
    theirs = torch.from_numpy(x).requires_grad_()
    expected = call(module, theirs)
    expected.backward(torch.from_numpy(cotangent))
    init = mixer.init(jax.random.key(0), jnp.asarray(x), grid=grid)
    assert jax.tree.structure(jax.tree.map(np.shape, variables)) == jax.tree.structure(
        jax.tree.map(lambda leaf: leaf.shape, nn.unbox(init))
    )

    @jax.jit
    def run(x):
        y, pull_back = jax.vjp(lambda x: mixer.apply(variables, x, grid=grid), x)
        return y, pull_back(jnp.asarray(cotangent))[0]

    compare.assert_relative(
        run(x), (expected.detach().numpy(), theirs.grad.numpy()), tolerances.PARITY
    )


@pytest.mark.parametrize("reduction", ["conv", "linear", "none"])
def test_spatial_reduction_equals_timm(peers, reduction):
    pvt = peers("timm.models.pvt_v2")
    ratio = {"conv": 4, "linear": 1, "none": 1}[reduction]
    module = moved(pvt.Attention(DIM, HEADS, sr_ratio=ratio, linear_attn=reduction == "linear"))
    weights = state(module)
    params = {
        "query": linear(weights, "q"),
        "key_value": linear(weights, "kv", (2, HEADS, DIM // HEADS)),
        "out": output(weights, "proj"),
    }
    if reduction != "none":
        params |= {"reduce": conv(weights, "sr"), "norm": norm(weights, "norm")}
    options = {"ratio": ratio, "reduction": "linear" if reduction == "linear" else "conv"}
    mixer = create_mixer("spatial_reduction", heads=HEADS, options=options)
    # 6 rows and cells of 4: two rows are dropped
    assert_equal(module, lambda m, x: m(x, GRID), mixer, {"params": params})


@pytest.mark.parametrize("ratio", [1, 3])
def test_pooled_equals_timm(peers, ratio):
    nextvit = peers("timm.models.nextvit")
    module = moved(nextvit.EfficientAttention(DIM, head_dim=DIM // HEADS, sr_ratio=ratio))
    weights = state(module)
    key, value = linear(weights, "k"), linear(weights, "v")
    both = {
        "kernel": np.stack([key["kernel"], value["kernel"]], 1),
        "bias": np.stack([key["bias"], value["bias"]]),
    }
    params = {"query": linear(weights, "q"), "key_value": both, "out": output(weights, "proj")}
    variables = {"params": params}
    if ratio > 1:
        params["norm"] = norm(weights, "norm")
        variables["batch_stats"] = {"norm": statistics(weights, "norm")}
    mixer = create_mixer("pooled", heads=HEADS, options={"ratio": ratio})
    # 48 tokens and means of 9: three are dropped
    assert_equal(module, lambda m, x: m(x), mixer, variables)


@pytest.mark.parametrize("prefix", [0, 1])
def test_conv_projection_equals_transformers(peers, prefix):
    cvt = peers("transformers.models.cvt.modeling_cvt")
    arguments = (HEADS, DIM, 3, 1, 1, 1, 2, "dw_bn", True, 0.0, 0.0, bool(prefix))
    module = moved(cvt.CvtAttention(*arguments))
    weights = state(module)
    params, averages = {"out": output(weights, "output.dense")}, {}
    for name in ("query", "key", "value"):
        inner = f"attention.convolution_projection_{name}.convolution_projection"
        params[name] = linear(weights, f"attention.projection_{name}")
        params[f"{name}_conv"] = conv(weights, f"{inner}.convolution")
        params[f"{name}_norm"] = norm(weights, f"{inner}.normalization")
        averages[f"{name}_norm"] = statistics(weights, f"{inner}.normalization")
    mixer = create_mixer("conv_projection", heads=HEADS, prefix_tokens=prefix)
    variables = {"params": params, "batch_stats": averages}
    assert_equal(module, lambda m, x: m(x, *GRID), mixer, variables, prefix=prefix)
