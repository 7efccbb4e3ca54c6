"""Mixing in the domain of frequencies."""

from scanmax.papers.paper import Paper

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
            "tests/models/mixers/test_mixers.py",
            "tests/models/vision/test_spectformer.py",
            "tests/models/vision/test_authors.py",
        ),
        reproduced="gating is the circular convolution with the filter's inverse transform: "
        "tests/ops/spectral/test_global_filter.py::GlobalFilterTest; GFLOPs of S, B and L: "
        "tests/models/vision/test_spectformer.py",
    ),
)
