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


# For mixers that add a convolution to the tokens of the grid alone.
LOCAL_TERM = {"lepe": "the class token, which the head reads after the one block, has none"}

RELATIVE = {
    r"^\['block_00'\].*relative_": "the class token of a single block reads no pixel's output",
}

UNSHIFTED = "the class token, which the head reads after the one block, is not shifted"

CASES = {
    "aggregated": MixerCase(
        options={"pool_size": 2, "bias_hidden": 4},
        skips={
            r"^\['block_00'\].*(learnable|local_bias|pooled_bias|reduce|mixer'\]\['norm)": "the "
            "class token of a single block reads no pixel's output",
        },
    ),
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
    "context_cluster": MixerCase(options={"region_size": 2}, reach="prefix"),
    "conv_additive": MixerCase(),
    "conv_projection": MixerCase(
        skips={
            r"stage1.*(query|key)": "a single key has weight 1 whatever the query",
            r"\['block_00'\].*query_(conv|norm)": "the class token's query is not convolved",
        },
    ),
    "cosine": MixerCase(order="permutation", causal=True, generates=({"local_window_size": 3},)),
    "gated_attention": MixerCase(causal=True, skips=LOCAL_TERM),
    "gpsa": MixerCase(
        skips={"gate|position": "a class token has no place, and it alone is read behind one block"}
    ),
    "halo": MixerCase(
        options={"block_size": 2, "halo": 1},
        order="translation",
        shift=2,
        margin=2,
        reach="prefix",
        skips=RELATIVE,
    ),
    "heterogeneous": MixerCase(order="permutation"),
    "inline": MixerCase(
        order="permutation",
        order_options={"local": False},
        causal=True,
        generates=({},),
        skips={"residual": LOCAL_TERM["lepe"]},
    ),
    "linear_attention": MixerCase(
        order="permutation",
        causal=True,
        generates=({}, {"normalize": False}, {"feature_map": "taylor"}),
    ),
    "lkca": MixerCase(
        options={"kernel_size": 3},
        order="translation",
        margin=1,
        reach="prefix",
        skips={r"\['block_00'\]\['mixer'\]\['(kernel|prefix)'\]": "the class token has no offset"},
    ),
    "mala": MixerCase(causal=True, generates=({},), skips=LOCAL_TERM),
    "mamba2": MixerCase(causal=True, generates=({},), reach=None),
    "mamba2_four_way": MixerCase(options={"state_size": 4}),
    "mamba_bidirectional": MixerCase(options={"d_state": 3}),
    "mamba_four_way": MixerCase(options={"d_state": 2}),
    "moh": MixerCase(
        # with two heads, one of them picked: rescaled, its gate would be constant
        options={"rescale": False},
        order="permutation",
        causal=True,
        generates=({"shared_heads": 1, "normalizer": "stablemax"},),
    ),
    "msa_conv": MixerCase(order="translation", margin=1, reach="prefix"),
    "nc_ssd": MixerCase(order="permutation", order_options={"conv_size": 1}),
    "neighborhood": MixerCase(
        options={"kernel_size": 3},
        order="translation",
        margin=1,
        reach="prefix",
        skips=RELATIVE,
    ),
    "per_head_window": MixerCase(
        options={"windows": (2, 5), "sinks": 1},
        causal=True,
        generates=(
            {"rotary_base": 100.0, "kv_heads": 1},
            {"windows": ((1.0, 0.5),), "sinks": 0, "normalizer": "stablemax"},
        ),
        reach="prefix",
    ),
    "performer": MixerCase(order="permutation", causal=True, generates=({"num_features": 3},)),
    "pooled": MixerCase(
        skips={r"stage1.*query": "a single key has weight 1 whatever the query"},
    ),
    "rala": MixerCase(
        order="permutation",
        order_options={"rotary_base": None, "lepe_size": 0},
        skips=LOCAL_TERM,
    ),
    "rmt": MixerCase(skips={"lepe": "of a last block the class token alone is read"}),
    "rmt_decomposed": MixerCase(skips={"lepe": "of a last block the class token alone is read"}),
    "scaling": MixerCase(order="permutation", causal=True, generates=({},)),
    "shifted_window": MixerCase(
        options={"window_size": 2},
        order="translation",
        shift=2,
        margin=1,
        reach="prefix",
        skips=RELATIVE,
    ),
    "slots": MixerCase(
        options={"slot_grid": 2, "conv_size": 3},
        order="permutation",
        order_options={"slot_init": "param", "conv_size": 0},
    ),
    "soft": MixerCase(
        order="translation",
        shift=2,
        margin=1,
        skips={"conv_kernel": "a single block's class token lies outside the convolution"},
    ),
    "soft_causal": MixerCase({"strength": 0.5, "rotary_base": 100.0}),
    "sparse_fixed": MixerCase(
        options={"summary": 1},
        causal=True,
        generates=({"stride": 4, "subblocks": 2, "rotary_base": 100.0},),
        reach="prefix",
    ),
    "sparse_strided": MixerCase(
        causal=True,
        generates=(
            {"stride": 3, "kv_heads": 1, "rotary_base": 100.0},
            {"stride": 4, "combine": "heads"},
        ),
        reach="prefix",
    ),
    "spatial_reduction": MixerCase(
        options={"remainder": "keep"},
        skips={r"stage1.*query": "a single key has weight 1 whatever the query"},
    ),
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
    "tensor": MixerCase(
        order="permutation", causal=True, generates=({}, {"degree": 2, "bound": 1.0})
    ),
    "visual_tokens": MixerCase(options={"tokens": 3}, order="permutation"),
    "window": MixerCase(
        options={"window_size": 2},
        order="translation",
        shift=2,
        reach="prefix",
        skips=RELATIVE,
    ),
    "wkv": MixerCase(
        causal=True,
        generates=({},),
        skips={r"\['block_00'\].*mix_receptance": UNSHIFTED},
    ),
    "wkv6": MixerCase(
        options={"mix_rank": 3, "decay_rank": 3},
        causal=True,
        generates=({},),
        skips={r"\['block_00'\].*mix_(receptance|gate)": UNSHIFTED},
    ),
    "xca": MixerCase(order="permutation"),
}
