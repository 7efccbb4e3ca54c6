"""Normalisations of maps."""

from scanmax.papers.paper import Paper

LEDGER = (
    Paper(
        "evonorm",
        covers="B0, B1, B2 (by the variance of a batch or its running average, without a mean), "
        "S0, S1 and S2, as ops; not the layers as modules, the search or the ResNets",
        where=("scanmax.ops.evonorm_b0", "scanmax.ops.evonorm_s0"),
        tests=(
            "tests/ops/test_evonorm.py",
            "tests/ops/test_evonorm.py::"
            "test_s0_is_silu_over_the_deviation_that_group_norm_divides_by",
            "tests/ops/test_evonorm.py::test_the_s_layers_do_not_know_the_batch",
        ),
    ),
    Paper(
        "ibn-net",
        covers="instance norm of the first channels beside batch norm of the others, any share, as "
        "an op; not the ResNets (IBN-a, IBN-b)",
        where=("scanmax.ops.instance_batch_norm",),
        tests=(
            "tests/ops/test_norm.py::InstanceBatchNormTest",
            "tests/ops/test_norm.py::InstanceBatchNormTest::"
            "test_the_first_half_forgets_how_an_image_was_lit",
        ),
    ),
)
