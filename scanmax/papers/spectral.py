"""Mixing in the domain of frequencies."""

from scanmax.papers.paper import Paper

_MIXERS = "tests/models/mixers/test_mixers.py"

LEDGER = (
    Paper(
        "spectformer",
        covers="spectral gating as an op and a mixer, its filter brought to maps of any size by "
        "frequency (the released code keeps to one size), so that a host takes it in its first "
        "blocks and attention in the others; the three networks of four stages with stem, class "
        "attention and the head of pixels, to which the authors' code gives the same numbers; not "
        "the networks of one size of map, or training by labels of pixels",
        where=(
            "scanmax.ops.global_filter",
            "scanmax.ops.resample_filter",
            "scanmax.models.mixers.GlobalFilter",
            "scanmax.models.vision.spectformer.SpectFormer",
        ),
        tests=(
            "tests/ops/spectral/test_global_filter.py::GlobalFilterTest",
            "tests/ops/spectral/test_global_filter.py::ResampleFilterTest",
            _MIXERS,
            "tests/models/mixers/test_mixers.py",
            "tests/models/vision/test_spectformer.py",
            "tests/models/vision/test_authors.py",
        ),
        reproduced="gating is the circular convolution with the filter's inverse transform: "
        "tests/ops/spectral/test_global_filter.py::GlobalFilterTest; GFLOPs of S, B and L: "
        "tests/models/vision/test_spectformer.py",
    ),
    Paper(
        "wavemix",
        covers="the Haar transform of any number of levels and any size with its exact inverse, "
        "transposed convolution, the block at every level as a mixer, and the ten classifiers of "
        "the release, of whose both stems the authors' code gives the same numbers; not the "
        "recipes, trained weights or networks of segmentation and super-resolution",
        where=(
            "scanmax.ops.haar_dwt2",
            "scanmax.ops.haar_idwt2",
            "scanmax.ops.conv_transpose2d",
            "scanmax.models.mixers.WaveMix",
            "scanmax.models.vision.wavemix.WaveMix",
        ),
        tests=(
            "tests/ops/spectral/test_wavelet.py::HaarDwt2Test",
            "tests/ops/spectral/test_wavelet.py::HaarIdwt2Test",
            "tests/ops/conv/test_transposed.py::ConvTranspose2dTest",
            _MIXERS,
            "tests/models/vision/test_wavemix.py",
            "tests/models/vision/test_authors.py",
        ),
        reproduced="nothing is lost, neither digits nor energy: "
        "tests/ops/spectral/test_wavelet.py::test_nothing_is_lost; parameters of all ten: "
        "tests/models/vision/test_wavemix.py",
    ),
    Paper(
        "affnet",
        covers="the adaptive frequency filter as an op and a mixer, with the released module's own "
        "residual or without, and the networks, to which the authors' code gives the same numbers: "
        "the three of the paper and the two others of the code; not the released configurations, "
        "recipes or weights, or segmentation",
        where=(
            "scanmax.ops.adaptive_frequency_filter",
            "scanmax.models.mixers.AdaptiveFilter",
            "scanmax.models.vision.affnet.AffNet",
        ),
        tests=(
            "tests/ops/spectral/test_adaptive_filter.py::AdaptiveFrequencyFilterTest",
            _MIXERS,
            "tests/models/vision/test_affnet.py",
            "tests/models/vision/test_authors.py",
        ),
        reproduced="it is the circular convolution with the mask's inverse transform: "
        "tests/ops/spectral/test_adaptive_filter.py::AdaptiveFrequencyFilterTest; parameters and "
        "GFLOPs of the three: tests/models/vision/test_affnet.py",
    ),
    Paper(
        "spanet",
        covers="the spectral pooling filter, its circle drawn for the map at hand (the released "
        "code pads its table), the aggregation of filters of three weights as a mixer, and the "
        "networks S to BX, to which the authors' code gives the same numbers; not the dense tasks",
        where=(
            "scanmax.ops.spectral_pooling",
            "scanmax.models.mixers.SpectralPooling",
            "scanmax.models.vision.spanet.SpaNet",
        ),
        tests=(
            "tests/ops/spectral/test_pooling.py::SpectralPoolingTest",
            "tests/models/vision/test_spanet.py",
            "tests/models/vision/test_authors.py",
            _MIXERS,
        ),
        reproduced="energy beyond the radius falls by (1 - lambda)^2: "
        "tests/ops/spectral/test_pooling.py::"
        "test_energy_beyond_the_radius_falls_by_the_square_of_what_is_left; parameters "
        "and GFLOPs of all five: tests/models/vision/test_spanet.py",
    ),
    Paper(
        "mg-tfno",
        covers="the Fourier layer with dense weights, Tucker's factors or those of CP, which are "
        "multiplied by in turn, and a mixer of it for maps of any resolution; FNO and TFNO on "
        "fields in the plane, to which neuraloperator gives the same numbers, and patches with "
        "wider and coarser crops, alone and as a field of these; not one tensor for all layers, "
        "tensor trains, the loss of Sobolev's norm, or patches on devices of their own",
        where=(
            "scanmax.ops.fourier_conv2d",
            "scanmax.ops.tucker_fourier_conv2d",
            "scanmax.ops.cp_fourier_conv2d",
            "scanmax.models.mixers.Fourier",
            "scanmax.models.vision.fno.Fno",
            "scanmax.models.vision.fno.multigrid_patches",
            "scanmax.models.vision.fno.stitched",
        ),
        tests=(
            "tests/ops/spectral/test_fourier.py::FourierConv2dTest",
            "tests/ops/spectral/test_fourier.py::TuckerFourierConv2dTest",
            "tests/ops/spectral/test_fourier.py::CpFourierConv2dTest",
            "tests/models/mixers/spectral/test_fourier.py",
            "tests/models/vision/test_fno.py",
            "tests/models/vision/test_authors.py",
            _MIXERS,
        ),
        reproduced="the same wave at any resolution: tests/ops/spectral/test_fourier.py::"
        "test_a_wave_sampled_more_finely_gives_the_same_wave; how few numbers the factors have: "
        "tests/models/mixers/spectral/test_fourier.py::"
        "test_factors_are_a_share_of_the_dense_weights; parameters of neuraloperator's sizes",
    ),
)
