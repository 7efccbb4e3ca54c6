"""Learning from a teacher."""

from scanmax.papers.paper import Paper

_ANSWERS = "tests/train/terms/test_answers.py"
_MAPS = "tests/train/terms/test_maps.py"
_BATCH = "tests/train/terms/test_batch_terms.py"

LEDGER = (
    Paper(
        "crosskd",
        covers="the student's activation through the frozen rest of any teacher with taps, held to "
        "the teacher's answer by divergence or by the quality loss of detectors, a linear adapter "
        "between widths; not detectors, the box branch or their tables",
        where=("scanmax.train.terms.crosskd.CrossKd", "scanmax.train.teachers.Told"),
        tests=(
            f"{_MAPS}::MapsSuite",
            f"{_MAPS}::test_a_teacher_resumes_from_another_activation",
            f"{_MAPS}::test_a_student_that_is_its_teacher_has_nothing_to_learn_across",
        ),
        reproduced="equal models lose nothing; behind the last layer it is plain distillation",
    ),
    Paper(
        "cskd",
        covers="answers of patches held to what a teacher with taps says of each place, which "
        "becomes what it says of the image as the run goes, in three ways, hard or soft; not the "
        "recipes of the tables",
        where=("scanmax.train.terms.cskd.Cskd",),
        tests=(
            f"{_ANSWERS}::AnswersSuite",
            f"{_ANSWERS}::test_patches_learn_of_their_place_first_and_of_the_image_last",
        ),
        reproduced="at the end of a run every place learns the answer of the image",
    ),
    Paper(
        "db-llm",
        covers="distillation weighed by how unsure teacher and student are, of examples or tokens; "
        "not the two binary matrices",
        where=("scanmax.train.terms.deviation_aware.DeviationAware",),
        tests=(
            f"{_ANSWERS}::AnswersSuite",
            f"{_ANSWERS}::test_limits_are_plain_distillation",
            f"{_ANSWERS}::test_uncertain_rows_count_more",
        ),
        reproduced="at gamma = 0 it is plain distillation",
    ),
    Paper(
        "deit-lt",
        covers="hard distillation weighed by the effective number of the class that the teacher "
        "names, late in the run, of images mixed and changed for both; the flat teacher by the sam "
        "rule and the ldam loss; not the soft branch of the release or long-tailed data sets",
        where=(
            "scanmax.train.terms.hard.Hard",
            "scanmax.train.gradients.sam.Sam",
            "scanmax.train.losses.ldam.Ldam",
        ),
        tests=(
            f"{_ANSWERS}::AnswersSuite",
            f"{_ANSWERS}::test_weights_of_the_teachers_class_wait_until_they_count",
        ),
    ),
    Paper(
        "kd-qat-attention",
        covers="attention maps by divergence and the blocks' outputs by squares, layer by layer, "
        "beside kd and fake_quantize; not ternary weights or the encoders of its tables",
        where=(
            "scanmax.train.terms.attention_map.AttentionMap",
            "scanmax.train.transforms.fake_quantize.FakeQuantize",
        ),
        tests=(
            f"{_ANSWERS}::AnswersSuite",
            f"{_ANSWERS}::test_layers_are_matched_from_the_last",
        ),
    ),
    Paper(
        "meal-v2",
        covers="the mean distribution of several teachers, in any shares, and the discriminator of "
        "answers, learned in the same step by a turned gradient; not the ImageNet runs",
        where=(
            "scanmax.train.terms.base.Term",
            "scanmax.train.terms.discriminator.Discriminator",
        ),
        tests=(
            f"{_ANSWERS}::AnswersSuite",
            f"{_ANSWERS}::test_several_teachers_are_heard_as_the_mean_of_their_distributions",
        ),
    ),
    Paper(
        "ofa-kd",
        covers="the enhanced target as published and as released, and branches of separable "
        "convolutions on maps or patches; not the release's transformer branches or its tables",
        where=("scanmax.train.terms.ofa.Ofa",),
        tests=(
            f"{_ANSWERS}::AnswersSuite",
            f"{_ANSWERS}::test_limits_are_plain_distillation",
        ),
        reproduced="at gamma = 1 it is the soft cross-entropy as released, and that with the "
        "label's as published",
    ),
    Paper(
        "scalekd",
        covers="cross-attention projectors, the two views of a map and the way through the "
        "teacher's last layers; layer norm where the release has batch norm; not its recipes",
        where=("scanmax.train.terms.scalekd.ScaleKd",),
        tests=(
            f"{_MAPS}::MapsSuite",
            f"{_MAPS}::test_the_second_view_is_what_a_cosine_transform_leaves_without_its_first_"
            "coefficient",
        ),
        reproduced="without its first coefficient a cosine transform leaves the map less its mean",
    ),
    Paper(
        "topkld-bit-scaling",
        covers="the two parts of the divergence, each forward or reverse and with a weight of its "
        "own; not the quantised generators or the scaling laws",
        where=("scanmax.train.terms.topkld.TopKld",),
        tests=(
            f"{_ANSWERS}::AnswersSuite",
            f"{_ANSWERS}::test_limits_are_plain_distillation",
            f"{_ANSWERS}::test_parts_of_topkld_are_each_of_their_own_way",
        ),
        reproduced="both parts forward make up plain distillation",
    ),
    Paper(
        "transkd",
        covers="cross selective fusion with hierarchical squares, channel-wise distillation, the "
        "alignment of patch embeddings; layer norm where the release has batch norm; not GL-Mixer, "
        "the embedding assistant or segmentation",
        where=(
            "scanmax.train.terms.selective_fusion.SelectiveFusion",
            "scanmax.train.terms.channelwise.Channelwise",
        ),
        tests=(
            f"{_MAPS}::MapsSuite",
            f"{_MAPS}::test_channelwise_is_blind_to_what_is_added_to_a_channel",
            "tests/parity/test_distillation_parity.py::test_hierarchical_squares_are_those_of_"
            "torchdistill",
        ),
        reproduced="what is added to a channel changes nothing",
    ),
    Paper(
        "wcord",
        covers="the contrast by heads of spectral norm 1 and the transport within a batch, with "
        "Sinkhorn's iterations in logarithms as an op; negatives are the batch's, not a memory's",
        where=("scanmax.train.terms.wcord.Wcord", "scanmax.ops.sinkhorn"),
        tests=(
            f"{_BATCH}::BatchTermsSuite",
            "tests/ops/softmax/test_sinkhorn.py::SinkhornTest",
            "tests/ops/softmax/test_sinkhorn.py::test_a_small_epsilon_finds_the_assignment",
        ),
        reproduced="at a small epsilon the plan is the assignment that scipy finds",
    ),
    Paper(
        "nd-loss-kd",
        covers="the loss of norm and direction on any activation, beside kd or dkd, class means "
        "summed as training goes where the released code reads a file, a linear projector between "
        "widths; not the released projector's norm and dropout, ReviewKD++, DIST++ or detection",
        where=(
            "scanmax.train.terms.nd_loss_kd.NdLossKd",
            "scanmax.train.terms.dkd.Dkd",
            "scanmax.configs.digits_distill",
        ),
        tests=(
            "tests/train/terms/test_nd_loss_kd.py::NdLossKdSuite",
            "tests/train/terms/test_nd_loss_kd.py::test_the_gradient_draws_short_features_and_"
            "turns_long_ones",
            "tests/train/terms/test_dkd.py::DkdSuite",
        ),
        reproduced="short features are drawn along the direction of their class, long ones turned "
        "towards it",
    ),
)
