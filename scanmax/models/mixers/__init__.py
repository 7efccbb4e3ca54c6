"""Token mixers as modules of one signature, by name; hosts take `mixer=` any of them."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from scanmax.errors import UserError, suggest
from scanmax.models.mixers.attention import Attention as Attention
from scanmax.models.mixers.base import Mixer as Mixer
from scanmax.models.mixers.cosine import CosineAttention as CosineAttention
from scanmax.models.mixers.decay import Alibi as Alibi
from scanmax.models.mixers.decay import Manhattan as Manhattan
from scanmax.models.mixers.decay import ManhattanDecomposed as ManhattanDecomposed
from scanmax.models.mixers.heterogeneous import Heterogeneous as Heterogeneous
from scanmax.models.mixers.linear_attention import LinearAttention as LinearAttention
from scanmax.models.mixers.mamba2 import Mamba2 as Mamba2
from scanmax.models.mixers.selective import SelectiveAttention as SelectiveAttention
from scanmax.models.mixers.soft_causal import SoftCausal as SoftCausal
from scanmax.models.mixers.ssm import NcSsd as NcSsd
from scanmax.models.mixers.ssm import Ssd as Ssd

MIXERS: dict[str, type[Mixer]] = {
    "alibi": Alibi,
    "attention": Attention,
    "cosine": CosineAttention,
    "heterogeneous": Heterogeneous,
    "linear_attention": LinearAttention,
    "mamba2": Mamba2,
    "nc_ssd": NcSsd,
    "rmt": Manhattan,
    "rmt_decomposed": ManhattanDecomposed,
    "soft_causal": SoftCausal,
    "ssa": SelectiveAttention,
    "ssd": Ssd,
}


def create_mixer(kind: str, *, options: Mapping[str, Any] | None = None, **fields: Any) -> Mixer:
    """Builds a mixer of MIXERS.

    Args:
      kind: a name of MIXERS.
      options: fields of the mixer's module; they win over `fields`.
      **fields: the fields of every mixer: heads, prefix_tokens, use_bias, dtype, name, ...

    Returns:
      The module.

    Raises:
      UserError: an unknown name or option; the message lists near matches.

    Example:
      >>> create_mixer("attention", heads=4, options={"qk_norm": True}).qk_norm
      True
    """
    if kind not in MIXERS:
        raise UserError(f"unknown mixer {kind!r}; {suggest(kind, MIXERS)}")
    known = [field.name for field in dataclasses.fields(MIXERS[kind]) if field.init]
    for option in options or {}:
        if option not in known:
            raise UserError(f"mixer {kind!r} has no field {option!r}; {suggest(option, known, 30)}")
    return MIXERS[kind](**{**fields, **(options or {})})
