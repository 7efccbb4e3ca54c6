"""Attention in linear order, and over channels."""

from scanmax.papers.paper import Paper

LEDGER = (
    Paper(
        "inline-attention",
        covers="injective attention in linear order, bidirectional and causal (ours), released and "
        "printed scale, its matrix; a mixer with the dynamic local residual, and the three "
        "InLine-DeiT, to which the authors' code gives the same numbers; not the windowed form or "
        "InLine-PVT, -Swin and -CSwin",
        where=(
            "scanmax.ops.inline_attention",
            "scanmax.models.mixers.Inline",
            "scanmax.models.vision.inline_deit.InlineDeit",
        ),
        tests=(
            "tests/ops/linear/test_inline.py::InlineAttentionTest",
            "tests/ops/linear/test_inline.py::test_matrices",
            "tests/models/mixers/linear/test_matrices.py::test_the_image_chooses_the_taps_of_its_values",
            "tests/models/vision/test_inline_deit.py",
            "tests/models/vision/test_authors.py",
            "tests/test_claims.py",
        ),
        reproduced="rows sum to one; q and 2 q collide in linear attention, not here: "
        "benchmarks claims inline-is-injective; parameters to the last one and GFLOPs of DeiT's T, "
        "S and B",
    ),
    Paper(
        "mala-magnitude-aware-linear-attention",
        covers="the attention in linear order, bidirectional and causal with state, with and "
        "without rotary positions, released and printed scale, its matrix; a mixer with 2-D "
        "rotary positions, local term and gate, and the four MAViT, to which the authors' code "
        "gives the same numbers; not the models of language, speech and diffusion",
        where=(
            "scanmax.ops.mala_attention",
            "scanmax.models.mixers.Mala",
            "scanmax.models.vision.mavit.MaVit",
        ),
        tests=(
            "tests/ops/linear/test_mala.py::MalaAttentionTest",
            "tests/ops/linear/test_mala.py::test_the_released_order_of_operations",
            "tests/models/mixers/linear/test_matrices.py",
            "tests/models/vision/test_mavit.py",
            "tests/models/vision/test_authors.py",
            "tests/test_claims.py",
        ),
        reproduced="rows sum to one and sharpen with the query, linear attention's do not: "
        "benchmarks claims mala-sharpens; parameters to the last one and GFLOPs of T, S, B and L",
    ),
    Paper(
        "nas-efficient-transformer-mixed",
        covers="cosFormer's features behind linear attention in all its forms, with states "
        "and packed rows, and a mixer of them, which hosts take for some blocks and softmax "
        "attention for others; not the search, or the networks that it found",
        where=("scanmax.ops.cosine_features", "scanmax.models.mixers.Cosformer"),
        tests=(
            "tests/ops/linear/test_feature_maps.py::CosineFeaturesTest",
            "tests/ops/linear/test_feature_maps.py::"
            "test_cosformer_in_linear_order_is_its_weighed_matrix",
            "tests/models/mixers/linear/test_matrices.py",
            "tests/models/mixers/test_mixers.py",
            "tests/test_claims.py",
        ),
        reproduced="the linear order is the quadratic one: benchmarks claims cosformer-orders",
    ),
    Paper(
        "rala-ravlt",
        covers="both augmentations in linear order, the matrix; a mixer with 2-D rotary positions, "
        "local term and gate, and its softmax twin; the four RAVLT, to which the authors' code "
        "gives the same numbers; not detection and segmentation",
        where=(
            "scanmax.ops.rala_attention",
            "scanmax.models.mixers.Rala",
            "scanmax.models.mixers.GatedAttention",
            "scanmax.models.vision.ravlt.Ravlt",
        ),
        tests=(
            "tests/ops/linear/test_rala.py::RalaAttentionTest",
            "tests/models/mixers/linear/test_matrices.py",
            "tests/models/vision/test_ravlt.py",
            "tests/models/vision/test_authors.py",
            "tests/test_claims.py",
        ),
        reproduced="rank of the outputs of linear attention, RALA and softmax, on random tokens: "
        "benchmarks claims linear-attention-rank; parameters to the last one and GFLOPs of T, S, B "
        "and L",
    ),
    Paper(
        "t2t-vit",
        covers="positive orthogonal random features of the Performer variant, as ops and a mixer; "
        "the soft split, both token layers and the eleven models of the release, whose code gives "
        "the same numbers; not the SE, dense and ghost variants, or the recipe",
        where=(
            "scanmax.ops.positive_random_features",
            "scanmax.ops.orthogonal_random_features",
            "scanmax.models.mixers.Performer",
            "scanmax.models.vision.t2t_vit.T2tVit",
        ),
        tests=(
            "tests/ops/linear/test_feature_maps.py",
            "tests/test_claims.py",
            "tests/models/vision/test_t2t_vit.py",
            "tests/models/vision/test_authors.py",
        ),
        reproduced="the error falls as about one over the root of the features: "
        "benchmarks claims performer-error; GFLOPs of 14, t-14, 19 and 24: "
        "tests/models/vision/test_t2t_vit.py",
    ),
    Paper(
        "xcit",
        covers="cross-covariance attention as an op and a mixer, and the fourteen networks at 224 "
        "and at 384 pixels, weights of timm and of the release; not the distilled recipe, or "
        "detection and segmentation",
        where=(
            "scanmax.ops.cross_covariance_attention",
            "scanmax.models.mixers.CrossCovariance",
            "scanmax.models.vision.xcit.Xcit",
        ),
        tests=(
            "tests/ops/linear/test_cross_covariance.py::CrossCovarianceAttentionTest",
            "tests/models/vision/test_xcit.py",
            "tests/parity/test_xcit_parity.py",
        ),
        reproduced="time linear in the tokens: benchmarks claims time-slopes; parameters of all "
        "sizes to the last one, GFLOPs of N12 and T12",
    ),
)
