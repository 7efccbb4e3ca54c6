"""Architectures, and the state-space duality under them."""

from scanmax.papers.paper import Paper

LEDGER = (
    Paper(
        "convnext",
        covers="the five sizes, feature maps, training at any image size, weights of timm and of "
        "the authors; not the isotropic variants or the roadmap from ResNet",
        where=("scanmax.models.vision.convnext.ConvNext", "scanmax.ops.depthwise_conv2d"),
        tests=(
            "tests/test_registry.py::ConvNextSuite",
            "tests/models/test_weights.py::test_golden",
            "tests/parity/test_convnext_parity.py",
            "tests/test_papers.py::test_published_multiply_adds",
        ),
        reproduced="parameters of T to XL to the last one; GFLOPs of T, S, B, L",
    ),
    Paper(
        "deit",
        covers="Ti, S and B, the distilled models with their token, 384 pixels; hard and soft "
        "distillation; the recipe as a config, not trained on ImageNet here; weights of timm",
        where=(
            "scanmax.models.vision.vit.VisionTransformer",
            "scanmax.train.losses.hard_distillation",
            "scanmax.train.losses.soft_distillation",
            "scanmax.configs.imagenet_deit_small",
        ),
        tests=(
            "tests/test_registry.py::VitSuite",
            "tests/models/test_weights.py::test_golden",
            "tests/parity/test_vit_parity.py",
            "tests/train/test_losses_metrics.py::test_distillation",
            "tests/train/test_configs.py",
            "tests/test_papers.py::test_published_multiply_adds",
        ),
        reproduced="parameters of all eight models to the last one; GFLOPs of Ti, S, B",
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
        "illama",
        covers="the soft causal mask after the softmax (released) and before it, whole and by "
        "blocks, with its schedule and a mixer whose class token stands last; rotary positions; "
        "not the four models",
        where=(
            "scanmax.ops.soft_causal_attention",
            "scanmax.ops.rotary",
            "scanmax.models.mixers.SoftCausal",
            "scanmax.train.schedules.soft_mask_strength",
        ),
        tests=(
            "tests/ops/attention/test_distance.py::SoftCausalAttentionTest",
            "tests/models/mixers/attention/test_options.py",
            "tests/train/test_optim.py::test_the_soft_mask_ends_when_it_should",
        ),
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
        "next-vit",
        covers="E-MHSA: keys of means over consecutive tokens with batch norm, as ops and mixer; "
        "not MHCA, the hybrid blocks, the merged norms or the three models",
        where=("scanmax.ops.pool_tokens", "scanmax.models.mixers.Pooled"),
        tests=(
            "tests/ops/local/test_pooled.py::PoolTokensTest",
            "tests/parity/test_pooled_parity.py",
            "tests/models/mixers/test_mixers.py",
        ),
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
        "t2t-vit",
        covers="positive orthogonal random features of the Performer variant, as ops and a mixer; "
        "not the soft split, the token transformer or the models",
        where=(
            "scanmax.ops.positive_random_features",
            "scanmax.ops.orthogonal_random_features",
            "scanmax.models.mixers.Performer",
        ),
        tests=("tests/ops/linear/test_feature_maps.py", "tests/test_claims.py"),
        reproduced="the error falls as about one over the root of the features: "
        "benchmarks claims performer-error",
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
            "tests/models/vision/test_vssd.py::GoldenTest",
            "tests/ops/scan/test_cross.py::test_nc_ssd_is_what_all_scans_become_without_decay",
            "tests/test_claims.py",
        ),
        reproduced="both directions of the scan, and four, collapse into one global sum, which no "
        "order of the tokens changes: benchmarks claims nc-ssd-order; time linear in the tokens: "
        "nc-ssd-linear",
    ),
)
