"""Local, sparse, pooled and convolutional attention."""

from scanmax.papers.paper import Paper

LEDGER = (
    Paper(
        "cas-vit",
        covers="the additive token mixer with its spatial and channel gates, as op and mixer, in "
        "the released arithmetic; the local integration and the four models with both heads, to "
        "which the authors' code gives the same numbers; not the recipe or the dense tasks",
        where=(
            "scanmax.ops.conv_additive_attention",
            "scanmax.models.mixers.ConvAdditive",
            "scanmax.models.vision.cas_vit.CasVit",
        ),
        tests=(
            "tests/ops/local/test_pooled.py::ConvAdditiveTest",
            "tests/models/mixers/test_mixers.py",
            "tests/models/vision/test_cas_vit.py",
            "tests/models/vision/test_authors.py",
        ),
        reproduced="with its gates at 1 the mixer is DW(DW(Q + K) * V); linear cost in pixels "
        "(docs/claims.md); parameters of all four to the last one, GFLOPs within 2.5%: "
        "tests/models/vision/test_cas_vit.py",
    ),
    Paper(
        "cvt",
        covers="attention over convolved projections, keys and values of stride 2, with both "
        "scales; the convolutional embedding, and 13, 21 and W24 with weights of transformers; not "
        "the recipe or the pre-training",
        where=("scanmax.models.mixers.ConvProjection", "scanmax.models.vision.cvt.Cvt"),
        tests=(
            "tests/parity/test_pooled_parity.py",
            "tests/models/mixers/test_mixers.py",
            "tests/models/vision/test_cvt.py",
            "tests/parity/test_cvt_parity.py",
        ),
        reproduced="parameters of 13, 21 and W24 to the last one, GFLOPs of 13 and 21: "
        "tests/models/vision/test_cvt.py",
    ),
    Paper(
        "lkca",
        covers="the convolution and the explicit-matrix form, kernels for all, per head or per "
        "channel, and the mixer; which of them the authors use is not settled, their code is not "
        "public; not the trained models",
        where=(
            "scanmax.ops.lkca",
            "scanmax.ops.lkca_matrix",
            "scanmax.models.mixers.Lkca",
        ),
        tests=(
            "tests/ops/local/test_pooled.py::LkcaTest",
            "tests/ops/local/test_pooled.py::LkcaMatrixTest",
            "tests/ops/local/test_pooled.py::test_the_lkca_matrix_is_block_toeplitz",
        ),
        reproduced="both forms are equal, the matrix is block-Toeplitz (docs/claims.md)",
    ),
    Paper(
        "moa-sparse-attention",
        covers="windows of each head's own length, given or by the rule alpha + beta N, with "
        "sinks, causal and both ways, step by step; not the profiling and planning that choose the "
        "windows, or the kernels",
        where=(
            "scanmax.ops.per_head_window_attention",
            "scanmax.ops.per_head_window_attention_step",
            "scanmax.models.mixers.PerHeadWindow",
        ),
        tests=(
            "tests/ops/local/test_sparse.py::PerHeadWindowTest",
            "tests/ops/local/test_sparse.py::StepTest",
            "tests/models/mixers/test_mixers.py",
        ),
    ),
    Paper(
        "next-vit",
        covers="E-MHSA: keys of means over consecutive tokens with batch norm, as ops and mixer; "
        "both blocks and the networks S, B and L with weights of timm; not the norms merged into "
        "the layers behind them, or the recipe",
        where=(
            "scanmax.ops.pool_tokens",
            "scanmax.models.mixers.Pooled",
            "scanmax.models.vision.nextvit.NextVit",
        ),
        tests=(
            "tests/ops/local/test_pooled.py::PoolTokensTest",
            "tests/parity/test_pooled_parity.py",
            "tests/models/mixers/test_mixers.py",
            "tests/models/vision/test_nextvit.py",
            "tests/parity/test_nextvit_parity.py",
        ),
        reproduced="parameters of S, B and L to the last one, GFLOPs of S",
    ),
    Paper(
        "sparse-transformer",
        covers="the strided and the fixed pattern in gather form, merged, by heads, or one alone, "
        "with distinct summaries per head, causal and both ways, step by step; not the residual "
        "block, its initial values, or the image and byte models",
        where=(
            "scanmax.ops.sparse_attention",
            "scanmax.ops.sparse_attention_step",
            "scanmax.ops.sparse_pattern",
            "scanmax.models.mixers.SparseStrided",
            "scanmax.models.mixers.SparseFixed",
        ),
        tests=(
            "tests/ops/local/test_sparse.py",
            "tests/models/mixers/test_mixers.py",
        ),
        reproduced="gather form equals the masked matrix; all earlier tokens in two hops; pairs "
        "grow as n^1.5 (docs/claims.md)",
    ),
    Paper(
        "stm-evaluation",
        covers="window, shifted-window and halo attention as ops and mixers, with their positions, "
        "spatial reduction as a mixer; not the unified host and its five families, DCNv3, or the "
        "invariance tests",
        where=(
            "scanmax.ops.window_attention",
            "scanmax.ops.halo_attention",
            "scanmax.models.mixers.WindowAttention",
            "scanmax.models.mixers.ShiftedWindowAttention",
            "scanmax.models.mixers.HaloAttention",
            "scanmax.models.mixers.SpatialReduction",
        ),
        tests=(
            "tests/ops/local/test_window.py",
            "tests/parity/test_local_parity.py",
            "tests/models/mixers/test_mixers.py",
        ),
        reproduced="spatial reduction reaches further at init than windows and 7 x 7 "
        "neighbourhoods (docs/claims.md)",
    ),
    Paper(
        "tic-msa-conv",
        covers="MSA-Conv with stride, dilation and any number of heads, outside the map as in the "
        "authors' code; the multi-directional shift as read here, for there is no code; not the "
        "network TiC, whose configuration is not published",
        where=(
            "scanmax.ops.msa_conv",
            "scanmax.ops.multi_directional_cyclic_shift",
            "scanmax.models.mixers.MsaConv",
        ),
        tests=("tests/ops/local/test_neighborhood.py", "tests/models/mixers/local/test_maps.py"),
        reproduced="an average filter for equal scores; the same interior at 64 and 96 pixels "
        "(docs/claims.md)",
    ),
    Paper(
        "tcsr",
        covers="neighbourhood attention with windows moved into the map or cut at its edges, and "
        "the feed-forward layer whose channels are shifted; not the networks, which nothing "
        "public settles",
        where=(
            "scanmax.ops.neighborhood_attention",
            "scanmax.models.mixers.NeighborhoodAttention",
            "scanmax.models.parts.shift_mlp.ShiftMlp",
        ),
        tests=(
            "tests/ops/local/test_neighborhood.py",
            "tests/models/parts/test_shift_mlp.py",
            "tests/models/mixers/test_mixers.py",
        ),
        reproduced="weights for 13 x 13 neighbours where a convolution has the square of them: "
        "`benchmarks claims tcsr-parameters`",
    ),
    Paper(
        "transnext",
        covers="aggregated attention as the released code has it (query embedding, local bias, "
        "log-spaced bias of pooled keys, learnable tokens after the softmax) and length-scaled "
        "cosine attention, as ops and mixers; the gated MLP and the five models, to which the "
        "authors' code gives the same numbers; not detection and segmentation",
        where=(
            "scanmax.ops.aggregated_attention",
            "scanmax.ops.log_spaced_coordinates",
            "scanmax.models.mixers.AggregatedAttention",
            "scanmax.models.mixers.CosineAttention",
            "scanmax.models.vision.transnext.TransNext",
        ),
        tests=(
            "tests/ops/local/test_aggregated.py",
            "tests/ops/attention/test_cosine.py",
            "tests/ops/attention/test_relative_position.py",
            "tests/models/mixers/test_mixers.py",
            "tests/models/vision/test_transnext.py",
            "tests/models/vision/test_authors.py",
        ),
        reproduced="one softmax over 9 + P keys without unfolding them (docs/claims.md); "
        "parameters of all sizes to the last one, and GFLOPs",
    ),
)
