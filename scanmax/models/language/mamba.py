"""Mamba language models (Gu and Dao, 2023): the causal host with the selective scan.

Widths, depths and the initial distributions are those of the authors' public code and checkpoints
(16 states per channel, inner width twice the model's, vocabulary 50277 padded to 50280, tied
embeddings). A checkpoint of transformers or of the original release is read by `load_weights`.
"""

from typing import Any

import flax.linen as nn

from scanmax.models.language.lm import LanguageModel
from scanmax.models.registry import Variant, register_family


class MambaLM(LanguageModel):
    """The causal host without MLPs: every block is one Mamba mixer behind an RMS norm.

    `prefill` and `step` generate with a state whose size does not depend on the length.

    Attributes:
      heads: groups of channels over which a hidden attention is averaged; it changes nothing else.
      d_state: N, states of each channel.
      expand: inner width over `dim`.
      conv_width: tokens that the causal convolution sees.
      dt_rank: width through which the step sizes go; None is dim / 16, rounded up.
    """

    vocab_size: int = 50280
    dim: int = 768
    depth: int = 24
    heads: int = 1
    mlp_ratio: float = 0.0
    mixer: str | tuple[str, ...] = "mamba"
    d_state: int = 16
    expand: float = 2.0
    conv_width: int = 4
    dt_rank: int | None = None

    @nn.nowrap
    def block_fields(self) -> list[dict[str, Any]]:
        """The fields of each block."""
        mamba = {
            "d_state": self.d_state,
            "expand": self.expand,
            "conv_width": self.conv_width,
            "dt_rank": self.dt_rank,
            # One residual branch per block: the stream starts with the variance of one.
            "out_scale": self.depth**-0.5,
        }
        given = dict(self.mixer_options or {})
        options = {**given, "mamba": {**mamba, **given.get("mamba", {})}}
        return [{**fields, "mixer_options": options} for fields in super().block_fields()]


def _variant(params: int, dim: int, depth: int) -> Variant:
    return Variant(params, (2048,), "hidden-mamba-attention", {"dim": dim, "depth": depth})


VARIANTS = {
    "mamba_130m": _variant(129_135_360, 768, 24),
    "mamba_370m": _variant(371_516_416, 1024, 48),
    "mamba_790m": _variant(793_204_224, 1536, 48),
    "mamba_1.4b": _variant(1_372_178_432, 2048, 48),
    "mamba_2.8b": _variant(2_768_345_600, 2560, 64),
}

register_family("mamba", MambaLM, VARIANTS, input_kind="tokens")
