"""Models of images that bring no operator of their own."""

from scanmax.papers.paper import Paper

LEDGER = (
    Paper(
        "all-cnn",
        covers="networks A, B and C with their three ablations each, and the network B of ImageNet "
        "with paddings that leave its 6x6 places; not guided backpropagation, the recipe with its "
        "dropout and learning rates as a config, or trained weights",
        where=("scanmax.models.vision.all_cnn.AllCnn",),
        tests=("tests/models/vision/test_all_cnn.py::AllCnnSuite",),
        reproduced="parameters by the paper's lists of layers; All-CNN and ConvPool-CNN weigh the "
        "same: tests/models/vision/test_all_cnn.py::"
        "test_the_comparison_changes_reductions_alone",
    ),
    Paper(
        "convmixer",
        covers="the three published models, weights of timm; not the CIFAR sizes or the recipe",
        where=("scanmax.models.vision.convmixer.ConvMixer",),
        tests=(
            "tests/models/vision/test_convmixer.py::ConvMixerSuite",
            "tests/parity/test_convmixer_parity.py",
        ),
        reproduced="parameters of all three to the last one",
    ),
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
        "crossvit",
        covers="all nine models and the two at 408 pixels, weights of timm and of the release, any "
        "image of whole patches; not the recipe, or other fusions of the ablation",
        where=("scanmax.models.vision.crossvit.CrossVit",),
        tests=(
            "tests/models/vision/test_crossvit.py",
            "tests/parity/test_crossvit_parity.py",
        ),
        reproduced="parameters of all eleven to the last one; GFLOPs of Ti",
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
        "dhvt",
        covers="attention with tokens of heads as a mixer, the dynamic aggregation MLP, the "
        "overlapping patches as a stem of every ViT, and the eight networks of the release for "
        "CIFAR-100, DomainNet and ImageNet, to which the authors' code gives the same numbers; not "
        "the recipes or trained weights",
        where=(
            "scanmax.models.mixers.HeadTokens",
            "scanmax.models.parts.aggregation_mlp.AggregationMlp",
            "scanmax.models.parts.stems.OverlappingStem",
            "scanmax.models.vision.dhvt.Dhvt",
        ),
        tests=(
            "tests/models/mixers/attention/test_head_tokens.py",
            "tests/models/vision/test_dhvt.py",
            "tests/models/vision/test_authors.py",
        ),
        reproduced="parameters of all eight, S at 2 pixels a patch for CIFAR-100 the paper's "
        "22.8 M: tests/models/vision/test_dhvt.py",
    ),
    Paper(
        "dpn",
        covers="DPN-68, 92, 98 and 131, and timm's 48b, 68b and 107, weights of timm; not the "
        "detection and segmentation networks, or pooling by mean and maximum at test time",
        where=("scanmax.models.vision.dpn.Dpn", "scanmax.models.vision.dpn.DualPathBlock"),
        tests=(
            "tests/models/vision/test_dpn.py::DpnSuite",
            "tests/models/vision/test_dpn.py::test_every_published_size_has_its_exact_count",
            "tests/models/vision/test_dpn.py::test_paths_of_a_block",
            "tests/parity/test_dpn_parity.py",
        ),
        reproduced="parameters of all to the last one; GFLOPs of 92: "
        "tests/models/vision/test_dpn.py::test_multiply_adds_are_the_papers",
    ),
    Paper(
        "efficientnet",
        covers="B0 to B8 and L2 under timm's names with paddings of both kinds, weights of timm, "
        "which gives the same numbers, and timm's recipe of B2; not the search or noisy students",
        where=("scanmax.models.vision.efficientnet.EfficientNet",),
        tests=(
            "tests/models/vision/test_efficientnet.py",
            "tests/parity/test_efficientnet_parity.py",
        ),
        reproduced="parameters of all to the last one; multiply-adds: "
        "tests/models/vision/test_efficientnet.py::test_multiply_adds_are_the_papers",
    ),
    Paper(
        "inception-v3",
        covers="the network with its auxiliary head, which training weighs like the first, weights "
        "of timm and torchvision, label smoothing; not RMSProp with its clipping, the ensembles, "
        "or low-resolution inputs",
        where=(
            "scanmax.models.vision.inception_v3.InceptionV3",
            "scanmax.train.losses.softmax_cross_entropy",
        ),
        tests=(
            "tests/models/vision/test_inception_v3.py::InceptionV3Suite",
            "tests/models/vision/test_inception_v3.py::test_auxiliary_head",
            "tests/parity/test_inception_v3_parity.py",
        ),
        reproduced="parameters with and without the auxiliary head; what factorised kernels weigh: "
        "tests/models/vision/test_inception_v3.py::test_factorised_kernels_are_lighter",
    ),
    Paper(
        "ddrnet",
        covers="the three classifiers of the release, to which the authors' code gives the same "
        "numbers, and the weights of their ImageNet checkpoints; not the pyramid pooling (DAPPM), "
        "the heads for segmentation, or the recipes",
        where=("scanmax.models.vision.ddrnet.Ddrnet",),
        tests=("tests/models/vision/test_ddrnet.py", "tests/models/vision/test_authors.py"),
        reproduced="parameters of the authors' three modules: tests/models/vision/test_ddrnet.py::"
        "test_parameters_are_those_of_the_authors_modules",
    ),
    Paper(
        "moat",
        covers="the nine networks of the release with positions and without, its attention in the "
        "whole map or in windows with one table for any size; not the recipes, trained weights, or "
        "detection and segmentation",
        where=("scanmax.models.vision.moat.Moat", "scanmax.models.mixers.WindowAttention"),
        tests=("tests/models/vision/test_moat.py", "tests/models/vision/test_authors.py"),
        reproduced="parameters of all eighteen, GFLOPs of the nine without positions, and windows "
        "that convolutions cross where attention does not: tests/models/vision/test_moat.py",
    ),
    Paper(
        "vit-resnas",
        covers="residual spatial reduction, and the networks of the release's network_def, to "
        "which the authors' code gives the same numbers: ViT-Res-Tiny, from which the search "
        "began, and ViT-ResNAS-Tiny, Small and Medium; layer norm over a prefix of the channels, "
        "of another width for each example; not the super-network, the evolutionary search, the "
        "mixing of tokens with its head of patches, or trained weights",
        where=(
            "scanmax.ops.masked_layer_norm",
            "scanmax.models.parts.spatial_reduction.ResidualReduction",
            "scanmax.models.vision.vit_resnas.VitRes",
        ),
        tests=(
            "tests/models/vision/test_vit_resnas.py",
            "tests/models/vision/test_authors.py",
            "tests/ops/test_norm.py::MaskedLayerNormTest",
        ),
        reproduced="parameters of the three, which count the head of patches, and their "
        "multiply-adds: tests/models/vision/test_vit_resnas.py",
    ),
    Paper(
        "three-things-vit",
        covers="blocks of branches side by side (36x1, 18x2, 12x3) with weights of timm, the stem "
        "that keeps patches apart with batch norms or layer norms, attention trained alone by a "
        "pattern of what is frozen; not the recipe, or masked pre-training behind the stem",
        where=(
            "scanmax.models.blocks.ParallelBlock",
            "scanmax.models.parts.stems.HmlpStem",
            "scanmax.models.vision.vit.VisionTransformer",
        ),
        tests=(
            "tests/models/vision/test_deep_vit.py",
            "tests/test_registry.py::VitSuite",
            "tests/parity/test_vit_parity.py",
        ),
        reproduced="branches side by side cost what blocks in turn do, and differ at second order "
        "of their scale; a patch of the stem is its own, weights of the stem at three widths: "
        "tests/models/vision/test_deep_vit.py",
    ),
    Paper(
        "uniformer",
        covers="the local relation as a mixer, and the five image models of the release with both "
        "stems, to which the authors' code gives the same numbers; not token labelling and its "
        "large model, the light models, video, detection, segmentation and poses",
        where=(
            "scanmax.models.mixers.LocalRelation",
            "scanmax.models.vision.uniformer.UniFormer",
        ),
        tests=(
            "tests/models/mixers/test_mixers.py",
            "tests/models/vision/test_uniformer.py",
            "tests/models/vision/test_authors.py",
        ),
        reproduced="parameters to the last one and GFLOPs of S, S+ and B",
    ),
    Paper(
        "vgg",
        covers="the configurations A, B, D and E, with batch norms too, the wide layers over maps "
        "of any size, weights of timm and torchvision; not C, the local response norm of A, or the "
        "recipe with its jitter of scales",
        where=("scanmax.models.vision.vgg.Vgg",),
        tests=(
            "tests/models/vision/test_vgg.py::VggSuite",
            "tests/models/vision/test_vgg.py::test_names_of_torchvision",
            "tests/parity/test_vgg_parity.py",
        ),
        reproduced="parameters of all four to the last one; n stacked 3x3 convolutions see 2n + 1 "
        "pixels: tests/models/vision/test_vgg.py::"
        "test_stacked_convolutions_see_two_pixels_more_each",
    ),
    Paper(
        "passt-patchout",
        covers="structured and unstructured Patchout of any ViT, for the batch as released or for "
        "each image, positions of rows and of columns, cut for shorter clips; not the "
        "spectrogram's front, overlapping patches, weights or AudioSet",
        where=(
            "scanmax.models.parts.patchout.Patchout",
            "scanmax.models.parts.positions.axis_positions",
            "scanmax.models.vision.vit.VisionTransformer",
        ),
        tests=(
            "tests/models/parts/test_patchout.py::test_what_stays_is_in_its_order_and_drawn_alike",
            "tests/models/parts/test_patchout.py::test_training_reads_what_stays_and_evaluation_all",
            "tests/models/parts/test_patchout.py::test_positions_are_those_of_a_row_and_of_a_column",
        ),
        reproduced="a step's operations are 0.57 and 0.51 of those of all patches with 9 and 8 of "
        "16; from nothing, in 1500 steps, a small ViT learns digits later by it, 53% and 46% for "
        "71%: `benchmarks claims digits-patchout`",
    ),
    Paper(
        "vit-path-ensemble",
        covers="the paths of any plain ViT and what the head says of their sum, a learned scale of "
        "each path in that sum, paths pruned from it, accuracy without each, and short paths that "
        "learn from the whole; the scales begin where the option says, which paths go and which "
        "are short is the user's, since no code is published; not the paper's models or tables",
        where=(
            "scanmax.models.vision.vit.VisionTransformer",
            "scanmax.models.vision.path_ensemble.EnsembleBlock",
            "scanmax.models.vision.path_ensemble.path_ablation",
            "scanmax.train.evaluators.path_ablation.PathAblation",
            "scanmax.train.terms.path_self_distill.PathSelfDistill",
        ),
        tests=(
            "tests/models/vision/test_path_ensemble.py",
            "tests/train/terms/test_path_self_distill.py",
        ),
        reproduced="the sum of the paths is the ordinary output; digits-path-ablation in "
        "docs/claims.md: on digits paths are worth little and much, several cost accuracy, and "
        "what scales were to bring is not seen; on few digits the loss of short paths costs a "
        "point: `benchmarks claims few-digits-path-self-distill`",
    ),
)
