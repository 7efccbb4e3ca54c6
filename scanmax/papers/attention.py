"""Dot-product attention: heads, positions, temperatures, across images, of higher order."""

from scanmax.papers.paper import Paper

LEDGER = (
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
        "start, the mixer at any grid, the networks Ti, S, B and their wider ones, with the bias "
        "on the scores of places that the softmax cancels, weights of timm and the release; not "
        "training on parts of ImageNet",
        where=(
            "scanmax.ops.gpsa",
            "scanmax.ops.gpsa_matrix",
            "scanmax.ops.gpsa_position_weight",
            "scanmax.models.mixers.Gpsa",
            "scanmax.models.vision.convit.ConVit",
        ),
        tests=(
            "tests/ops/attention/test_gpsa.py::GpsaTest",
            "tests/ops/attention/test_gpsa.py::test_sharp_and_gated_it_is_a_convolution_at_any_grid",
            "tests/parity/test_heads_parity.py::test_gpsa_equals_timm",
            "tests/parity/test_heads_parity.py::test_gpsa_starts_as_timm",
            "tests/models/vision/test_convit.py",
            "tests/parity/test_convit_parity.py",
            "tests/test_claims.py::test_a_claim_holds",
        ),
        reproduced="sharp and gated it equals a 3 x 3 convolution with 9 heads, inside and, "
        "repeating the edge, at the border; parameters of all six sizes to the last one",
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
        "the four models, to which the authors' code gives the same numbers; not the recipes, "
        "trained weights, or quantisation",
        where=(
            "scanmax.ops.soft_causal_attention",
            "scanmax.ops.rotary",
            "scanmax.models.mixers.SoftCausal",
            "scanmax.models.vision.illama.Illama",
            "scanmax.train.schedules.soft_mask_strength",
        ),
        tests=(
            "tests/ops/attention/test_distance.py::SoftCausalAttentionTest",
            "tests/models/mixers/attention/test_options.py",
            "tests/train/test_optim.py::test_the_soft_mask_ends_when_it_should",
            "tests/models/vision/test_illama.py",
            "tests/models/vision/test_authors.py",
        ),
    ),
    Paper(
        "matching-networks",
        covers="attention over a support set by cosines, with examples left out and any scale; not "
        "the embeddings in the context of the set, episodes, or the network",
        where=("scanmax.ops.cosine_support_attention",),
        tests=("tests/ops/attention/test_cosine.py::CosineSupportAttentionTest",),
        reproduced="with one shot a class it is the softmax of cosines: "
        "tests/ops/attention/test_cosine.py::"
        "test_with_one_shot_a_class_it_is_the_softmax_of_cosines",
    ),
    Paper(
        "moh",
        covers="gates of shared and routed heads as released and as printed, attention masked and "
        "gathered, the load-balance loss in the trainer, the mixer with a cache, the router of "
        "MoH-LLaMA by the lengths of queries with gates of one or zero, straight through in "
        "training, and the four MoH-ViT on TransNeXt, to which the authors' code gives the same "
        "numbers; not the continued training of LLaMA3-8B, whose code is not released",
        where=(
            "scanmax.ops.moh_gates",
            "scanmax.ops.moh_query_logits",
            "scanmax.ops.moh_quantized_gates",
            "scanmax.ops.moh_attention",
            "scanmax.ops.moh_attention_matrix",
            "scanmax.ops.head_load_balance",
            "scanmax.models.mixers.MixtureOfHeads",
            "scanmax.models.vision.moh_vit.MohVit",
        ),
        tests=(
            "tests/ops/attention/test_moh.py",
            "tests/models/parts/test_channel_attention.py::test_moh_sows_its_balance_in_training_alone",
            "tests/train/test_step.py::test_what_a_model_sows_as_a_loss_is_added",
            "tests/models/vision/test_moh_vit.py",
            "tests/models/vision/test_authors.py",
            "tests/test_claims.py::test_a_claim_holds",
        ),
        reproduced="with all heads on and gates of one it is multi-head attention; even routing "
        "has the least load-balance loss while tokens agree, though not the least of all",
    ),
    Paper(
        "muon-mla-moe",
        covers="multi-head latent attention expanded and absorbed, with the cache of latents and "
        "the shared rotary key, the mixer in every host, whose layer transformers' DeepSeek-V3 "
        "agrees with; Muon by optax on matrices that the parameters name; experts and their "
        "balance loss; the three in one small decoder; not the paper's decoders of 30M to 200M, "
        "DeepSeek's router by biases, YaRN, or its weights",
        where=(
            "scanmax.ops.latent_attention",
            "scanmax.ops.latent_attention_matrix",
            "scanmax.ops.latent_attention_step",
            "scanmax.ops.init_latent_cache",
            "scanmax.ops.extend_latent_cache",
            "scanmax.models.mixers.LatentAttention",
            "scanmax.models.parts.experts.ExpertMlp",
            "scanmax.configs.bytes_mla",
        ),
        tests=(
            "tests/ops/attention/test_latent.py",
            "tests/models/mixers/test_mixers.py",
            "tests/models/mixers/test_lm_mixers.py",
            "tests/parity/test_latent_parity.py",
            "tests/train/test_parameter_roles.py",
            "tests/test_claims.py::test_a_claim_holds",
        ),
        reproduced="absorbed equals expanded, a cache of 1/57 at DeepSeek-V2's sizes, singular "
        "values of Muon's update; muon-decoder in docs/claims.md: a small decoder by Muon "
        "is at AdamW's loss in 70% of the steps, not in half",
    ),
    Paper(
        "rmt-masa",
        covers="Manhattan decay on the logits (released) and on the weights (printed), whole and "
        "along one axis a time, with the mixer's rotary positions and LePE; 1-D and 2-D decay "
        "masks; the four models, to which the authors' code gives the same numbers; not token "
        "labelling, detection and segmentation",
        where=(
            "scanmax.ops.manhattan_attention",
            "scanmax.ops.distance_attention",
            "scanmax.ops.decay_mask_2d",
            "scanmax.models.mixers.Manhattan",
            "scanmax.models.vision.rmt.Rmt",
        ),
        tests=(
            "tests/ops/attention/test_manhattan.py",
            "tests/ops/attention/test_distance.py",
            "tests/models/mixers/attention/test_options.py",
            "tests/models/vision/test_rmt.py",
            "tests/models/vision/test_authors.py",
            "tests/test_claims.py::test_a_claim_holds",
        ),
        reproduced="the 2-D mask is the product of two 1-D masks; time of the decomposed form over "
        "HW (docs/claims.md); parameters to the last one and GFLOPs of T, S, B and L",
    ),
    Paper(
        "soft-softmax-free",
        covers="the Gaussian kernel, exact and through landmarks, the pseudo-inverse by Newton "
        "with its own gradient, the symmetric normalisation of SOFT++, the mixer with the released "
        "landmarks, and the ten networks of the release, to the first five of which the authors' "
        "code gives the same numbers (that of the others does not run as it is); not the recipes, "
        "trained weights, detection or segmentation",
        where=(
            "scanmax.ops.newton_pinv",
            "scanmax.ops.soft_attention",
            "scanmax.ops.soft_attention_matrix",
            "scanmax.models.mixers.Soft",
            "scanmax.models.vision.soft.SoftVit",
        ),
        tests=(
            "tests/ops/attention/test_soft.py",
            "tests/models/mixers/attention/test_higher_order.py",
            "tests/models/vision/test_soft.py",
            "tests/models/vision/test_authors.py",
        ),
        reproduced="the iteration finds the pseudo-inverse; all tokens as landmarks give the "
        "kernel; the normalisation bounds the norm; time linear in T (time-slopes); parameters of "
        "the released code (its Small has 39 M, the paper's 24 M) and GFLOPs of Tiny: "
        "tests/models/vision/test_soft.py",
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
            "tests/ops/attention/test_selective.py",
            "tests/models/mixers/attention/test_options.py",
            "tests/test_claims.py::test_a_claim_holds",
        ),
        reproduced="the entropy of a row stays where it is as the context grows; less than 0.5% "
        "new parameters (docs/claims.md)",
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
        "vit-comer",
        covers="multi-scale deformable attention by gathers, to which the release's own check "
        "gives the same numbers and gradients, with its maps as a module and of one scale as a "
        "mixer; the backbones of the release's segmentation, to which the authors' code gives the "
        "same numbers: tiny, small and base, and around a plain ViT-L the interactions of the "
        "large one; with a head for whole images that the release has not. Not its BEiTv2 and the "
        "windows of its DINOv2, trained weights, or detection and segmentation themselves",
        where=(
            "scanmax.ops.deformable_attention",
            "scanmax.models.parts.deformable.DeformableAttention",
            "scanmax.models.mixers.Deformable",
            "scanmax.models.parts.levels.ReceptiveFields",
            "scanmax.models.parts.levels.LevelsToTokens",
            "scanmax.models.parts.levels.TokensToLevels",
            "scanmax.models.vision.vit_comer.VitComer",
        ),
        tests=(
            "tests/models/vision/test_vit_comer.py",
            "tests/models/vision/test_authors.py",
            "tests/models/parts/test_levels.py",
            "tests/ops/attention/test_deformable.py::DeformableAttentionTest",
            "tests/ops/attention/test_deformable.py::test_no_more_is_kept_for_more_points",
            "tests/models/parts/test_deformable.py",
            "tests/models/mixers/test_mixers.py",
            "tests/parity/test_deformable_parity.py",
        ),
        reproduced="offsets of nothing read the pixel itself, and weights of nothing are a mean: "
        "tests/models/parts/test_deformable.py; parameters of the release's three with its heads, "
        "and tokens that start as the plain ViT's: tests/models/vision/test_vit_comer.py",
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
    Paper(
        "wait-k",
        covers="the mask of the schedule for cross-attention, whose k may differ by row and "
        "be drawn anew for each batch in one program, and the average lagging of a translation; "
        "not the translation models, or their training",
        where=("scanmax.ops.wait_k_mask", "scanmax.ops.average_lagging"),
        tests=("tests/ops/attention/test_wait_k.py",),
        reproduced="what is written does not change with what has not been read: "
        "tests/ops/attention/test_wait_k.py::test_what_has_not_been_read_changes_nothing; wait-k "
        "lags by k: tests/ops/attention/test_wait_k.py::"
        "test_lags_are_those_of_the_loops_and_of_wait_k_itself",
    ),
)
