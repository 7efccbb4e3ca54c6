"""T5 (Raffel et al., 2020) under transformers' names, and Mu, the small model of a later paper.

T5's logits are not scaled and carry a bias of distances in buckets; in `t5_v1_1_*` MLPs are gated
and the head has a table of its own. Mu ("Return of the Encoder") has two thirds of its layers in
the encoder, rotary positions, half as many heads of keys and values, and biases everywhere.

    >>> import jax, jax.numpy as jnp, scanmax
    >>> model = scanmax.create_model("t5_small", dim=16, heads=2, head_dim=8, mlp_hidden=16)
    >>> source = jnp.array([[4, 5, 6, 1]])
    >>> variables = jax.jit(model.init)(jax.random.key(0), source)
    >>> from scanmax.models.generation import generate
    >>> generate(model, variables, source, max_new_tokens=3, temperature=0).shape
    (1, 7)

Reference: encoder-decoder-slm
"""

from typing import Any

from scanmax.models.language.encoder_decoder import EncoderDecoder
from scanmax.models.registry import Variant, register_family


class T5(EncoderDecoder):
    """T5's fields by default: biases of distances, logits as they are, weights by width."""

    scale: float | None = 1.0
    head_scale: bool = True
    by_width: bool = True


def _t5(params: int, dim: int, heads: int, hidden: int, depth: int, **own: Any) -> Variant:
    sizes = {"dim": dim, "heads": heads, "mlp_hidden": hidden}
    depths = {"encoder_depth": depth, "decoder_depth": depth}
    return Variant(params, (512,), "t5", {**sizes, **depths, **own})


_V1_1 = {"gated_mlp": True, "activation": "gelu_tanh", "tied": False, "head_scale": False}
_MU = {
    "encoder_depth": 20,
    "decoder_depth": 10,
    "dim": 1024,
    "heads": 6,
    "kv_heads": 3,
    "mlp_hidden": 4096,
    "activation": "gelu_tanh",
    "use_bias": True,
    "positions": "rotary",
    "scale": None,
    "head_scale": False,
    "by_width": False,
    "start_token": 1,
}

VARIANTS = {
    "t5_small": _t5(60_506_624, 512, 8, 2048, 6),
    "t5_base": _t5(222_903_552, 768, 12, 3072, 12),
    "t5_large": _t5(737_668_096, 1024, 16, 4096, 24),
    "t5_v1_1_small": _t5(76_961_152, 512, 6, 1024, 8, **_V1_1),
    "t5_v1_1_base": _t5(247_577_856, 768, 12, 2048, 12, **_V1_1),
    "mu_330m": Variant(332_042_240, (1024,), "encoder-decoder-slm", _MU),
}

register_family("t5", T5, VARIANTS, input_kind="tokens")
