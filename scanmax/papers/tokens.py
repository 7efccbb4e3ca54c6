"""Tokens gathered, merged, clustered and dropped."""

from scanmax.papers.paper import Paper

LEDGER = (
    Paper(
        "attsets",
        covers="the pooling, with masks, and its module; not the two-phase schedule or the 3-D "
        "reconstruction",
        where=("scanmax.ops.set_pool", "scanmax.models.parts.tokens.AttentionalSetPool"),
        tests=(
            "tests/ops/tokens/test_assignment.py::SetPoolTest",
            "tests/models/parts/test_tokens.py::test_modules_train",
        ),
        reproduced="the order of a set does not matter, a set of one is its element",
    ),
    Paper(
        "context-cluster",
        covers="the cluster mixer with both denominators, regions and its matrix, as an op and a "
        "mixer of any host; the seven models of the release, whose code gives the same numbers; "
        "not the recipe, the point clouds or the dense tasks",
        where=(
            "scanmax.ops.context_cluster",
            "scanmax.ops.context_cluster_matrix",
            "scanmax.models.mixers.ContextCluster",
            "scanmax.models.vision.context_cluster.ContextClusters",
        ),
        tests=(
            "tests/ops/tokens/test_clustering.py::ContextClusterTest",
            "tests/ops/tokens/test_clustering.py::ContextClusterMatrixTest",
            "tests/models/mixers/test_mixers.py",
            "tests/models/vision/test_context_cluster.py",
            "tests/models/vision/test_authors.py",
        ),
        reproduced="operations linear in the points; parameters of Ti, S and M to the last one, "
        "and their GFLOPs: tests/models/vision/test_context_cluster.py",
    ),
    Paper(
        "evit",
        covers="token reorganisation with and without fusion, in any ViT with plain attention by "
        "token_reduction; not the warm-up of the keep rate or training on ImageNet",
        where=(
            "scanmax.ops.token_reorganize",
            "scanmax.models.vision.token_reduction.TokenReduction",
        ),
        tests=(
            "tests/ops/tokens/test_merging.py::TokenReorganizeTest",
            "tests/models/parts/test_tokens.py::test_keeping_all_is_the_plain_model_to_the_bit",
            "tests/models/parts/test_tokens.py::test_multiply_adds_of_the_published_schedules",
        ),
        reproduced="multiply-adds of DeiT-S at six keep rates",
    ),
    Paper(
        "expedit-dense-vit",
        covers="windowed soft clustering and reconstruction, normalised as the code or as the "
        "paper has it; not the wrapper around a trained ViT",
        where=("scanmax.ops.token_clustering", "scanmax.ops.token_reconstruction"),
        tests=(
            "tests/ops/tokens/test_clustering.py::TokenClusteringTest",
            "tests/ops/tokens/test_clustering.py::TokenReconstructionTest",
        ),
        reproduced="the identity with a centre per token, near lossless on piecewise constant maps",
    ),
    Paper(
        "glmix",
        covers="slots with clustering, attention and dispatch beside the convolution, as ops and "
        "as a mixer of any host, and the networks 4G, 9G, 16G and STL, with pooled and learned "
        "slots, to which the authors' code gives the same numbers; not token labelling, the "
        "recipes or the dense tasks",
        where=(
            "scanmax.ops.slot_logits",
            "scanmax.ops.aggregate_tokens",
            "scanmax.ops.dispatch_tokens",
            "scanmax.ops.slot_matrix",
            "scanmax.models.mixers.Slots",
            "scanmax.models.vision.glnet.GLNet",
        ),
        tests=(
            "tests/ops/tokens/test_assignment.py::SlotLogitsTest",
            "tests/ops/tokens/test_assignment.py::SlotMatrixTest",
            "tests/models/mixers/test_mixers.py",
            "tests/models/vision/test_glnet.py",
            "tests/models/vision/test_authors.py",
        ),
        reproduced="without attention the slots give a constant map back; parameters and GFLOPs of "
        "all networks: tests/models/vision/test_glnet.py",
    ),
    Paper(
        "kmax-deeplab",
        covers="k-means cross-attention and its assignment; not the decoder or segmentation",
        where=(
            "scanmax.ops.kmeans_cross_attention",
            "scanmax.ops.kmeans_cross_attention_matrix",
        ),
        tests=("tests/ops/tokens/test_clustering.py::KmeansCrossAttentionTest",),
        reproduced="spherical k-means step for step",
    ),
    Paper(
        "mctf",
        covers="bipartite matching by three criteria in one or both directions, merging, merged "
        "attention one step ahead, ToMe as a special case, both in any ViT with plain attention; "
        "not pooling by maximum, the consistency loss or training on ImageNet",
        where=(
            "scanmax.ops.bipartite_soft_matching",
            "scanmax.ops.merge_tokens",
            "scanmax.ops.merge_attention",
            "scanmax.ops.fuse_tokens",
            "scanmax.models.vision.token_reduction.TokenReduction",
        ),
        tests=(
            "tests/ops/tokens/test_merging.py::MatchingTest",
            "tests/ops/tokens/test_merging.py::FuseTokensTest",
            "tests/models/parts/test_tokens.py::test_merging_equal_tokens_changes_nothing",
            "tests/models/parts/test_tokens.py::test_multiply_adds_of_the_published_schedules",
        ),
        reproduced="multiply-adds of DeiT-T and DeiT-S with 16 tokens fused per block",
    ),
    Paper(
        "sit-self-slimmed",
        covers="token slimming and its reverse as modules; not the SiT models or the distillation",
        where=(
            "scanmax.ops.aggregate_tokens",
            "scanmax.models.parts.tokens.TokenSlimming",
            "scanmax.models.parts.tokens.ReverseTokenSlimming",
        ),
        tests=(
            "tests/ops/tokens/test_assignment.py::AggregateTokensTest",
            "tests/models/parts/test_tokens.py::test_slimmed_tokens_lie_between_the_tokens",
        ),
    ),
    Paper(
        "visual-transformer-vt",
        covers="filter and recurrent tokenizer, the layer between tokens, the projector, and the "
        "three as a mixer of any host; not VT-ResNet or VT-FPN",
        where=(
            "scanmax.models.parts.tokens.FilterTokenizer",
            "scanmax.models.parts.tokens.RecurrentTokenizer",
            "scanmax.models.parts.tokens.TokenTransformer",
            "scanmax.models.parts.tokens.TokenProjector",
            "scanmax.models.mixers.VisualTokens",
        ),
        tests=(
            "tests/models/parts/test_tokens.py::test_tokenizers_and_projector_are_their_equations",
            "tests/models/mixers/test_mixers.py",
        ),
    ),
)
