"""What the shared tests of mixers know of each: options that make it small, what it keeps."""

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class MixerCase:
    """A registered mixer under test.

    Attributes:
      options: fields that make it small; every other field keeps its default.
      order: "permutation" where permuted tokens give permuted outputs, "translation" where a
        shifted map gives a shifted map away from the edges, None where neither holds.
      shift: for translation, the smallest shift that the mixer follows (its window or stride).
      margin: for translation, how many pixels from the edge it holds.
      order_options: further options under which the order property holds.
      causal: whether is_causal=True is supported.
      generates: for causal ones, further sets of options with which parts and single tokens are
        held to the whole; None where it cannot generate.
      reach: "all" where every output reads every token, "prefix" where only the prefix token reads
        and is read by all, None where neither.
      skips: parameters, by regex on their path, without a gradient in evaluation, with the reason.
    """

    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    order: str | None = None
    shift: int = 1
    margin: int = 0
    order_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    causal: bool = False
    generates: tuple[Mapping[str, Any], ...] | None = None
    reach: str | None = "all"
    skips: Mapping[str, str] = dataclasses.field(default_factory=dict)


CASES = {
    "alibi": MixerCase(causal=True, generates=({}, {"kv_heads": 1, "normalizer": "stablemax"})),
    "attention": MixerCase(
        order="permutation",
        causal=True,
        generates=(
            {},
            {"kv_heads": 1, "rotary_base": 100.0, "qk_norm": True},
            {"local_window_size": 3, "logits_soft_cap": 2.0},
            {"normalizer": "stablemax"},
        ),
    ),
    "cosine": MixerCase(order="permutation", causal=True, generates=({"local_window_size": 3},)),
    "heterogeneous": MixerCase(order="permutation"),
    "linear_attention": MixerCase(
        order="permutation", causal=True, generates=({}, {"normalize": False})
    ),
    "mamba2": MixerCase(causal=True, generates=({},), reach=None),
    "nc_ssd": MixerCase(order="permutation", order_options={"conv_size": 1}),
    "rmt": MixerCase(),
    "rmt_decomposed": MixerCase(),
    "soft_causal": MixerCase({"strength": 0.5, "rotary_base": 100.0}),
    "ssa": MixerCase(
        order="permutation",
        causal=True,
        generates=(
            {},
            {"kv_heads": 1, "rotary_base": 100.0, "position": "sigmoid", "combine": "product"},
            {"per_head": False, "local_window_size": 3},
        ),
    ),
    "ssd": MixerCase(causal=True, generates=({"state_size": 4, "groups": 2},)),
}
