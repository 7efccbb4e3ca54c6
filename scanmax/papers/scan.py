"""Recurrences: state spaces, RWKV, the delta rule, and the models of images made of them."""

from scanmax.papers.paper import Paper

LEDGER = (
    Paper(
        "diffusion-rwkv",
        covers="the bidirectional wkv and the causal one of RWKV-4 in log space, three forms with "
        "step and state, their matrix; the Q-shift; the spatial mix as a mixer of both kinds with "
        "the released start; the channel mix, and the networks told a time and a label, to which "
        "the authors' code gives the same numbers, the released kernel's 1e-6 in a denominator "
        "left out: S/2 to H/2, patches of 4 as a field; not the noise they are trained on, their "
        "sampling, or trained weights",
        where=(
            "scanmax.ops.wkv",
            "scanmax.ops.wkv_step",
            "scanmax.ops.wkv_matrix",
            "scanmax.ops.quarter_shift",
            "scanmax.models.mixers.Wkv",
            "scanmax.models.mixers.scan.wkv.ChannelMix",
            "scanmax.models.vision.drwkv.DiffusionRwkv",
        ),
        tests=(
            "tests/models/vision/test_drwkv.py",
            "tests/models/vision/test_authors.py",
            "tests/ops/scan/test_wkv.py::WkvTest",
            "tests/ops/scan/test_wkv.py::BidirectionalWkvTest",
            "tests/ops/scan/test_wkv.py::QuarterShiftTest",
            "tests/parity/test_rwkv_parity.py",
            "tests/models/mixers/test_mixers.py",
            "tests/test_claims.py",
        ),
        reproduced="two scans give the double sum: benchmarks claims wkv-is-its-double-sum; time "
        "linear in the tokens: time-slopes",
    ),
    Paper(
        "hidden-mamba-attention",
        covers="the matrix view of selective scan and SSD, sown by the mixers of one, two and four "
        "directions; attention rollout over it, drawn for a network trained on digits; Vim's "
        "mixer; not the gradient-based attribution",
        where=(
            "scanmax.ops.selective_scan",
            "scanmax.ops.selective_scan_matrix",
            "scanmax.ops.ssd_matrix",
            "scanmax.ops.attention_rollout",
            "scanmax.models.mixers.MambaBidirectional",
        ),
        tests=(
            "tests/ops/scan/test_ssd.py::SelectiveScanTest",
            "tests/ops/scan/test_ssd.py::SelectiveScanMatrixTest",
            "tests/ops/scan/test_ssd.py::SsdMatrixTest",
            "tests/models/mixers/scan/test_scans.py::test_the_sown_matrix_is_what_the_scans_apply",
            "tests/test_claims.py",
        ),
        reproduced="scan, recurrence and attention matrix of one layer give equal outputs: "
        "benchmarks claims hidden-attention-equals-scan; what rollout ranks first matters more "
        "than pixels at random: hidden-attention-digits; Mamba selects what to copy: "
        "selective-copying",
    ),
    Paper(
        "laughing-hyena",
        covers="the modal recurrence by steps, by chunks and by FFT, with state and step; "
        "distillation of filters from a balanced truncation on by gradients; Hankel singular "
        "values and the order they ask for; not MultiHyena or the distillation of trained models",
        where=(
            "scanmax.ops.modal_ssm",
            "scanmax.ops.modal_ssm_step",
            "scanmax.ops.modal_ssm_filter",
            "scanmax.ops.hankel_singular_values",
            "scanmax.ops.hankel_order",
            "scanmax.train.distill.distill_filter",
        ),
        tests=(
            "tests/ops/scan/test_modal.py",
            "tests/train/test_distill.py",
            "tests/test_claims.py",
        ),
        reproduced="the error falls with the order as the Hankel values foretell: benchmarks "
        "claims hankel-values-foretell-the-error; a token costs the same behind any number of "
        "others: distilled-filters-generate-in-constant-time",
    ),
    Paper(
        "mamba2-ssd",
        covers="SSD in three forms with step and state, the block, the five language models with "
        "generation, weights of transformers and of the authors; not their training or tensor "
        "parallel layout",
        where=(
            "scanmax.ops.ssd",
            "scanmax.ops.ssd_step",
            "scanmax.ops.ssd_matrix",
            "scanmax.ops.causal_conv1d",
            "scanmax.ops.gated_rms_norm",
            "scanmax.models.mixers.Mamba2",
            "scanmax.models.language.mamba2.Mamba2LM",
        ),
        tests=(
            "tests/ops/scan/test_ssd.py::SsdTest",
            "tests/ops/scan/test_ssd.py::test_duality_ssd_is_linear_attention",
            "tests/models/language/test_mamba2.py",
            "tests/models/test_weights.py::test_original_mamba2_names",
            "tests/parity/test_mamba2_parity.py",
            "tests/parity/test_ssm_parity.py",
        ),
        reproduced="the duality: recurrent, quadratic and chunked forms are equal; parameters of "
        "the five sizes to the last one; the state does not grow with the sequence; its time "
        "beside the selective scan's: benchmarks claims ssd-against-selective-scan",
    ),
    Paper(
        "mambamixer",
        covers="the four-way token mixer, the bidirectional selective channel mixer in our reading "
        "(steps of the scan are channels of one token, parameters shared by tokens), the "
        "learned weighted sums between mixers, ViM2 in three sizes of 24.0, 43.7 and 75.6 million "
        "parameters where the paper has 20, 43 and 74; the forecaster TSM2 with widths of our own, "
        "as the paper gives none; not trained on ImageNet or on the paper's series here",
        where=(
            "scanmax.ops.cross_scan",
            "scanmax.ops.cross_merge",
            "scanmax.models.mixers.MambaFourWay",
            "scanmax.models.mixers.SelectiveChannel",
            "scanmax.models.vision.mambamixer.ViM2",
            "scanmax.models.sequence.tsm2.Tsm2",
        ),
        tests=(
            "tests/ops/scan/test_cross.py::CrossScanTest",
            "tests/ops/scan/test_cross.py::CrossMergeTest",
            "tests/models/vision/test_mambamixer.py",
            "tests/models/mixers/scan/test_scans.py",
            "tests/models/sequence/test_tsm2.py",
        ),
        reproduced="series that depend on each other are forecast better together: benchmarks "
        "claims tsm2-cross-variates",
    ),
    Paper(
        "msvmamba",
        covers="cross-scan and merge in one, two and four directions, the multi-scale pair, the "
        "mixer with the small map's scans joined (released) or apart, the block, nano, micro and "
        "tiny; not the second version's models or weights; not trained on ImageNet here",
        where=(
            "scanmax.ops.multi_scale_scan",
            "scanmax.ops.multi_scale_merge",
            "scanmax.models.mixers.MambaMultiScale",
            "scanmax.models.vision.msvmamba.MsVMamba",
        ),
        tests=(
            "tests/ops/scan/test_cross.py",
            "tests/models/vision/test_msvmamba.py::MsVMambaSuite",
            "tests/models/mixers/scan/test_scans.py",
            "tests/test_claims.py",
        ),
        reproduced="1.75 T tokens instead of 4 T: benchmarks claims multi-scale-tokens, and what "
        "that saves: multi-scale-time; parameters of all three models to the last one of the "
        "authors' modules",
    ),
    Paper(
        "rwkv-clip",
        covers="the wkv of RWKV-6 in three forms with step and state, causal and in both "
        "directions as the released kernels of both towers run it, its matrix; the token shifts; "
        "the spatial mix as a mixer with data-dependent mixing and the released start, the channel "
        "mix, and both towers, to which the authors' code gives the same numbers (their kernel "
        "written out in torch); not the made-up captions, or trained weights",
        where=(
            "scanmax.ops.wkv6",
            "scanmax.ops.wkv6_step",
            "scanmax.ops.wkv6_matrix",
            "scanmax.ops.token_shift",
            "scanmax.ops.quarter_shift",
            "scanmax.models.mixers.Wkv6",
            "scanmax.models.vision.rwkv_clip.RwkvClipImage",
            "scanmax.models.language.rwkv_clip_text.RwkvClipText",
        ),
        tests=(
            "tests/ops/scan/test_wkv.py::Wkv6Test",
            "tests/ops/scan/test_wkv.py::TokenShiftTest",
            "tests/models/mixers/test_mixers.py",
            "tests/models/vision/test_rwkv_clip.py",
            "tests/models/vision/test_authors.py",
            "tests/models/language/test_rwkv_clip_text.py",
            "tests/test_claims.py",
        ),
        reproduced="recurrent, chunked and quadratic form agree: benchmarks claims "
        "wkv6-forms-agree; time linear in the tokens: time-slopes",
    ),
    Paper(
        "vssd",
        covers="non-causal SSD, its matrix, the block, the four sizes; outputs of the authors' "
        "code as a golden file; not trained on ImageNet here",
        where=(
            "scanmax.ops.nc_ssd",
            "scanmax.ops.nc_ssd_matrix",
            "scanmax.models.mixers.NcSsd",
            "scanmax.models.vision.vssd.Vssd",
        ),
        tests=(
            "tests/ops/scan/test_ssd.py::NonCausalSsdTest",
            "tests/ops/scan/test_ssd.py::NonCausalSsdMatrixTest",
            "tests/ops/scan/test_ssd.py::"
            "test_non_causal_is_both_directions_without_decay_less_the_diagonal",
            "tests/ops/scan/test_ssd.py::test_non_causal_does_not_know_the_order_of_tokens",
            "tests/models/vision/test_vssd.py::VssdSuite",
            "tests/models/vision/test_authors.py",
            "tests/ops/scan/test_cross.py::test_nc_ssd_is_what_all_scans_become_without_decay",
            "tests/test_claims.py",
        ),
        reproduced="both directions of the scan, and four, collapse into one global sum, which no "
        "order of the tokens changes: benchmarks claims nc-ssd-order; time linear in the tokens: "
        "nc-ssd-linear",
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
            "tests/models/mixers/test_recurrent.py",
            "tests/parity/test_delta_rule_parity.py",
            "tests/test_claims.py",
        ),
        reproduced="attention recalls where the gated convolution does not: benchmarks "
        "claims mqar-attention-and-convolution; what a state holds: recall-by-state-width, and "
        "trained: mqar-ssd-states; induction-heads",
    ),
)
