"""Long convolutions, explicit and generated, and the networks made of them."""

from scanmax.papers.paper import Paper

_NETS = "tests/models/sequence/test_continuous_nets.py"
_MIXERS = "tests/models/mixers/test_mixers.py"

LEDGER = (
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
        "hyperzzw-terminator",
        covers="the two global operators, product of maps and elementwise, and a mixer of the "
        "first with its hyper-kernel from a network of the place; not the local operator, the "
        "standardisation, the block of ten branches, the loss of the slow network or the "
        "Terminator, which the public material read does not settle",
        where=("scanmax.ops.hyper_zzw", "scanmax.models.mixers.HyperZzw"),
        tests=(
            "tests/ops/conv/test_hyper_zzw.py::HyperZzwTest",
            "tests/ops/conv/test_hyper_zzw.py::test_an_output_reads_its_row_and_its_column",
            _MIXERS,
        ),
    ),
    Paper(
        "smpconv",
        covers="the kernel of moving points in any dimension, shared or per channel, plain or "
        "averaged, a depthwise mixer; not the small kernel beside it, or the ImageNet networks",
        where=("scanmax.ops.point_kernel", "scanmax.models.mixers.SmpConv"),
        tests=(
            "tests/ops/conv/test_long_kernels.py::PointKernelTest",
            _MIXERS,
            "tests/test_claims.py",
        ),
        reproduced="points of one cell make any kernel: benchmarks claims smpconv-points",
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
)
