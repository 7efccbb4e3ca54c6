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
      depth: blocks of the isotropic host; 2 where the class token, which alone is read behind the
        last, does not pass through every parameter: then the first block is held to have all.
      pool: of the isotropic host; "avg", without a class token, where that token reads no other.
    """

    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    order: str | None = None
    shift: int = 1
    margin: int = 0
    order_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    causal: bool = False
    generates: tuple[Mapping[str, Any], ...] | None = None
    reach: str | None = "all"
    depth: int = 1
    pool: str = "token"


CASES = {
    "adaptive_filter": MixerCase(options={"groups": 2}, depth=2),
    "aggregated": MixerCase(options={"pool_size": 2, "bias_hidden": 4}, depth=2),
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
    "base_conv": MixerCase(causal=True, generates=({}, {"kernel_size": 3, "activation": "silu"})),
    "ckconv": MixerCase(
        options={"generator_options": {"hidden": 4}, "max_length": 32},
        depth=2,
        causal=True,
        generates=({"max_length": 6},),
        reach="prefix",
    ),
    "cond_conv": MixerCase(options={"experts": 2}, depth=2),
    "context_cluster": MixerCase(options={"region_size": 2}, reach="prefix"),
    "conv_additive": MixerCase(),
    "conv_projection": MixerCase(depth=2),
    "conv_share": MixerCase(options={"padding": "same"}, order="permutation", causal=True),
    "cosformer": MixerCase(options={"max_length": 1024}, causal=True, generates=({},), reach=None),
    "cosine": MixerCase(order="permutation", causal=True, generates=({"local_window_size": 3},)),
    # At the start offsets are the same everywhere, as far as there are points.
    "deformable": MixerCase(
        options={"points": 2}, order="translation", margin=3, reach="prefix", depth=2
    ),
    "delta": MixerCase(causal=True, generates=({"negative": True},)),
    "dilated_reparam": MixerCase(
        options={"kernel_size": 5, "branches": ((3, 2),), "reduction": 2}, depth=2
    ),
    "dynamicconv": MixerCase(
        options={"kernel_size": 3},
        causal=True,
        generates=({"kernel_size": 4},),
        reach=None,
        pool="avg",
    ),
    "flexconv": MixerCase(
        options={
            "generator_options": {"hidden": 4, "omega": 0.1},
            "mask_options": {"threshold": 0.0},
            "max_length": 32,
        },
        depth=2,
        causal=True,
        generates=({"max_length": 6, "resolution": 2.0},),
        reach="prefix",
    ),
    "fourier": MixerCase(options={"modes": (2, 2), "factorization": "tucker"}, depth=2),
    "fourier_tokens": MixerCase(),
    "gated_attention": MixerCase(causal=True, depth=2),
    "gated_delta": MixerCase(causal=True, generates=({},)),
    "gla": MixerCase(options={"gate_rank": 3}, causal=True, generates=({},)),
    "global_filter": MixerCase(options={"filter_grid": (3, 4)}, depth=2),
    "gn_conv": MixerCase(options={"order": 2, "kernel_size": 3}, reach="prefix", depth=2),
    "gpsa": MixerCase(depth=2),
    "halo": MixerCase(
        options={"block_size": 2, "halo": 1},
        order="translation",
        shift=2,
        margin=2,
        reach="prefix",
        depth=2,
    ),
    "head_tokens": MixerCase(order="permutation"),
    "heterogeneous": MixerCase(order="permutation"),
    "hyena": MixerCase(options={"filter_hidden": 4}, causal=True, generates=({},)),
    "hyper_zzw": MixerCase(
        options={"generator_options": {"hidden": 4, "omega": 1.0}}, reach="prefix", depth=2
    ),
    "hyper_zzw_local": MixerCase(
        # Else the context is an average that has met nothing yet.
        options={"kernel_size": 3, "generator_options": {"hidden": 4}, "batch_alone": True},
        reach="prefix",
        depth=2,
    ),
    "inception": MixerCase(
        options={"band_size": 5}, order="translation", margin=2, reach="prefix", depth=2
    ),
    "inline": MixerCase(
        order="permutation",
        order_options={"local": False},
        causal=True,
        generates=({},),
        depth=2,
    ),
    "kan_attention": MixerCase(options={"kernel_size": 1, "kind": "kacn"}, reach="prefix", depth=2),
    "kan_focal": MixerCase(
        options={"focal_level": 1, "full_kan": False, "kind": "kacn"}, reach="prefix", depth=2
    ),
    "lightconv": MixerCase(
        options={"kernel_size": 3},
        causal=True,
        generates=({"kernel_size": 4},),
        reach=None,
        pool="avg",
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
        depth=2,
    ),
    "local_relation": MixerCase(
        options={"kernel_size": 3}, order="translation", margin=1, reach="prefix", depth=2
    ),
    "long_conv": MixerCase(
        options={"max_length": 32}, causal=True, generates=({"max_length": 6, "smooth": 3},)
    ),
    "ls_conv": MixerCase(options={"kernel_size": 3, "shared": 4}, depth=2),
    "mala": MixerCase(causal=True, generates=({},), depth=2),
    "mamba": MixerCase(options={"d_state": 3}, causal=True, generates=({},)),
    "mamba2": MixerCase(causal=True, generates=({},), reach=None),
    "mamba2_four_way": MixerCase(options={"state_size": 4}),
    "mamba_bidirectional": MixerCase(options={"d_state": 3}),
    "mamba_four_way": MixerCase(options={"d_state": 2}),
    "mamba_multi_scale": MixerCase(options={"d_state": 2, "reduction": 2}, depth=2),
    "mix_shift": MixerCase(options={"sizes": (1, 1, 3, 3, 3)}, reach="prefix", depth=2),
    "mla": MixerCase(
        options={"latent_dim": 6, "query_latent_dim": 5},
        order="permutation",
        order_options={"rotary_dim": 0},
        causal=True,
        generates=(
            {},
            {"query_latent_dim": None, "value_width": 3, "rotary_layout": "half"},
            {"rotary_dim": 0, "local_window_size": 3, "normalizer": "stablemax"},
        ),
    ),
    "moh": MixerCase(
        # with two heads, one of them picked: rescaled, its gate would be constant
        options={"rescale": False},
        order="permutation",
        causal=True,
        generates=(
            {"shared_heads": 1, "normalizer": "stablemax"},
            {
                "shared_heads": 0,
                "routed_heads": 1,
                "router": "query_norm",
                "rotary_base": 100.0,
                "kv_heads": 1,
            },
        ),
    ),
    "msa_conv": MixerCase(order="translation", margin=1, reach="prefix"),
    "multi_axis": MixerCase(
        options={"block_size": (2, 2), "grid_size": (2, 3)}, reach="prefix", depth=2
    ),
    "multi_order": MixerCase(
        options={"dense_convs": True, "reduction": 1}, reach="prefix", depth=2
    ),
    "nc_ssd": MixerCase(order="permutation", order_options={"conv_size": 1}),
    "neighborhood": MixerCase(
        options={"kernel_size": 3},
        order="translation",
        margin=1,
        reach="prefix",
        depth=2,
    ),
    "one_way_conv": MixerCase(
        options={"rank": 4}, order="translation", margin=1, reach="prefix", depth=2
    ),
    "oversized": MixerCase(options={"global_size": 3, "kernel_size": 3}, depth=2),
    "per_head_window": MixerCase(
        options={"windows": (2, 5), "sinks": 1},
        causal=True,
        generates=(
            {"rotary_base": 100.0, "kv_heads": 1},
            {"windows": ((1.0, 0.5),), "sinks": 0, "normalizer": "sigmoid"},
        ),
        reach="prefix",
    ),
    "performer": MixerCase(order="permutation", causal=True, generates=({"num_features": 3},)),
    "pooled": MixerCase(),
    "rala": MixerCase(
        order="permutation",
        order_options={"rotary_base": None, "lepe_size": 0},
        depth=2,
    ),
    "retention": MixerCase(causal=True, generates=({},)),
    "rmt": MixerCase(depth=2),
    "rmt_decomposed": MixerCase(depth=2),
    "scaling": MixerCase(order="permutation", causal=True, generates=({},)),
    "sgconv": MixerCase(options={"kernel_dim": 8, "max_length": 32}, causal=True, generates=({},)),
    "scale_aware": MixerCase(
        options={"scales": 2}, order="translation", margin=2, reach="prefix", depth=2
    ),
    "selective_channel": MixerCase(
        options={"d_state": 2, "step_width": 2},
        order="permutation",
        causal=True,
        generates=({"step_width": 1},),
        reach=None,
        pool="avg",
    ),
    "shift_conv": MixerCase(order="translation", margin=1, reach="prefix", depth=2),
    "shifted_window": MixerCase(
        options={"window_size": 2},
        order="translation",
        shift=2,
        margin=1,
        reach="prefix",
        depth=2,
    ),
    "slots": MixerCase(
        options={"slot_grid": 2, "conv_size": 3},
        order="permutation",
        order_options={"slot_init": "param", "conv_size": 0},
    ),
    "smp_reparam": MixerCase(options={"kernel_size": 5, "small_size": 3}, reach="prefix", depth=2),
    "smpconv": MixerCase(
        options={"generator_options": {"points": 32}, "max_length": 32},
        depth=2,
        causal=True,
        generates=({"generator_options": {"points": 5, "per_channel": True, "averaged": True}},),
        reach="prefix",
    ),
    "soft": MixerCase(
        order="translation",
        shift=2,
        margin=1,
        depth=2,
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
    ),
    "spectral_pooling": MixerCase(options={"kernel_size": 3, "radius": 1}, depth=2),
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
    "token_mlp": MixerCase(options={"token_grid": (3, 4), "hidden": 4}, depth=2),
    "visual_tokens": MixerCase(options={"tokens": 3}, order="permutation"),
    "wavemix": MixerCase(options={"levels": 2}, reach="prefix", depth=2),
    "window": MixerCase(
        options={"window_size": 2},
        order="translation",
        shift=2,
        reach="prefix",
        depth=2,
    ),
    "wkv": MixerCase(
        causal=True,
        generates=({},),
        depth=2,
    ),
    "wkv6": MixerCase(
        options={"mix_rank": 3, "decay_rank": 3},
        causal=True,
        generates=({},),
        depth=2,
    ),
    "xca": MixerCase(order="permutation"),
}
