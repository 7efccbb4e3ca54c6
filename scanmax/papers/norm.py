"""Normalisations of maps."""

from scanmax.papers.paper import Paper

LEDGER = (
    Paper(
        "dual-patchnorm",
        covers="the stem of two layer norms for every ViT by stem='dual_patchnorm', and norms of "
        "its blocks before their branches, behind the sums or on both sides by ln_placement, with "
        "which the paper compares; not placements of attention and MLP apart, or its tables",
        where=(
            "scanmax.models.parts.stems.DualPatchNorm",
            "scanmax.models.vision.vit.VisionTransformer",
        ),
        tests=(
            "tests/models/vision/test_deep_vit.py::"
            "test_a_stem_of_two_norms_forgets_how_a_patch_was_lit",
            "tests/models/vision/test_deep_vit.py::test_norms_stand_where_they_are_asked_for",
        ),
        reproduced="2 P^2 C + 2 D parameters more, 1,920 for Ti/16: "
        "tests/models/vision/test_deep_vit.py::test_two_norms_of_patches_are_the_papers_count",
    ),
    Paper(
        "evonorm",
        covers="B0, B1, B2 (by the variance of a batch or its running average, without a mean), "
        "S0, S1 and S2, as ops, as a layer and in any `resnet*` by norm_layer='evonorm_s0' and the "
        "like; not the search or the figures of its ResNets",
        where=(
            "scanmax.ops.evonorm_b0",
            "scanmax.ops.evonorm_s0",
            "scanmax.models.parts.map_norms.EvoNorm",
        ),
        tests=(
            "tests/ops/test_evonorm.py",
            "tests/ops/test_evonorm.py::"
            "test_s0_is_silu_over_the_deviation_that_group_norm_divides_by",
            "tests/ops/test_evonorm.py::test_the_s_layers_do_not_know_the_batch",
            "tests/models/vision/test_resnet.py::test_evonorm_of_images_knows_no_batch",
        ),
        reproduced="S layers of an example are the same in any batch: tests/ops/test_evonorm.py::"
        "test_the_s_layers_do_not_know_the_batch",
    ),
    Paper(
        "ibn-net",
        covers="instance norm of the first channels beside batch norm of the others, any share, as "
        "an op and a layer; `resnet*_ibn_a`, `resnet*_ibn_b` and `resnext*_ibn_a` with the "
        "authors' weights, and `ibn` for others of the family; not their SE-ResNets and DenseNets",
        where=(
            "scanmax.ops.instance_batch_norm",
            "scanmax.models.parts.map_norms.InstanceBatchNorm",
            "scanmax.models.vision.resnet",
        ),
        tests=(
            "tests/ops/test_norm.py::InstanceBatchNormTest",
            "tests/ops/test_norm.py::InstanceBatchNormTest::"
            "test_the_first_half_forgets_how_an_image_was_lit",
            "tests/models/vision/test_authors.py::test_logits_and_gradients",
        ),
        reproduced="half of the channels do not tell how an image was lit: tests/ops/test_norm.py::"
        "InstanceBatchNormTest::test_the_first_half_forgets_how_an_image_was_lit",
    ),
)
