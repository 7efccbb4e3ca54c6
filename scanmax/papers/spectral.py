"""Mixing in the domain of frequencies."""

from scanmax.papers.paper import Paper

LEDGER = (
    Paper(
        "spectformer",
        covers="spectral gating as an op and a mixer, its filter brought to maps of any size by "
        "frequency (the released code keeps to one size), so that a host takes it in its first "
        "blocks and attention in the others; not the hierarchical variants with their stem, "
        "class attention and token labels",
        where=(
            "scanmax.ops.global_filter",
            "scanmax.ops.resample_filter",
            "scanmax.models.mixers.GlobalFilter",
        ),
        tests=(
            "tests/ops/spectral/test_global_filter.py::GlobalFilterTest",
            "tests/ops/spectral/test_global_filter.py::ResampleFilterTest",
            "tests/models/mixers/test_mixers.py",
        ),
        reproduced="gating is the circular convolution with the filter's inverse transform: "
        "tests/ops/spectral/test_global_filter.py::GlobalFilterTest",
    ),
)
