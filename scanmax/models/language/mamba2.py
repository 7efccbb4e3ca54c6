"""Mamba-2 language models (Dao and Gu, 2024): the causal host with the state-space duality.

Widths, depths and the initial distributions are those of the authors' public code and checkpoints
(state width 128, heads of width 64, one group, vocabulary 50277 padded to 50288, tied embeddings).
A checkpoint of transformers or of the original release is read by `load_weights`.
"""

from typing import Any

import flax.linen as nn

from scanmax.models.language.lm import LanguageModel
from scanmax.models.registry import Variant, register_family


class Mamba2LM(LanguageModel):
    """The causal host without MLPs: every block is one Mamba-2 mixer behind an RMS norm.

    `prefill` and `step` generate with a state whose size does not depend on the length.

    Attributes:
      heads: heads of each block; width `expand * dim / heads`, 64 in the published models.
      state_size: N, rows of each head's state.
      expand: inner width over `dim`.
      groups: groups of heads that share B and C.
      conv_width: tokens that the causal convolution sees.
      dt_limit: lowest and highest step size, `time_step_limit` of transformers; None is its
        default, (0, inf).
    """

    vocab_size: int = 50288
    dim: int = 768
    depth: int = 24
    heads: int = 24
    mlp_ratio: float = 0.0
    mixer: str | tuple[str, ...] = "mamba2"
    state_size: int = 128
    expand: float = 2.0
    groups: int = 1
    conv_width: int = 4
    dt_limit: tuple[float, float] | None = None

    @nn.nowrap
    def block_fields(self) -> list[dict[str, Any]]:
        """The fields of each block."""
        mamba2 = {
            "state_size": self.state_size,
            "expand": self.expand,
            "groups": self.groups,
            "conv_width": self.conv_width,
            "dt_limit": self.dt_limit,
            "norm_epsilon": self.norm_epsilon,
            # One residual branch per block: the stream starts with the variance of one.
            "out_scale": self.depth**-0.5,
        }
        given = dict(self.mixer_options or {})
        options = {**given, "mamba2": {**mamba2, **given.get("mamba2", {})}}
        return [{**fields, "mixer_options": options} for fields in super().block_fields()]


def _variant(params: int, dim: int, depth: int) -> Variant:
    config = {"dim": dim, "depth": depth, "heads": 2 * dim // 64}
    return Variant(params, (2048,), "mamba2-ssd", config)


VARIANTS = {
    "mamba2_130m": _variant(128_989_632, 768, 24),
    "mamba2_370m": _variant(368_346_624, 1024, 48),
    "mamba2_780m": _variant(780_161_280, 1536, 48),
    "mamba2_1.3b": _variant(1_343_757_312, 2048, 48),
    "mamba2_2.7b": _variant(2_702_599_680, 2560, 64),
}

register_family("mamba2", Mamba2LM, VARIANTS, input_kind="tokens")
