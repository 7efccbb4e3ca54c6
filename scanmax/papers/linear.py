"""Attention in linear order, by landmarks, over channels, and of third order."""

from scanmax.papers.paper import Paper

LEDGER = (
    Paper(
        "inline-attention",
        covers="injective attention in linear order, bidirectional and causal (ours), released and "
        "printed scale, its matrix; a mixer with the dynamic local residual, compared with the "
        "authors' code; not the windowed form or the InLine models",
        where=("scanmax.ops.inline_attention", "scanmax.models.mixers.Inline"),
        tests=(
            "tests/ops/linear/test_normalisations.py::InlineAttentionTest",
            "tests/ops/linear/test_normalisations.py::test_matrices",
            "tests/models/mixers/linear/test_fused.py::test_the_image_chooses_the_taps_of_its_values",
            "tests/test_claims.py",
        ),
        reproduced="rows sum to one; q and 2 q collide in linear attention, not here: "
        "benchmarks claims inline-is-injective",
    ),
    Paper(
        "mala-magnitude-aware-linear-attention",
        covers="the attention in linear order, bidirectional and causal with state, with and "
        "without rotary positions, released and printed scale, its matrix; a mixer with 2-D "
        "rotary positions, local term and gate, compared with the authors' code; not the MAViT "
        "models",
        where=("scanmax.ops.mala_attention", "scanmax.models.mixers.Mala"),
        tests=(
            "tests/ops/linear/test_normalisations.py::MalaAttentionTest",
            "tests/ops/linear/test_normalisations.py::test_the_released_order_of_operations",
            "tests/models/mixers/linear/test_fused.py",
            "tests/test_claims.py",
        ),
        reproduced="rows sum to one and sharpen with the query, linear attention's do not: "
        "benchmarks claims mala-sharpens",
    ),
    Paper(
        "rala-ravlt",
        covers="both augmentations in linear order, the matrix; a mixer with 2-D rotary positions, "
        "local term and gate, and its softmax twin, compared with the authors' code; not the "
        "RAVLT models",
        where=(
            "scanmax.ops.rala_attention",
            "scanmax.models.mixers.Rala",
            "scanmax.models.mixers.GatedAttention",
        ),
        tests=(
            "tests/ops/linear/test_normalisations.py::RalaAttentionTest",
            "tests/models/mixers/linear/test_fused.py",
            "tests/test_claims.py",
        ),
        reproduced="rank of the outputs of linear attention, RALA and softmax, on random tokens: "
        "benchmarks claims linear-attention-rank",
    ),
    Paper(
        "soft-softmax-free",
        covers="the Gaussian kernel, exact and through landmarks, the pseudo-inverse by Newton "
        "with its own gradient, the symmetric normalisation of SOFT++, the mixer with the released "
        "landmarks; not the pyramids' exact blocks, or training on ImageNet",
        where=(
            "scanmax.ops.newton_pinv",
            "scanmax.ops.soft_attention",
            "scanmax.ops.soft_attention_matrix",
            "scanmax.models.mixers.Soft",
        ),
        tests=(
            "tests/ops/attention/test_soft.py",
            "tests/models/mixers/attention/test_higher_order.py",
        ),
        reproduced="the iteration finds the pseudo-inverse; all tokens as landmarks give the "
        "kernel; the normalisation bounds the norm; time linear in T (time-slopes)",
    ),
    Paper(
        "tensor-attention",
        covers="third-order attention exact, by blocks of pairs in linear memory and causal, with "
        "masks; the low-rank polynomial form, causal with its state; the mixer; not orders above "
        "three or the hardness proofs",
        where=(
            "scanmax.ops.tensor_attention",
            "scanmax.ops.tensor_attention_weights",
            "scanmax.ops.tensor_attention_poly",
            "scanmax.ops.khatri_rao",
            "scanmax.models.mixers.Tensor",
        ),
        tests=(
            "tests/ops/attention/test_tensor.py",
            "tests/models/mixers/attention/test_higher_order.py::test_tensor_reads_pairs",
            "tests/data/test_sequence_tasks.py::test_match3_is_what_all_triples_say",
        ),
        reproduced="one head solves Match3 by construction and by training, softmax attention of "
        "its size does not; the polynomial's error by degree and entries; times near T^3 and T",
    ),
    Paper(
        "xcit",
        covers="cross-covariance attention as an op and a mixer; not the local patch interaction, "
        "class attention or the models",
        where=("scanmax.ops.cross_covariance_attention", "scanmax.models.mixers.CrossCovariance"),
        tests=(
            "tests/ops/linear/test_cross_covariance.py::CrossCovarianceAttentionTest",
            "tests/parity/test_xcit_parity.py",
        ),
        reproduced="time linear in the tokens: benchmarks claims time-slopes",
    ),
    Paper(
        "zoology-mqar",
        covers="multi-query associative recall as published, smaller; the gated base convolution; "
        "of the mixers that its code stores, gated linear attention and the delta rule, gated or "
        "not, by chunks, with state, step and matrix; not the hybrids with selected tokens, or the "
        "Pile",
        where=(
            "scanmax.data.sequence_tasks.associative_recall",
            "scanmax.models.mixers.BaseConv",
            "scanmax.models.mixers.Gla",
            "scanmax.models.mixers.Delta",
            "scanmax.models.mixers.GatedDelta",
            "scanmax.ops.delta_rule",
            "scanmax.ops.delta_rule_step",
            "scanmax.ops.delta_rule_matrix",
        ),
        tests=(
            "tests/data/test_sequence_tasks.py::test_recalled_values_are_those_after_the_keys",
            "tests/ops/scan/test_delta_rule.py",
            "tests/models/mixers/linear/test_recurrent.py",
            "tests/parity/test_delta_rule_parity.py",
            "tests/test_claims.py",
        ),
        reproduced="attention recalls where the gated convolution does not: benchmarks "
        "claims mqar-attention-and-convolution; what a state holds: recall-by-state-width, and "
        "trained: mqar-ssd-states; induction-heads",
    ),
)
