"""Attention: heads, positions, across images and devices, and gates of channels."""

from scanmax.papers.paper import Paper

LEDGER = (
    Paper(
        "cbam",
        covers="both gates and the module with its norm, in any block; not the pooling variants of "
        "the released code (Lp, log-sum-exp), BAM or the ResNets",
        where=(
            "scanmax.ops.cbam_channel_gate",
            "scanmax.ops.cbam_spatial_gate",
            "scanmax.models.parts.channel_attention.Cbam",
        ),
        tests=(
            "tests/ops/channels/test_attention.py::CbamChannelGateTest",
            "tests/ops/channels/test_attention.py::CbamSpatialGateTest",
            "tests/models/parts/test_channel_attention.py::test_the_cbam_module_is_its_two_ops",
            "tests/parity/test_heads_parity.py::test_cbam_equals_timm",
        ),
    ),
    Paper(
        "conditional-cross-attention",
        covers="attention with the queries of a condition; not the multi-space embedding head or "
        "the triplet loss; how many queries a condition has is left open",
        where=("scanmax.ops.conditional_cross_attention",),
        tests=("tests/ops/attention/test_cross.py::ConditionalCrossAttentionTest",),
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
            "tests/ops/attention/test_gpsa.py::GpsaTest",
            "tests/ops/attention/test_gpsa.py::test_sharp_and_gated_it_is_a_convolution_at_any_grid",
            "tests/parity/test_heads_parity.py::test_gpsa_equals_timm",
            "tests/parity/test_heads_parity.py::test_gpsa_starts_as_timm",
            "tests/test_claims.py::test_a_claim_holds",
        ),
        reproduced="sharp and gated it equals a 3 x 3 convolution with 9 heads, inside and, "
        "repeating the edge, at the border",
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
            "tests/ops/attention/test_cross.py::AttentionRolloutTest",
            "tests/ops/attention/test_cross.py::GlobalLocalCrossAttentionTest",
            "tests/ops/attention/test_cross.py::PairwiseCrossAttentionTest",
            "tests/train/test_losses_metrics.py::"
            "test_uncertainty_weights_are_best_at_the_log_of_each_loss",
            "tests/test_claims.py::test_a_claim_holds",
        ),
        reproduced="without the pair, and with all queries, both are plain attention",
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
            "tests/ops/attention/test_moh.py",
            "tests/models/parts/test_channel_attention.py::test_moh_sows_its_balance_in_training_alone",
            "tests/train/test_step.py::test_what_a_model_sows_as_a_loss_is_added",
            "tests/test_claims.py::test_a_claim_holds",
        ),
        reproduced="with all heads on and gates of one it is multi-head attention; even routing "
        "has the least load-balance loss while tokens agree, though not the least of all",
    ),
    Paper(
        "pkcam",
        covers="ECA, and PKCAM over it with earlier stages, released form; not its SE and SRM "
        "variants or the ResNets",
        where=(
            "scanmax.ops.efficient_channel_attention",
            "scanmax.ops.pkcam",
            "scanmax.models.parts.channel_attention.Pkcam",
        ),
        tests=(
            "tests/ops/channels/test_attention.py::EfficientChannelAttentionTest",
            "tests/ops/channels/test_attention.py::PkcamTest",
            "tests/models/parts/test_channel_attention.py::test_pkcam_has_as_many_weights_as_the_authors",
            "tests/parity/test_heads_parity.py::test_eca_equals_timm",
        ),
        reproduced="k + k + (S + 1) + 2 weights a block",
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
            "tests/ops/attention/test_manhattan.py",
            "tests/ops/attention/test_distance.py",
            "tests/models/mixers/attention/test_options.py",
            "tests/test_claims.py::test_a_claim_holds",
        ),
        reproduced="the 2-D mask is the product of two 1-D masks; time of the decomposed form over "
        "HW (docs/claims.md)",
    ),
    Paper(
        "se-net",
        covers="the gate, as an op, a module and an option of every block; not the ResNets",
        where=(
            "scanmax.ops.squeeze_excite",
            "scanmax.models.parts.channel_attention.SqueezeExcite",
        ),
        tests=(
            "tests/ops/channels/test_attention.py::SqueezeExciteTest",
            "tests/models/parts/test_channel_attention.py::test_blocks_take_every_gate",
            "tests/parity/test_heads_parity.py::test_squeeze_excite_equals_timm",
        ),
    ),
    Paper(
        "unified-long-sequence-dmha",
        covers="attention over devices by query rows (a ring of keys, with the balanced causal "
        "order) and by heads, every normalizer, gradients included, and in the trainer's models; "
        "the layout is this project's, the paper does not say its own. Not the survey's other "
        "models, nor the sparse-capacity one",
        where=(
            "scanmax.ops.context_attention",
            "scanmax.ops.zigzag_order",
            "scanmax.models.mixers.attention.dot_product.Attention",
        ),
        tests=(
            "tests/ops/context/test_attention.py",
            "tests/train/test_sharded_models.py::test_sharded_models_equal_one_device",
        ),
        reproduced="memory of a device is its share, 1 / devices; the factor of 40 on four GPUs "
        "was not measured",
    ),
    Paper(
        "vit-performs-convolution",
        covers="the weights of an attention layer over patches that convolves, exactly or as a "
        "start of training; not heads narrower than a patch or the two-phase training",
        where=("scanmax.ops.convolution_attention_weights",),
        tests=(
            "tests/ops/attention/test_convolution.py",
            "tests/test_claims.py::test_a_claim_holds",
        ),
        reproduced="equality with the convolution for kernels of 3, 5, 7 over patches of 2 and 4, "
        "and blocks as independent as there are heads",
    ),
)
