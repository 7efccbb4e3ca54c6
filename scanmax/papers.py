"""The ledger: which papers are in the code, where, how each is verified, what is reproduced.

`python -m scanmax.papers` prints docs/papers.md; a test checks that every name and test exists. A
paper is entered when what its row claims works.
"""

import dataclasses

# Every paper that a docstring or a table of models cites, entered in the ledger or not.
TITLES = {
    "attsets": "Robust Attentional Aggregation of Deep Feature Sets for Multi-view 3D "
    "Reconstruction",
    "cas-vit": "CAS-ViT: Convolutional Additive Self-attention Vision Transformers for Efficient "
    "Mobile Applications",
    "cbam": "CBAM: Convolutional Block Attention Module",
    "conditional-cross-attention": "Conditional Cross Attention Network for Multi-Space Embedding "
    "without Entanglement in Only a SINGLE Network",
    "context-cluster": "Image as Set of Points",
    "convit-gpsa": "ConViT: Improving Vision Transformers with Soft Convolutional Inductive Biases",
    "convnext": "A ConvNet for the 2020s",
    "cvt": "CvT: Introducing Convolutions to Vision Transformers",
    "dcal": "Dual Cross-Attention Learning for Fine-Grained Visual Categorization and Object "
    "Re-Identification",
    "dbnorm-dual-inverted-softmax": "Balance Act: Mitigating Hubness in Cross-Modal Retrieval with "
    "Query and Gallery Banks",
    "deit": "Training data-efficient image transformers & distillation through attention",
    "evit": "Not All Patches are What You Need: Expediting Vision Transformers via Token "
    "Reorganizations",
    "evonorm": "Evolving Normalization-Activation Layers",
    "expedit-dense-vit": "Expediting Large-Scale Vision Transformer for Dense Prediction without "
    "Fine-tuning",
    "glmix": "Revisiting the Integration of Convolution and Attention for Vision Backbone",
    "hidden-mamba-attention": "The Hidden Attention of Mamba Models",
    "icl-linreg-multihead-softmax": "In-Context Linear Regression Demystified: Training Dynamics "
    "and Mechanistic Interpretability of Multi-Head Softmax Attention",
    "illama": "Adapting LLaMA Decoder to Vision Transformer",
    "inception-v3": "Rethinking the Inception Architecture for Computer Vision",
    "inline-attention": "Bridging the Divide: Reconsidering Softmax and Linear Attention",
    "kmax-deeplab": "kMaX-DeepLab: k-means Mask Transformer",
    "lkca": "LKCA: Large Kernel Convolutional Attention",
    "mala-magnitude-aware-linear-attention": "Rectifying Magnitude Neglect in Linear Attention",
    "lssar-softplus-attention": "Softplus Attention with Re-weighting Boosts Length Extrapolation "
    "in Large Language Models",
    "mamba2-ssd": "Transformers are SSMs: Generalized Models and Efficient Algorithms Through "
    "Structured State Space Duality",
    "mctf": "Multi-criteria Token Fusion with One-step-ahead Attention for Efficient Vision "
    "Transformers",
    "moa-sparse-attention": "MoA: Mixture of Sparse Attention for Automatic Large Language Model "
    "Compression",
    "moh": "MoH: Multi-Head Attention as Mixture-of-Head Attention",
    "mpcvit": "MPCViT: Searching for Accurate and Efficient MPC-Friendly Vision Transformer with "
    "Heterogeneous Attention",
    "next-vit": "Next-ViT: Next Generation Vision Transformer for Efficient Deployment in "
    "Realistic Industrial Scenarios",
    "pkcam": "PKCAM: Previous Knowledge Channel Attention Module",
    "rala-ravlt": "Breaking the Low-Rank Dilemma of Linear Attention",
    "rmt-masa": "RMT: Retentive Networks Meet Vision Transformers",
    "se-net": "Squeeze-and-Excitation Networks",
    "sigmoid-attention": "Theory, Analysis, and Best Practices for Sigmoid Self-Attention",
    "sit-self-slimmed": "Self-slimmed Vision Transformer",
    "soft-softmax-free": "Softmax-free Linear Transformers",
    "sparse-transformer": "Generating Long Sequences with Sparse Transformers",
    "ssa-selective-self-attention": "Selective Attention: Enhancing Transformer through "
    "Principled Context Control",
    "stablemax-perpgrad": "Grokking at the Edge of Numerical Stability",
    "stm-evaluation": "Demystify Transformers & Convolutions in Modern Image Deep Networks",
    "t2t-vit": "Tokens-to-Token ViT: Training Vision Transformers from Scratch on ImageNet",
    "tensor-attention": "How to Capture Higher-order Correlations? Generalizing Matrix Softmax "
    "Attention to Kronecker Computation",
    "tic-msa-conv": "TiC: Exploring Vision Transformer in Convolution",
    "transnext": "TransNeXt: Robust Foveal Visual Perception for Vision Transformers",
    "two-pass-softmax": "The Two-Pass Softmax Algorithm",
    "unified-long-sequence-dmha": "A Unified View of Long-Sequence Models towards Modeling "
    "Million-Scale Dependencies",
    "visual-transformer-vt": "Visual Transformers: Token-based Image Representation and "
    "Processing for Computer Vision",
    "vit-performs-convolution": "Can Vision Transformers Perform Convolution?",
    "vssd": "VSSD: Vision Mamba with Non-Causal State Space Duality",
    "xcit": "XCiT: Cross-Covariance Image Transformers",
}


@dataclasses.dataclass(frozen=True)
class Paper:
    """A row of the ledger.

    Attributes:
      key: id of the paper, one of TITLES.
      covers: which part of the paper the code holds.
      where: dotted names of the code.
      tests: pytest node ids that verify it.
      reproduced: the figure, table or claim of the paper that is shown again, and by what; "" for
        none.
    """

    key: str
    covers: str
    where: tuple[str, ...]
    tests: tuple[str, ...]
    reproduced: str = ""


LEDGER = (
    Paper(
        "attsets",
        covers="the pooling, with masks, and its module; not the two-phase schedule or the 3-D "
        "reconstruction",
        where=("scanmax.ops.set_pool", "scanmax.models.tokens.AttentionalSetPool"),
        tests=(
            "tests/ops/test_token_assignment.py::SetPoolTest",
            "tests/models/test_tokens.py::test_modules_train",
        ),
        reproduced="the order of a set does not matter, a set of one is its element",
    ),
    Paper(
        "cas-vit",
        covers="the additive token mixer with its spatial and channel gates, as op and mixer, in "
        "the released arithmetic; not the local integration block or the four models",
        where=(
            "scanmax.ops.conv_additive_attention",
            "scanmax.models.mixers.ConvAdditive",
        ),
        tests=(
            "tests/ops/test_pooled_attention.py::ConvAdditiveTest",
            "tests/models/test_mixers.py",
        ),
        reproduced="with its gates at 1 the mixer is DW(DW(Q + K) * V); linear cost in pixels "
        "(docs/claims.md)",
    ),
    Paper(
        "cbam",
        covers="both gates and the module with its norm, in any block; not the pooling variants of "
        "the released code (Lp, log-sum-exp), BAM or the ResNets",
        where=(
            "scanmax.ops.cbam_channel_gate",
            "scanmax.ops.cbam_spatial_gate",
            "scanmax.models.channel_attention.Cbam",
        ),
        tests=(
            "tests/ops/test_channel_attention.py::CbamChannelGateTest",
            "tests/ops/test_channel_attention.py::CbamSpatialGateTest",
            "tests/models/test_channel_modules.py::test_the_cbam_module_is_its_two_ops",
            "tests/parity/test_heads_parity.py::test_cbam_equals_timm",
        ),
    ),
    Paper(
        "conditional-cross-attention",
        covers="attention with the queries of a condition; not the multi-space embedding head or "
        "the triplet loss; how many queries a condition has is left open",
        where=("scanmax.ops.conditional_cross_attention",),
        tests=("tests/ops/test_cross_attention.py::ConditionalCrossAttentionTest",),
    ),
    Paper(
        "context-cluster",
        covers="the cluster mixer with both denominators, regions and its matrix, as an op and a "
        "mixer of any host; not the four models or their training",
        where=(
            "scanmax.ops.context_cluster",
            "scanmax.ops.context_cluster_matrix",
            "scanmax.models.mixers.ContextCluster",
        ),
        tests=(
            "tests/ops/test_token_clustering.py::ContextClusterTest",
            "tests/ops/test_token_clustering.py::ContextClusterMatrixTest",
            "tests/models/test_mixers.py",
        ),
        reproduced="operations linear in the points",
    ),
    Paper(
        "convit-gpsa",
        covers="gated positional self-attention without its matrix over places, its convolutional "
        "start, the mixer at any grid; not the ConViT models, whose layers have a bias on the "
        "position scores that the softmax cancels",
        where=(
            "scanmax.ops.gpsa",
            "scanmax.ops.gpsa_matrix",
            "scanmax.ops.gpsa_position_weight",
            "scanmax.models.mixers.Gpsa",
        ),
        tests=(
            "tests/ops/test_gpsa.py::GpsaTest",
            "tests/ops/test_gpsa.py::test_sharp_and_gated_it_is_a_convolution_at_any_grid",
            "tests/parity/test_heads_parity.py::test_gpsa_equals_timm",
            "tests/parity/test_heads_parity.py::test_gpsa_starts_as_timm",
            "tests/test_claims.py::test_a_claim_holds",
        ),
        reproduced="sharp and gated it equals a 3 x 3 convolution with 9 heads, inside and, "
        "repeating the edge, at the border",
    ),
    Paper(
        "convnext",
        covers="the five sizes, feature maps, training at any image size, weights of timm and of "
        "the authors; not the isotropic variants or the roadmap from ResNet",
        where=("scanmax.models.convnext.ConvNext", "scanmax.ops.depthwise_conv2d"),
        tests=(
            "tests/test_registry.py::ConvNextSuite",
            "tests/models/test_weights.py::test_golden",
            "tests/parity/test_convnext_parity.py",
            "tests/test_papers.py::test_published_multiply_adds",
        ),
        reproduced="parameters of T to XL to the last one; GFLOPs of T, S, B, L",
    ),
    Paper(
        "cvt",
        covers="attention over convolved projections, keys and values of stride 2, with both "
        "scales; not the token embedding or the three models",
        where=("scanmax.models.mixers.ConvProjection",),
        tests=(
            "tests/parity/test_pooled_parity.py",
            "tests/models/test_mixers.py",
        ),
    ),
    Paper(
        "dbnorm-dual-inverted-softmax",
        covers="inverted and dual inverted softmax over banks, static and dynamic, in logarithms; "
        "k-occurrence and its skewness; not the retrieval benchmarks",
        where=(
            "scanmax.ops.inverted_softmax",
            "scanmax.ops.dual_inverted_softmax",
            "scanmax.ops.k_occurrence",
            "scanmax.ops.hubness",
        ),
        tests=("tests/ops/test_hubness.py",),
        reproduced="on shifted synthetic queries hubs vanish and recall rises "
        "(dual-inverted-softmax in docs/claims.md); there the query bank alone does better still",
    ),
    Paper(
        "dcal",
        covers="attention rollout, global-local and pair-wise cross-attention, the loss weighed by "
        "uncertainties; not the model around them or its training",
        where=(
            "scanmax.ops.attention_rollout",
            "scanmax.ops.global_local_cross_attention",
            "scanmax.ops.pairwise_cross_attention",
            "scanmax.train.losses.uncertainty_weighted",
        ),
        tests=(
            "tests/ops/test_cross_attention.py::AttentionRolloutTest",
            "tests/ops/test_cross_attention.py::GlobalLocalCrossAttentionTest",
            "tests/ops/test_cross_attention.py::PairwiseCrossAttentionTest",
            "tests/train/test_losses_metrics.py::"
            "test_uncertainty_weights_are_best_at_the_log_of_each_loss",
            "tests/test_claims.py::test_a_claim_holds",
        ),
        reproduced="without the pair, and with all queries, both are plain attention",
    ),
    Paper(
        "deit",
        covers="Ti, S and B, the distilled models with their token, 384 pixels; hard and soft "
        "distillation; the recipe as a config, not trained on ImageNet here; weights of timm",
        where=(
            "scanmax.models.vit.VisionTransformer",
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
        "evit",
        covers="token reorganisation with and without fusion, in any ViT with plain attention by "
        "token_reduction; not the warm-up of the keep rate or training on ImageNet",
        where=(
            "scanmax.ops.token_reorganize",
            "scanmax.models.token_reduction.TokenReduction",
        ),
        tests=(
            "tests/ops/test_token_merging.py::TokenReorganizeTest",
            "tests/models/test_tokens.py::test_keeping_all_is_the_plain_model_to_the_bit",
            "tests/models/test_tokens.py::test_multiply_adds_of_the_published_schedules",
        ),
        reproduced="multiply-adds of DeiT-S at six keep rates",
    ),
    Paper(
        "expedit-dense-vit",
        covers="windowed soft clustering and reconstruction, normalised as the code or as the "
        "paper has it; not the wrapper around a trained ViT",
        where=("scanmax.ops.token_clustering", "scanmax.ops.token_reconstruction"),
        tests=(
            "tests/ops/test_token_clustering.py::TokenClusteringTest",
            "tests/ops/test_token_clustering.py::TokenReconstructionTest",
        ),
        reproduced="the identity with a centre per token, near lossless on piecewise constant maps",
    ),
    Paper(
        "glmix",
        covers="slots with clustering, attention and dispatch beside the convolution, as ops and "
        "as a mixer of any host; not GLNet or its training",
        where=(
            "scanmax.ops.slot_logits",
            "scanmax.ops.aggregate_tokens",
            "scanmax.ops.dispatch_tokens",
            "scanmax.ops.slot_matrix",
            "scanmax.models.mixers.Slots",
        ),
        tests=(
            "tests/ops/test_token_assignment.py::SlotLogitsTest",
            "tests/ops/test_token_assignment.py::SlotMatrixTest",
            "tests/models/test_mixers.py",
        ),
        reproduced="without attention the slots give a constant map back",
    ),
    Paper(
        "hidden-mamba-attention",
        covers="the matrix view of selective scan and SSD; not the rollout or the attribution",
        where=(
            "scanmax.ops.selective_scan",
            "scanmax.ops.selective_scan_matrix",
            "scanmax.ops.ssd_matrix",
        ),
        tests=(
            "tests/ops/test_ssm.py::SelectiveScanTest",
            "tests/ops/test_ssm.py::SelectiveScanMatrixTest",
            "tests/ops/test_ssm.py::SsdMatrixTest",
        ),
        reproduced="scan, recurrence and attention matrix of one layer give equal outputs",
    ),
    Paper(
        "icl-linreg-multihead-softmax",
        covers="the prompts, the one-layer model, the debiased predictor and its risk in closed "
        "form, longer prompts; not covariates that are not isotropic, several tasks, the dynamics",
        where=("scanmax.data.sequence_tasks.linear_regression", "scanmax.ops.softmax"),
        tests=(
            "tests/data/test_sequence_tasks.py::"
            "test_regression_prompts_are_linear_with_the_noise_they_say",
        ),
        reproduced="icl-regression in docs/claims.md: diagonal KQ of two signs, zero-sum OV, the "
        "risk of the debiased predictor; with its picture",
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
            "tests/ops/test_distance_attention.py::SoftCausalAttentionTest",
            "tests/models/test_attention_options.py",
            "tests/train/test_optim.py::test_the_soft_mask_ends_when_it_should",
        ),
    ),
    Paper(
        "inline-attention",
        covers="injective attention in linear order, bidirectional and causal (ours), released and "
        "printed scale, its matrix; a mixer with the dynamic local residual, compared with the "
        "authors' code; not the windowed form or the InLine models",
        where=("scanmax.ops.inline_attention", "scanmax.models.mixers.Inline"),
        tests=(
            "tests/ops/test_linear_normalisations.py::InlineAttentionTest",
            "tests/ops/test_linear_normalisations.py::test_matrices",
            "tests/models/test_linear_mixers.py::test_the_image_chooses_the_taps_of_its_values",
            "tests/test_claims.py",
        ),
        reproduced="rows sum to one; q and 2 q collide in linear attention, not here: "
        "benchmarks claims inline-is-injective",
    ),
    Paper(
        "kmax-deeplab",
        covers="k-means cross-attention and its assignment; not the decoder or segmentation",
        where=(
            "scanmax.ops.kmeans_cross_attention",
            "scanmax.ops.kmeans_cross_attention_matrix",
        ),
        tests=("tests/ops/test_token_clustering.py::KmeansCrossAttentionTest",),
        reproduced="spherical k-means step for step",
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
            "tests/ops/test_pooled_attention.py::LkcaTest",
            "tests/ops/test_pooled_attention.py::LkcaMatrixTest",
            "tests/ops/test_pooled_attention.py::test_the_lkca_matrix_is_block_toeplitz",
        ),
        reproduced="both forms are equal, the matrix is block-Toeplitz (docs/claims.md)",
    ),
    Paper(
        "lssar-softplus-attention",
        covers="length-scaled softplus and the power re-weighting as functions of logits and as "
        "normalizers of attention: matrix, streamed in linear memory with gradients, step by step; "
        "offset and power are options, the paper's choice of them is not settled; not the GPT runs "
        "or the GPU kernels",
        where=(
            "scanmax.ops.softplus_softmax",
            "scanmax.ops.reweight_power",
            "scanmax.ops.Softplus",
            "scanmax.ops.SoftplusReweighted",
        ),
        tests=(
            "tests/ops/test_softmax_positive.py",
            "tests/ops/test_attention_normalizers.py",
        ),
        reproduced="no overflow at logits of 1e4 in half precision; the entropy over length of "
        "random queries and keys (lssa-entropy in docs/claims.md) is not flatter for LSSA",
    ),
    Paper(
        "mala-magnitude-aware-linear-attention",
        covers="the attention in linear order, bidirectional and causal with state, with and "
        "without rotary positions, released and printed scale, its matrix; a mixer with 2-D "
        "rotary positions, local term and gate, compared with the authors' code; not the MAViT "
        "models",
        where=("scanmax.ops.mala_attention", "scanmax.models.mixers.Mala"),
        tests=(
            "tests/ops/test_linear_normalisations.py::MalaAttentionTest",
            "tests/ops/test_linear_normalisations.py::test_the_released_order_of_operations",
            "tests/models/test_linear_mixers.py",
            "tests/test_claims.py",
        ),
        reproduced="rows sum to one and sharpen with the query, linear attention's do not: "
        "benchmarks claims mala-sharpens",
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
            "scanmax.models.mamba2.Mamba2LM",
        ),
        tests=(
            "tests/ops/test_ssm.py::SsdTest",
            "tests/ops/test_ssm.py::test_duality_ssd_is_linear_attention",
            "tests/models/test_mamba2.py",
            "tests/models/test_weights.py::test_original_mamba2_names",
            "tests/parity/test_mamba2_parity.py",
            "tests/parity/test_ssm_parity.py",
        ),
        reproduced="the duality: recurrent, quadratic and chunked forms are equal; parameters of "
        "the five sizes to the last one; the state does not grow with the sequence",
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
            "scanmax.models.token_reduction.TokenReduction",
        ),
        tests=(
            "tests/ops/test_token_merging.py::MatchingTest",
            "tests/ops/test_token_merging.py::FuseTokensTest",
            "tests/models/test_tokens.py::test_merging_equal_tokens_changes_nothing",
            "tests/models/test_tokens.py::test_multiply_adds_of_the_published_schedules",
        ),
        reproduced="multiply-adds of DeiT-T and DeiT-S with 16 tokens fused per block",
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
            "tests/ops/test_sparse_attention.py::PerHeadWindowTest",
            "tests/ops/test_sparse_attention.py::StepTest",
            "tests/models/test_mixers.py",
        ),
    ),
    Paper(
        "moh",
        covers="gates of shared and routed heads as released and as printed, attention masked and "
        "gathered, the load-balance loss in the trainer, the mixer with a cache; not MoH-ViT on "
        "TransNeXt or the LLaMA router without parameters",
        where=(
            "scanmax.ops.moh_gates",
            "scanmax.ops.moh_attention",
            "scanmax.ops.moh_attention_matrix",
            "scanmax.ops.head_load_balance",
            "scanmax.models.mixers.MixtureOfHeads",
        ),
        tests=(
            "tests/ops/test_moh.py",
            "tests/models/test_channel_modules.py::test_moh_sows_its_balance_in_training_alone",
            "tests/train/test_step.py::test_what_a_model_sows_as_a_loss_is_added",
            "tests/test_claims.py::test_a_claim_holds",
        ),
        reproduced="with all heads on and gates of one it is multi-head attention; even routing "
        "has the least load-balance loss while tokens agree, though not the least of all",
    ),
    Paper(
        "mpcvit",
        covers="ReLU softmax, squared ReLU, 2Quad and the square norm as functions and normalizers "
        "of attention; scaling attention in both orders; heads that mix the two, with their mixer; "
        "not the search for heads, the distillation or secure inference",
        where=(
            "scanmax.ops.relu_softmax",
            "scanmax.ops.squared_relu_softmax",
            "scanmax.ops.two_quad",
            "scanmax.ops.ReluSoftmax",
            "scanmax.ops.TwoQuad",
            "scanmax.ops.scaling_attention",
            "scanmax.ops.heterogeneous_attention",
        ),
        tests=(
            "tests/ops/test_softmax_positive.py",
            "tests/ops/test_attention_normalizers.py",
            "tests/ops/test_heterogeneous_attention.py",
            "tests/ops/test_scaling_attention.py",
        ),
        reproduced="rows of ReLU softmax sum to 1 or 0",
    ),
    Paper(
        "next-vit",
        covers="E-MHSA: keys of means over consecutive tokens with batch norm, as ops and mixer; "
        "not MHCA, the hybrid blocks, the merged norms or the three models",
        where=("scanmax.ops.pool_tokens", "scanmax.models.mixers.Pooled"),
        tests=(
            "tests/ops/test_pooled_attention.py::PoolTokensTest",
            "tests/parity/test_pooled_parity.py",
            "tests/models/test_mixers.py",
        ),
    ),
    Paper(
        "pkcam",
        covers="ECA, and PKCAM over it with earlier stages, released form; not its SE and SRM "
        "variants or the ResNets",
        where=(
            "scanmax.ops.efficient_channel_attention",
            "scanmax.ops.pkcam",
            "scanmax.models.channel_attention.Pkcam",
        ),
        tests=(
            "tests/ops/test_channel_attention.py::EfficientChannelAttentionTest",
            "tests/ops/test_channel_attention.py::PkcamTest",
            "tests/models/test_channel_modules.py::test_pkcam_has_as_many_weights_as_the_authors",
            "tests/parity/test_heads_parity.py::test_eca_equals_timm",
        ),
        reproduced="k + k + (S + 1) + 2 weights a block",
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
            "tests/ops/test_linear_normalisations.py::RalaAttentionTest",
            "tests/models/test_linear_mixers.py",
            "tests/test_claims.py",
        ),
        reproduced="rank of the outputs of linear attention, RALA and softmax, on random tokens: "
        "benchmarks claims linear-attention-rank",
    ),
    Paper(
        "rmt-masa",
        covers="Manhattan decay on the logits (released) and on the weights (printed), whole and "
        "along one axis a time, with the mixer's rotary positions and LePE; 1-D and 2-D decay "
        "masks; not the models around it (stem, position convolutions, their feed-forward layer)",
        where=(
            "scanmax.ops.manhattan_attention",
            "scanmax.ops.distance_attention",
            "scanmax.ops.decay_mask_2d",
            "scanmax.models.mixers.Manhattan",
        ),
        tests=(
            "tests/ops/test_manhattan_attention.py",
            "tests/ops/test_distance_attention.py",
            "tests/models/test_attention_options.py",
            "tests/test_claims.py::test_a_claim_holds",
        ),
        reproduced="the 2-D mask is the product of two 1-D masks; time of the decomposed form over "
        "HW (docs/claims.md)",
    ),
    Paper(
        "se-net",
        covers="the gate, as an op, a module and an option of every block; not the ResNets",
        where=("scanmax.ops.squeeze_excite", "scanmax.models.channel_attention.SqueezeExcite"),
        tests=(
            "tests/ops/test_channel_attention.py::SqueezeExciteTest",
            "tests/models/test_channel_modules.py::test_blocks_take_every_gate",
            "tests/parity/test_heads_parity.py::test_squeeze_excite_equals_timm",
        ),
    ),
    Paper(
        "sigmoid-attention",
        covers="sigmoid attention with the bias -log n, dense, streamed and step by step; not the "
        "GPU kernel or training runs",
        where=("scanmax.ops.sigmoid_weights", "scanmax.ops.Sigmoid"),
        tests=(
            "tests/ops/test_softmax.py::SigmoidWeightsTest",
            "tests/ops/test_attention.py::DotProductAttentionTest",
            "tests/ops/test_attention.py::AttentionStepTest",
            "tests/test_papers.py::test_sigmoid_attention_needs_its_bias",
        ),
        reproduced="with the bias the output keeps softmax's scale from 64 to 2048 keys, without "
        "it the excess grows with their number",
    ),
    Paper(
        "sit-self-slimmed",
        covers="token slimming and its reverse as modules; not the SiT models or the distillation",
        where=(
            "scanmax.ops.aggregate_tokens",
            "scanmax.models.tokens.TokenSlimming",
            "scanmax.models.tokens.ReverseTokenSlimming",
        ),
        tests=(
            "tests/ops/test_token_assignment.py::AggregateTokensTest",
            "tests/models/test_tokens.py::test_slimmed_tokens_lie_between_the_tokens",
        ),
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
            "tests/ops/test_soft_attention.py",
            "tests/models/test_higher_order_mixers.py",
        ),
        reproduced="the iteration finds the pseudo-inverse; all tokens as landmarks give the "
        "kernel; the normalisation bounds the norm; time linear in T (time-slopes)",
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
            "tests/ops/test_sparse_attention.py",
            "tests/models/test_mixers.py",
        ),
        reproduced="gather form equals the masked matrix; all earlier tokens in two hops; pairs "
        "grow as n^1.5 (docs/claims.md)",
    ),
    Paper(
        "ssa-selective-self-attention",
        covers="temperatures of queries (token and position term, summed or multiplied, which is "
        "not settled) and of values, the released position-only variant, and the mixer, which "
        "generates; not the fine-tuning of language models",
        where=(
            "scanmax.ops.selective_attention",
            "scanmax.ops.selective_temperature",
            "scanmax.models.mixers.SelectiveAttention",
        ),
        tests=(
            "tests/ops/test_selective_attention.py",
            "tests/models/test_attention_options.py",
            "tests/test_claims.py::test_a_claim_holds",
        ),
        reproduced="the entropy of a row stays where it is as the context grows; less than 0.5% "
        "new parameters (docs/claims.md)",
    ),
    Paper(
        "stablemax-perpgrad",
        covers="StableMax, its logarithm, its cross-entropy and StableMax attention; perpGrad as "
        "an optax transformation and a field of the trainer's config; modular arithmetic; not "
        "sparse parity, the transformer or MNIST runs",
        where=(
            "scanmax.ops.stablemax",
            "scanmax.ops.log_stablemax",
            "scanmax.ops.Stablemax",
            "scanmax.train.losses.stablemax_cross_entropy",
            "scanmax.train.optim.perp_grad",
            "scanmax.data.modular.modular_arithmetic",
        ),
        tests=(
            "tests/ops/test_softmax.py::StablemaxTest",
            "tests/ops/test_softmax.py::LogStablemaxTest",
            "tests/ops/test_softmax.py::NumericsTest",
            "tests/train/test_losses_metrics.py::test_stablemax_cross_entropy",
            "tests/train/test_optim.py::test_perp_grad_is_orthogonal_and_keeps_the_norm",
            "tests/data/test_modular.py",
        ),
        reproduced="a gradient of the right class at logit gaps where softmax has exactly none; "
        "modular addition stalls in float32 and groks with perpGrad; StableMax, which the paper "
        "trains for 80000 steps, has not grokked after 6000 (docs/claims.md, with the picture)",
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
            "tests/ops/test_window_attention.py",
            "tests/parity/test_local_parity.py",
            "tests/models/test_mixers.py",
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
        tests=("tests/ops/test_feature_maps.py", "tests/test_claims.py"),
        reproduced="the error falls as about one over the root of the features: "
        "benchmarks claims performer-error",
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
            "tests/ops/test_tensor_attention.py",
            "tests/models/test_higher_order_mixers.py::test_tensor_reads_pairs",
            "tests/data/test_sequence_tasks.py::test_match3_is_what_all_triples_say",
        ),
        reproduced="one head solves Match3 by construction and by training, softmax attention of "
        "its size does not; the polynomial's error by degree and entries; times near T^3 and T",
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
        tests=("tests/ops/test_local_attention.py", "tests/models/test_local_mixers.py"),
        reproduced="an average filter for equal scores; the same interior at 64 and 96 pixels "
        "(docs/claims.md)",
    ),
    Paper(
        "transnext",
        covers="aggregated attention as the released code has it (query embedding, local bias, "
        "log-spaced bias of pooled keys, learnable tokens after the softmax) and length-scaled "
        "cosine attention, as ops and mixers; not the gated feed-forward layer and the four models",
        where=(
            "scanmax.ops.aggregated_attention",
            "scanmax.ops.log_spaced_coordinates",
            "scanmax.models.mixers.AggregatedAttention",
            "scanmax.models.mixers.CosineAttention",
        ),
        tests=(
            "tests/ops/test_aggregated_attention.py",
            "tests/ops/test_cosine_attention.py",
            "tests/ops/test_relative_position.py",
            "tests/models/test_mixers.py",
        ),
        reproduced="one softmax over 9 + P keys without unfolding them (docs/claims.md)",
    ),
    Paper(
        "two-pass-softmax",
        covers="the two-pass algorithm, its (mantissa, exponent) pairs as a mergeable sum, and "
        "attention over it; not the AVX kernels",
        where=(
            "scanmax.ops.softmax",
            "scanmax.ops.extexp",
            "scanmax.ops.extexp_add",
            "scanmax.ops.extexp_sum",
            "scanmax.ops.TwoPassSoftmax",
        ),
        tests=(
            "tests/ops/test_softmax.py::SoftmaxTest",
            "tests/ops/test_softmax.py::ExtexpTest",
            "tests/ops/test_softmax.py::NumericsTest",
        ),
        reproduced="no overflow without a pass for the maximum; the speed-up is not claimed",
    ),
    Paper(
        "unified-long-sequence-dmha",
        covers="attention over devices by query rows (a ring of keys, with the balanced causal "
        "order) and by heads, gradients included; the layout is this project's, the paper does "
        "not say its own. Not the survey's other models, nor the sparse-capacity one",
        where=("scanmax.ops.context_attention", "scanmax.ops.zigzag_order"),
        tests=("tests/ops/test_context_attention.py",),
        reproduced="memory of a device is its share, 1 / devices; the factor of 40 on four GPUs "
        "was not measured",
    ),
    Paper(
        "visual-transformer-vt",
        covers="filter and recurrent tokenizer, the layer between tokens, the projector, and the "
        "three as a mixer of any host; not VT-ResNet or VT-FPN",
        where=(
            "scanmax.models.tokens.FilterTokenizer",
            "scanmax.models.tokens.RecurrentTokenizer",
            "scanmax.models.tokens.TokenTransformer",
            "scanmax.models.tokens.TokenProjector",
            "scanmax.models.mixers.VisualTokens",
        ),
        tests=(
            "tests/models/test_tokens.py::test_tokenizers_and_projector_are_their_equations",
            "tests/models/test_mixers.py",
        ),
    ),
    Paper(
        "vit-performs-convolution",
        covers="the weights of an attention layer over patches that convolves, exactly or as a "
        "start of training; not heads narrower than a patch or the two-phase training",
        where=("scanmax.ops.convolution_attention_weights",),
        tests=(
            "tests/ops/test_conv_attention.py",
            "tests/test_claims.py::test_a_claim_holds",
        ),
        reproduced="equality with the convolution for kernels of 3, 5, 7 over patches of 2 and 4, "
        "and blocks as independent as there are heads",
    ),
    Paper(
        "vssd",
        covers="non-causal SSD, its matrix, the block, the four sizes; outputs of the authors' "
        "code as a golden file; not trained on ImageNet here",
        where=(
            "scanmax.ops.nc_ssd",
            "scanmax.ops.nc_ssd_matrix",
            "scanmax.models.mixers.NcSsd",
            "scanmax.models.vssd.Vssd",
        ),
        tests=(
            "tests/ops/test_ssm.py::NonCausalSsdTest",
            "tests/ops/test_ssm.py::NonCausalSsdMatrixTest",
            "tests/ops/test_ssm.py::"
            "test_non_causal_is_both_directions_without_decay_less_the_diagonal",
            "tests/ops/test_ssm.py::test_non_causal_does_not_know_the_order_of_tokens",
            "tests/models/test_vssd.py::VssdSuite",
            "tests/models/test_vssd.py::GoldenTest",
        ),
        reproduced="both directions of the scan collapse into one global sum",
    ),
    Paper(
        "xcit",
        covers="cross-covariance attention as an op and a mixer; not the local patch interaction, "
        "class attention or the models",
        where=("scanmax.ops.cross_covariance_attention", "scanmax.models.mixers.CrossCovariance"),
        tests=(
            "tests/ops/test_cross_covariance.py::CrossCovarianceAttentionTest",
            "tests/parity/test_xcit_parity.py",
        ),
        reproduced="time linear in the tokens: benchmarks claims time-slopes",
    ),
)


def table() -> str:
    """docs/papers.md: the ledger as markdown."""
    lines = [
        "# Papers",
        "",
        "Generated from `scanmax/papers.py` by `make docs`; what a row names is checked by a test.",
        "",
        "| paper | what is covered | where | verified by | reproduced |",
        "| --- | --- | --- | --- | --- |",
    ]
    for paper in sorted(LEDGER, key=lambda paper: paper.key):
        where = ", ".join(f"`{name}`" for name in paper.where)
        tests = ", ".join(f"`{name}`" for name in paper.tests)
        cells = (
            f"{TITLES[paper.key]} (`{paper.key}`)",
            paper.covers,
            where,
            tests,
            paper.reproduced or "-",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
