"""Convolutions: long and generated, mixed, gated, merged, shifted, and networks made of them."""

from scanmax.papers.paper import Paper

_NETS = "tests/models/sequence/test_continuous_nets.py"
_MIXERS = "tests/models/mixers/test_mixers.py"

LEDGER = (
    Paper(
        "a-priori-1way-conv",
        covers="convolutions factorised before training into filters along one axis each, as an op "
        "and a mixer; rank and order of the published chain are open in its text; not the "
        "simulator of waves",
        where=("scanmax.ops.cp_conv2d", "scanmax.models.mixers.OneWayConv"),
        tests=(
            "tests/ops/conv/test_one_way.py::CpConv2dTest",
            "tests/models/mixers/test_mixers.py",
        ),
        reproduced="equivalent accuracy with fewer weights, on a wave equation: "
        "`benchmarks claims one-way-wave`",
    ),
    Paper(
        "long-conv-flashbutterfly",
        covers="convolution by FFT on sequences, maps and volumes (causal with state and step, "
        "bidirectional, circular), the same by Monarch products, learned blocks as an op, squash "
        "and smooth, the block of S4 as a mixer; not the fused kernel, the H3 models, or the mixer "
        "with learned blocks",
        where=("scanmax.ops.fft_conv", "scanmax.ops.monarch_fft", "scanmax.models.mixers.LongConv"),
        tests=(
            "tests/ops/conv/test_long.py::FftConvTest",
            "tests/ops/conv/test_long.py::test_monarch_with_learned_blocks",
            "tests/ops/conv/test_long_kernels.py::SquashKernelTest",
            _MIXERS,
            "tests/test_claims.py",
        ),
        reproduced="FFT and Monarch forms equal the sums: benchmarks claims fft-convolution; time "
        "grows as T: benchmarks claims time-slopes",
    ),
    Paper(
        "sgconv",
        covers="the multi-scale kernel (both arrangements and interpolations), the norm frozen at "
        "the start, the layer as a mixer; not the variant with learned decay, or the benchmarks",
        where=("scanmax.ops.sgconv_kernel", "scanmax.models.mixers.SgConv"),
        tests=(
            "tests/ops/conv/test_long_kernels.py::SgconvKernelTest",
            _MIXERS,
            "tests/test_claims.py",
        ),
        reproduced="parameters grow as log L: benchmarks claims sgconv-parameters",
    ),
    Paper(
        "ckconv",
        covers="kernels of sines with weight norm (printed and released start), the causal network "
        "with the counts of the public code, a depthwise mixer; not irregular sampling, or the "
        "smoothing of the released code at other resolutions",
        where=(
            "scanmax.models.parts.kernels.Siren",
            "scanmax.models.sequence.ckcnn.Ckcnn",
            "scanmax.models.mixers.CkConv",
        ),
        tests=(f"{_NETS}::CkcnnSuite", f"{_NETS}::test_generated_kernels_keep_the_variance"),
        reproduced="sequential digits with long and with short kernels: benchmarks claims "
        "ckconv-sequential-digits; a pause that long kernels bridge: copy-memory; adding two "
        "numbers of a hundred: adding-problem",
    ),
    Paper(
        "fft-conv-scaling",
        covers="convolution of maps with kernels up to their size by FFT, and mixing of tokens by "
        "the Fourier transform over them and their channels, as an op and a mixer; not its "
        "networks, which the text leaves open",
        where=(
            "scanmax.ops.fft_conv",
            "scanmax.ops.fourier_token_mixing",
            "scanmax.models.mixers.FourierTokens",
        ),
        tests=(
            "tests/ops/conv/test_long.py::FftConvTest",
            "tests/ops/spectral/test_token_mixing.py::FourierTokenMixingTest",
            _MIXERS,
        ),
        reproduced="the same sums as by taps, from some size on in less time: "
        "`benchmarks claims fft-conv-kernel-size`",
    ),
    Paper(
        "flexconv",
        covers="MAGNet, the learned Gaussian mask (zeros below the threshold instead of cropping), "
        "the Nyquist penalty, FlexNet-16, a depthwise mixer; not the FlexTCN configurations, which "
        "are not public, or steerable kernels",
        where=(
            "scanmax.models.parts.kernels.Magnet",
            "scanmax.models.parts.kernels.GaussianMask",
            "scanmax.models.sequence.flexnet.FlexNet",
            "scanmax.models.mixers.FlexConv",
        ),
        tests=(
            f"{_NETS}::FlexNetSuite",
            f"{_NETS}::test_frequencies_beyond_nyquist_are_punished",
            "tests/test_claims.py",
        ),
        reproduced="a learned width finds its target: benchmarks claims flexconv-size; kernels at "
        "twice the resolution: benchmarks claims kernels-at-twice-the-resolution; digits in "
        "another order: permuted-digits",
    ),
    Paper(
        "ccnn-nd",
        covers="separable convolutions with one generator for sequences, images and volumes, the "
        "networks of 4 x 140 and 6 x 380 with the counts of the public code; not point clouds",
        where=(
            "scanmax.models.sequence.ccnn.Ccnn",
            "scanmax.models.sequence.continuous_net.KernelConv",
        ),
        tests=(f"{_NETS}::CcnnSuite", f"{_NETS}::test_volumes_take_the_same_layer"),
        reproduced="digits pixel by pixel: benchmarks claims sequential-digits-families",
    ),
    Paper(
        "convsharevit",
        covers="the convolution of tokens as maps with kernels that all share, and attention with "
        "it for a mixer, with kernels as large as a map or with maps for results; not MLPs of it "
        "or the networks, whose maps and layers nothing public tells",
        where=("scanmax.ops.shared_conv2d", "scanmax.models.mixers.ConvShare"),
        tests=(
            "tests/ops/conv/test_shared.py::SharedConv2dTest",
            "tests/models/mixers/conv/test_shared.py",
            _MIXERS,
        ),
        reproduced="kernels as large as the map are attention's linear maps: "
        "tests/models/mixers/conv/test_shared.py::"
        "test_kernels_as_large_as_a_token_are_attentions_linear_maps",
    ),
    Paper(
        "hyperzzw-terminator",
        covers="the global operators, product of maps and elementwise, kernels of places under a "
        "context for the local one, the standardisation by turns as an op and a norm of any "
        "`resnet*`, the block of ten branches, the loss between slow networks, and the Terminator "
        "for CIFAR-10, to which the authors' code gives the same outputs, gradients and loss; "
        "mixers of the global and of the local operator; not the optimizers, networks of 1D data "
        "or trained weights",
        where=(
            "scanmax.ops.hyper_zzw",
            "scanmax.ops.hyper_kernel",
            "scanmax.ops.instance_batch_norm",
            "scanmax.models.mixers.HyperZzw",
            "scanmax.models.mixers.HyperZzwLocal",
            "scanmax.models.parts.hyper_kernels.LocalBranch",
            "scanmax.models.parts.hyper_kernels.slow_loss",
            "scanmax.models.vision.terminator.Terminator",
        ),
        tests=(
            "tests/ops/conv/test_hyper_zzw.py",
            "tests/ops/test_norm.py::InstanceBatchNormTest",
            "tests/models/vision/test_terminator.py",
            "tests/models/vision/test_authors.py::test_logits_and_gradients",
            _MIXERS,
        ),
        reproduced="an output reads a row of one factor and a column of the other: "
        "tests/ops/conv/test_hyper_zzw.py::test_an_output_reads_its_row_and_its_column; means "
        "of 0 and kernels at another resolution: tests/models/vision/test_terminator.py; on "
        "digits it learns later than a residual network of its size and ends 0.8 points below "
        "it: `benchmarks claims terminator-digits`",
    ),
    Paper(
        "smpconv",
        covers="the kernel of moving points in any dimension, shared or per channel, plain or "
        "averaged, a depthwise mixer, the block with its small kernel and norms as another, and T "
        "and B for ImageNet, to which the authors' code gives the same numbers, with their form "
        "after training; not the recipes or trained weights",
        where=(
            "scanmax.ops.point_kernel",
            "scanmax.models.mixers.SmpConv",
            "scanmax.models.mixers.PointReparam",
            "scanmax.models.vision.smpconv.SmpConvNet",
        ),
        tests=(
            "tests/ops/conv/test_long_kernels.py::PointKernelTest",
            _MIXERS,
            "tests/models/vision/test_smpconv.py",
            "tests/models/vision/test_authors.py",
            "tests/test_claims.py",
        ),
        reproduced="points of one cell make any kernel: benchmarks claims smpconv-points; "
        "parameters and GFLOPs of both, and a network before and after: "
        "tests/models/vision/test_smpconv.py",
    ),
    Paper(
        "spd-conv",
        covers="space to depth with its exact inverse, in the order of the paper and in that of "
        "patches, and the convolution behind it; not the ResNets or YOLOv5",
        where=("scanmax.ops.space_to_depth", "scanmax.ops.depth_to_space", "scanmax.ops.spd_conv"),
        tests=(
            "tests/ops/conv/test_space_to_depth.py",
            "tests/ops/conv/test_space_to_depth.py::test_nothing_is_lost",
        ),
        reproduced="a convolution of stride 2 is one over blocks: "
        "tests/ops/conv/test_space_to_depth.py::"
        "test_a_strided_convolution_is_one_over_blocks",
    ),
    Paper(
        "inceptionnext",
        covers="the split depthwise convolution, channels that pass first (released code) or last "
        "(text), a mixer of it, and the networks A, T, S, B with weights of timm; not 384 pixels",
        where=(
            "scanmax.ops.inception_depthwise_conv2d",
            "scanmax.models.mixers.Inception",
            "scanmax.models.vision.inception_next.InceptionNext",
        ),
        tests=(
            "tests/ops/conv/test_inception.py::InceptionDepthwiseConv2dTest",
            "tests/models/vision/test_inception_next.py::InceptionNextSuite",
            "tests/models/vision/test_inception_next.py::test_multiply_adds_are_the_papers",
            "tests/parity/test_inception_next_parity.py",
            _MIXERS,
        ),
        reproduced="it equals a full depthwise convolution of kernels padded with zeros: "
        "tests/ops/conv/test_inception.py",
    ),
    Paper(
        "lightconv-dynamicconv",
        covers="lightweight and dynamic convolution, causal and centred, with state, step, packed "
        "rows and the matrix over tokens, and both as mixers behind a gated linear map; not the "
        "DropConnect of taps, kernels that grow with depth, or the translation models",
        where=(
            "scanmax.ops.lightweight_conv",
            "scanmax.ops.dynamic_conv",
            "scanmax.models.mixers.LightConv",
            "scanmax.models.mixers.DynamicConv",
        ),
        tests=(
            "tests/ops/conv/test_lightweight.py::LightweightConvTest",
            "tests/ops/conv/test_lightweight.py::DynamicConvTest",
            "tests/ops/conv/test_lightweight.py::DynamicConvMatrixTest",
            _MIXERS,
        ),
        reproduced="112 weights for 7 taps at width 1024: "
        "tests/models/mixers/conv/test_lightweight.py",
    ),
    Paper(
        "condconv",
        covers="the convolution with kernels mixed per example, dense, grouped and depthwise, one "
        "grouped convolution for the whole batch, and the layer with its routing, its own or "
        "shared, a mixer of it, and the EfficientNets of the release, to which timm gives the same "
        "numbers (a block's three convolutions share a routing); not the other networks, the "
        "classifier of mixed weights, or the recipes",
        where=(
            "scanmax.ops.cond_conv2d",
            "scanmax.models.parts.conditional.CondConv",
            "scanmax.models.vision.efficientnet.EfficientNet",
            "scanmax.models.mixers.ConditionalConv",
        ),
        tests=(
            "tests/ops/conv/test_conditional.py::CondConv2dTest",
            "tests/models/parts/test_conditional.py",
            "tests/models/vision/test_efficientnet.py",
            "tests/parity/test_conditional_parity.py",
            "tests/parity/test_efficientnet_parity.py",
        ),
        reproduced="mixing kernels is mixing convolutions: tests/ops/conv/test_conditional.py::"
        "CondConv2dTest; what it costs more is the same at every resolution: "
        "tests/ops/conv/test_conditional.py::test_mixing_costs_the_same_at_every_resolution; "
        "multiply-adds of CondConv-EfficientNet-B0: tests/models/vision/test_efficientnet.py::"
        "test_multiply_adds_are_the_papers",
    ),
    Paper(
        "hornet",
        covers="recursive gates of any order, and g^nConv as a mixer with the 7 x 7 convolution or "
        "the global-local filter, whose table goes to other maps by frequency (the released code "
        "stretches it), and the networks T to L with either, to which the authors' code gives the "
        "same numbers; not HorFPN",
        where=(
            "scanmax.ops.recursive_gate",
            "scanmax.models.mixers.GnConv",
            "scanmax.models.vision.hornet.HorNet",
        ),
        tests=(
            "tests/ops/conv/test_gated.py::RecursiveGateTest",
            "tests/models/mixers/conv/test_gated.py",
            "tests/models/vision/test_hornet.py",
            "tests/models/vision/test_authors.py",
            _MIXERS,
        ),
        reproduced="the order is the degree of the interaction: tests/ops/conv/test_gated.py::"
        "test_the_order_is_the_degree_of_the_polynomial; the bound on its cost: "
        "tests/models/mixers/conv/test_gated.py::test_it_costs_less_than_the_papers_bound; "
        "parameters of all ten and GFLOPs: tests/models/vision/test_hornet.py",
    ),
    Paper(
        "lsnet",
        covers="aggregation by small kernels of each pixel's own, shared by channels in turn as in "
        "the released kernel, the LS convolution as a mixer, and the networks T, S and B, with and "
        "without the head of a teacher, in training and folded, to which the authors' code gives "
        "the same numbers; not the dense tasks",
        where=(
            "scanmax.ops.small_kernel_aggregation",
            "scanmax.models.mixers.LsConv",
            "scanmax.models.vision.lsnet.LSNet",
        ),
        tests=(
            "tests/ops/conv/test_aggregation.py::SmallKernelAggregationTest",
            "tests/ops/conv/test_reparameterized.py::MergeDilatedKernelsTest",
            "tests/models/vision/test_lsnet.py",
            "tests/models/vision/test_authors.py",
            _MIXERS,
        ),
        reproduced="aggregation equals the sum over unfolded neighbours: "
        "tests/ops/conv/test_aggregation.py::SmallKernelAggregationTest; a network before and "
        "after its norms are folded, parameters and GFLOPs: tests/models/vision/test_lsnet.py",
    ),
    Paper(
        "smt",
        covers="heads convolved by kernels of other sizes, the aggregation with its shuffle, the "
        "modulation as a mixer, and the networks T to L with turns of modulation and attention, to "
        "which the authors' code gives the same numbers; not the dense tasks, the recipe, or the "
        "22k pretraining",
        where=(
            "scanmax.ops.mixed_head_conv2d",
            "scanmax.ops.scale_aware_aggregation",
            "scanmax.models.mixers.ScaleAware",
            "scanmax.models.vision.smt.Smt",
        ),
        tests=(
            "tests/ops/conv/test_scale_aware.py",
            "tests/models/vision/test_smt.py",
            "tests/models/vision/test_authors.py",
            _MIXERS,
        ),
        reproduced="a group of the aggregation sees one channel of every head: benchmarks claims "
        "smt-shuffle; parameters of all four (the released S has 22.6 M, the paper says 20.5 M), "
        "GFLOPs of T, S and B: tests/models/vision/test_smt.py",
    ),
    Paper(
        "unireplknet-journal",
        covers="the networks A to XL, which are those of the conference's paper, in both forms; "
        "any kernels a stage by kernel_sizes, which the guidelines vary; not audio, points, videos "
        "or series, whose embeddings come before the same networks, nor the dense tasks",
        where=(
            "scanmax.models.vision.unireplknet.UniRepLKNet",
            "scanmax.models.mixers.DilatedReparam",
        ),
        tests=("tests/models/vision/test_unireplknet.py", "tests/models/vision/test_authors.py"),
        reproduced="few large kernels see more than many small ones at init, parameters of all "
        "nine after training: benchmarks claims few-large-kernels; branches and one kernel give "
        "the same: tests/models/vision/test_unireplknet.py::"
        "test_one_kernel_a_layer_gives_what_was_trained",
    ),
    Paper(
        "unireplknet",
        covers="the large kernel with dilated branches as a mixer with its channel gate, norms "
        "folded and branches merged into one kernel, for a mixer or a whole model, response norm, "
        "and the networks A to XL in both forms, to which the authors' code gives the same "
        "numbers; not modalities other than maps",
        where=(
            "scanmax.ops.merge_dilated_kernels",
            "scanmax.ops.fold_batch_norm",
            "scanmax.ops.global_response_norm",
            "scanmax.models.mixers.DilatedReparam",
            "scanmax.models.mixers.conv.reparameterized.merge_dilated_branches",
            "scanmax.models.vision.unireplknet.UniRepLKNet",
        ),
        tests=(
            "tests/ops/conv/test_reparameterized.py::MergeDilatedKernelsTest",
            "tests/ops/conv/test_reparameterized.py::FoldBatchNormTest",
            "tests/models/mixers/conv/test_reparameterized.py",
            "tests/ops/test_norm.py",
            "tests/models/vision/test_unireplknet.py",
            "tests/models/vision/test_authors.py",
            _MIXERS,
        ),
        reproduced="the merged kernel is the sum of the normalised branches: "
        "tests/ops/conv/test_reparameterized.py::"
        "test_a_merged_kernel_is_the_sum_of_normalised_branches; a mixer before and after: "
        "tests/models/mixers/conv/test_reparameterized.py::"
        "test_one_kernel_gives_what_all_branches_gave; a network before and after: tests/models/"
        "vision/test_unireplknet.py::test_one_kernel_a_layer_gives_what_was_trained; parameters "
        "and GFLOPs of all nine: tests/models/vision/test_unireplknet.py",
    ),
    Paper(
        "parcnetv2",
        covers="oversized convolution, its taps brought to any map or used as they are, the "
        "gated mixer of it, and the four networks of the release with its norm and its gate unit, "
        "to which the authors' code gives the same numbers; not the recipes, trained weights, or "
        "detection and segmentation",
        where=(
            "scanmax.ops.oversized_conv2d",
            "scanmax.models.mixers.Oversized",
            "scanmax.models.vision.parcnetv2.ParcNetV2",
        ),
        tests=(
            "tests/ops/conv/test_oversized.py::OversizedConv2dTest",
            _MIXERS,
            "tests/models/vision/test_parcnetv2.py",
            "tests/models/vision/test_authors.py",
        ),
        reproduced="a moved object changes the mean, and no circular kernel sees it: "
        "tests/ops/conv/test_oversized.py::"
        "test_a_moved_object_changes_the_mean_and_no_circular_kernel_sees_it; parameters and "
        "GFLOPs of all four: tests/models/vision/test_parcnetv2.py",
    ),
    Paper(
        "scnet-shift-conv",
        covers="the shift in eight directions, the block of it as a mixer, and the tiny network "
        "that the authors have released, SCNet-T of all factors, with both ways to enlarge a map, "
        "to which their code gives the same numbers; not the sizes B and L, whose widths nothing "
        "public tells, or the training on pairs of images",
        where=(
            "scanmax.ops.shift_eight",
            "scanmax.models.mixers.ShiftConv",
            "scanmax.models.vision.scnet.ScNet",
        ),
        tests=(
            "tests/ops/conv/test_shift.py::ShiftEightTest",
            "tests/models/mixers/test_mixers.py",
            "tests/models/vision/test_scnet.py",
            "tests/models/vision/test_authors.py",
        ),
        reproduced="it is a depthwise convolution with kernels of a single one: "
        "tests/ops/conv/test_shift.py::ShiftEightTest; the reach grows by one a block: "
        "tests/ops/conv/test_shift.py::test_the_reach_grows_by_one_a_block; parameters of the "
        "released code to the last one; on small digits shifts are worth 3.3 dB, and 3 x 3 "
        "convolutions of as many parameters half a dB more: `benchmarks claims scnet-shifts`",
    ),
    Paper(
        "convfirst-block-fusion",
        covers="the ConvFirst block and MBConv with convolutions in groups, as the author's later "
        "library has them, and as functions the cost of a convolution, of a chain fused into one "
        "kernel, operations a byte, and the waterline of a chain of kernels; not kernels that fuse "
        "a block, or ConvFirstNet, whose sizes no public code tells",
        where=(
            "scanmax.models.parts.conv_first.ConvFirst",
            "scanmax.models.parts.conv_first.MbConv",
            "scanmax.models.roofline.conv_cost",
            "scanmax.models.roofline.fused",
            "scanmax.models.roofline.operational_intensity",
            "scanmax.models.roofline.waterline",
        ),
        tests=("tests/models/parts/test_conv_first.py",),
        reproduced="the wider the groups, the more operations a byte; three layers that wait for "
        "memory are one kernel that does not: tests/models/parts/test_conv_first.py::"
        "test_a_fused_block_rises_above_the_waterline",
    ),
)
