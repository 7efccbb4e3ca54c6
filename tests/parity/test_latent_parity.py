"""Multi-head latent attention against transformers' DeepSeek-V3: outputs and gradients."""

import importlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tolerances

from scanmax.models.mixers import create_mixer
from scanmax.testing import compare

pytestmark = pytest.mark.parity

DIM, HEADS, K, R, V, C, TOKENS = 24, 3, 8, 4, 6, 10, 7


def layer_of(torch, query_rank, interleaved, bias):
    """A layer of transformers with random weights, and the cosines and sines it is given."""
    kind = importlib.import_module("transformers.models.deepseek_v3.modeling_deepseek_v3")
    config = kind.DeepseekV3Config(
        hidden_size=DIM,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        q_lora_rank=query_rank,
        kv_lora_rank=C,
        qk_nope_head_dim=K,
        qk_rope_head_dim=R,
        v_head_dim=V,
        attention_bias=bias,
        rope_interleave=interleaved,
        rope_parameters={"rope_type": "default", "rope_theta": 100.0},
        attn_implementation="eager",
    )
    torch.manual_seed(0)
    layer = kind.DeepseekV3Attention(config, layer_idx=0)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(0.4 * torch.randn(parameter.shape) + 0.1)
    positions = torch.arange(TOKENS)[None]
    return layer.eval(), kind.DeepseekV3RotaryEmbedding(config)(torch.zeros(1), positions)


def params_of(layer):
    """The layer's parameters as our mixer's."""
    found = {name: x.detach().numpy() for name, x in layer.named_parameters()}

    def dense(name, *features):
        kernel = found[f"{name}.weight"].T
        kernel = {"kernel": kernel.reshape(kernel.shape[0], *features)}
        bias = found.get(f"{name}.bias")
        return kernel if bias is None else {**kernel, "bias": bias.reshape(features)}

    ups = found["kv_b_proj.weight"].reshape(HEADS, K + V, C).transpose(2, 0, 1)
    out = dense("o_proj", DIM)
    params = {
        "latent": dense("kv_a_proj_with_mqa", C + R),
        "latent_norm": {"scale": found["kv_a_layernorm.weight"]},
        "key_up": ups[..., :K],
        "value_up": ups[..., K:],
        "out": {**out, "kernel": out["kernel"].reshape(HEADS, V, DIM)},
    }
    if layer.q_lora_rank is None:
        return {**params, "query": dense("q_proj", HEADS, K + R)}
    return {
        **params,
        "query_down": dense("q_a_proj", layer.q_lora_rank),
        "query_norm": {"scale": found["q_a_layernorm.weight"]},
        "query": dense("q_b_proj", HEADS, K + R),
    }


@pytest.mark.parametrize(
    ("query_rank", "interleaved", "bias"), [(5, True, True), (None, False, False)]
)
def test_latent_attention_is_that_of_deepseek_v3(peers, query_rank, interleaved, bias):
    torch = peers.torch
    layer, positions = layer_of(torch, query_rank, interleaved, bias)
    rng = np.random.default_rng(0)
    inputs, weighing = rng.normal(size=(2, 2, TOKENS, DIM)).astype(np.float32)
    x = torch.tensor(inputs, requires_grad=True)
    hidden = torch.full((TOKENS, TOKENS), -torch.inf).triu(1)[None, None]
    y = layer(x, positions, hidden)[0]
    (gradient,) = torch.autograd.grad(y, x, torch.tensor(weighing))
    params = params_of(layer)
    for form in ("expanded", "absorbed"):
        mixer = create_mixer(
            "mla",
            heads=HEADS,
            is_causal=True,
            use_bias=bias,
            options={
                "head_width": K,
                "value_width": V,
                "latent_dim": C,
                "query_latent_dim": query_rank,
                "rotary_dim": R,
                "rotary_base": 100.0,
                "rotary_layout": "interleaved" if interleaved else "half",
                "form": form,
            },
        )
        shapes = jax.eval_shape(lambda x, own=mixer: own.init(jax.random.key(0), x), inputs)
        own = jax.tree.map(lambda leaf: leaf.shape, nn.unbox(shapes)["params"])
        assert own == jax.tree.map(np.shape, params)

        @jax.jit
        def run(x, mixer=mixer):
            y, pull_back = jax.vjp(lambda x: mixer.apply({"params": params}, x), x)
            return y, pull_back(jnp.asarray(weighing))[0]

        expected = y.detach().numpy(), gradient.numpy()
        compare.assert_relative(run(inputs), expected, tolerances.PARITY)
