"""Learning from a teacher."""

from scanmax.papers.paper import Paper

_ANSWERS = "tests/train/terms/test_answers.py"
_MAPS = "tests/train/terms/test_maps.py"
_MODULES = "tests/train/terms/test_modules.py"
_BATCH = "tests/train/terms/test_batch_terms.py"
_NAMED = "tests/train/test_named.py"
_FUSION = "tests/train/test_fusion.py"
_PROMPTS = "tests/models/test_prompts.py"
_TOWERS = "tests/train/test_towers_terms.py"

LEDGER = (
    Paper(
        "cross-arch-kd",
        covers="the partially cross attention projector with its swaps, the group-wise linear "
        "projector and the adversarial loss, of any student map and any attention with taps; views "
        "are the data's and the mixes', the same for both; built from the equations, no code being "
        "published; not the weights or tables",
        where=(
            "scanmax.train.terms.cross_arch.CrossArch",
            "scanmax.train.terms.cross_arch.GroupwiseLinear",
        ),
        tests=(
            f"{_MODULES}::ModulesSuite",
            f"{_MODULES}::test_each_part_of_the_attention_is_drawn_to_be_the_teachers",
            f"{_MODULES}::test_neighbourhoods_have_linear_maps_of_their_own",
        ),
        reproduced="where all three are the teacher's, nothing is lost of attention; on few "
        "digits 93.5%, KD alone 93.2%, hints 91.2%, labels 90.4%: `benchmarks claims "
        "few-digits-cross-arch`",
    ),
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
        reproduced="equal models lose nothing; behind the last layer it is plain distillation; on "
        "few digits it is below labels alone, and quarrels with their gradient more than KD does: "
        "`benchmarks claims few-digits-crosskd`",
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
        "dide-distilled-dual-encoder",
        covers="the four blocks of a fusion encoder's attention, across modalities and within, "
        "held by two towers' own queries and keys, padding apart; a fusion encoder made of a ViT, "
        "and the matching of images and texts that trains it, on pairs; built from the equations, "
        "no code being published; not its soft labels of masked words and answers, or its tasks",
        where=(
            "scanmax.train.terms.cross_attention.CrossAttention",
            "scanmax.train.objectives.matching.Matching",
            "scanmax.models.fusion.FusionEncoder",
        ),
        tests=(
            f"{_FUSION}::CrossAttentionSuite",
            f"{_FUSION}::MatchingSuite",
            f"{_FUSION}::test_towers_that_ask_and_answer_as_the_teacher_have_nothing_to_learn",
            f"{_FUSION}::test_padding_is_read_by_none",
        ),
        reproduced="towers with the teacher's queries and keys lose nothing",
    ),
    Paper(
        "diswot",
        covers="both similarities, of classes by the gradient of the classifier and of examples, "
        "as a term that distils and as a score of students before they learn; built from the "
        "equations; not the evolutionary search or the rank correlations of its tables",
        where=(
            "scanmax.train.terms.diswot.DisWot",
            "scanmax.train.terms.diswot.diswot_score",
        ),
        tests=(
            f"{_BATCH}::BatchTermsSuite",
            f"{_BATCH}::test_the_classes_of_diswot_are_those_of_the_classifiers_gradient",
        ),
        reproduced="a student that is its teacher has the highest score, 0; as a term of weight 1 "
        "and 10 it costs KD four points on few digits: `benchmarks claims few-digits-diswot`",
    ),
    Paper(
        "gpt4image",
        covers="the alignment of a classifier's features with the text of their own image, by the "
        "three losses and two projectors of the release, a teacher's text tower reading the texts "
        "of the data; not the descriptions by a language model or the tables",
        where=("scanmax.train.objectives.text_alignment.TextAlignment",),
        tests=(
            f"{_NAMED}::TextAlignmentSuite",
            f"{_NAMED}::test_forms_of_the_alignment_meet_in_their_limits",
        ),
        reproduced="on pairs of 70 digits 67.1% for 56.6% of labels alone: `benchmarks claims "
        "few-pairs-text-alignment`",
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
        reproduced="in 2 bits attention stays nearer to the teacher's than by answers alone, and "
        "accuracy is the same: `benchmarks claims few-digits-attention-map`",
    ),
    Paper(
        "m2mkd",
        covers="modules of the student, learned all at once and each alone, in a meta model's "
        "frame against the teacher's, with stitches between widths, for any models with taps; the "
        "meta model is a trained one of any run; not NAC, nor the tables of mixtures of experts",
        where=(
            "scanmax.train.terms.m2mkd.M2mKd",
            "scanmax.train.objectives.base.Objective.resume",
        ),
        tests=(
            f"{_MODULES}::ModulesSuite",
            f"{_MODULES}::test_modules_that_are_those_of_the_frame_give_its_own_answer",
        ),
        reproduced="a module of the frame itself gives the frame's answer; on few digits modules "
        "learnt alone are no better a start than as many steps from end to end: `benchmarks "
        "claims few-digits-m2mkd`",
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
        reproduced="on few digits two teachers without labels bring 1.5 points, as with labels, "
        "and the discriminator nothing: `benchmarks claims few-digits-discriminator`",
    ),
    Paper(
        "cnn-vit-collab-kd",
        covers="two networks of any kinds that learn labels and each other's answers by one step, "
        "both ways or of each image by the better one, of whole images as pixels are there; not "
        "segmentation, regions or features through the other's layers",
        where=("scanmax.train.objectives.mutual.Mutual",),
        tests=(
            "tests/train/test_mutual.py::MutualSuite",
            "tests/train/test_mutual.py::SelectiveSuite",
            "tests/train/test_mutual.py::test_partners_by_name_or_like_the_model_start_elsewhere",
        ),
        reproduced="on 70 digits a CNN and a transformer are together half a point below each "
        "alone, and where the better one teaches a fifth of a point above both ways, less than "
        "seeds differ by: `benchmarks claims few-digits-mutual`",
    ),
    Paper(
        "multimodal-kd-egocentric",
        covers="logits of any number of teachers added by weights that are alike, of a data set by "
        "the softmin of losses, or of each example, as the release has them, in a divergence "
        "beside labels with a free weight each, where the paper has lambda and 1 - lambda; the "
        "error of calibration as an evaluator; a teacher's modality is what its model takes of the "
        "image; not the mean over heads of verbs and nouns, video models, or the tables",
        where=(
            "scanmax.train.terms.ensemble_kd.EnsembleKd",
            "scanmax.train.terms.ensemble_kd.dataset_shares",
            "scanmax.train.evaluators.calibration.Calibration",
        ),
        tests=(
            "tests/train/terms/test_ensemble_kd.py::EnsembleKdSuite",
            "tests/train/terms/test_ensemble_kd.py::test_weights_become_alike_or_one_teachers_with_"
            "the_temperature",
            "tests/train/terms/test_ensemble_kd.py::test_the_error_of_calibration_is_that_of_a_"
            "loop",
        ),
        reproduced="weights become alike as their temperature grows; digits-modalities in "
        "docs/claims.md: on 140 digits a student of half the image learns less of three teachers "
        "than of labels alone, and is calibrated worse; weights of each example are the better "
        "calibrated",
    ),
    Paper(
        "mv-mr",
        covers="two views by squares, spread and the correlation of distances, which also ties "
        "them to pixels, histograms of oriented gradients and local deviations; the same "
        "correlation as a term that distils a teacher of any width; not the scattering transform "
        "or the tables",
        where=(
            "scanmax.train.objectives.mv_mr.MvMr",
            "scanmax.train.terms.distance_correlation.DistanceCorrelation",
        ),
        tests=(
            "tests/train/test_mv_mr.py::MvMrSuite",
            "tests/train/test_mv_mr.py::test_descriptions_of_images_are_those_of_a_loop_over_pixels",
            f"{_BATCH}::BatchTermsSuite",
            f"{_BATCH}::test_distances_of_independent_examples_are_not_correlated",
            f"{_BATCH}::test_relations_are_blind_to_turns_and_scale",
        ),
        reproduced="distances are fully correlated where a space is turned and scaled, and "
        "hardly where examples are independent; on few digits a teacher's add half a point to "
        "KD: `benchmarks claims few-digits-distances`; without labels features of digits come "
        "from 67.8% to 87.7% by a linear probe, by distances of a teacher to 90.9%: "
        "`benchmarks claims few-digits-mv-mr`",
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
        "label's as published; on few digits it is above labels alone, and below KD: `benchmarks "
        "claims few-digits-other-kinds`",
    ),
    Paper(
        "proc-kd",
        covers="a bank of prototypes of a teacher's local features, which may know other classes, "
        "read by the student's in training and frozen for it; no code is published and the "
        "abstract leaves the fusion open: here it is a sum; not the tables",
        where=("scanmax.train.terms.proc_kd.ProcKd",),
        tests=(
            f"{_MODULES}::ModulesSuite",
            f"{_MODULES}::test_a_bank_that_is_not_read_leaves_the_students_own_loss",
        ),
        reproduced="a bank that is not read leaves the student's own loss; on few digits of "
        "other classes than the teacher's it is as good as labels alone: `benchmarks claims "
        "few-digits-proc-kd`",
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
        reproduced="without its first coefficient a cosine transform leaves the map less its mean; "
        "on few digits it adds half a point to KD's two and a half: `benchmarks claims "
        "few-digits-scalekd`",
    ),
    Paper(
        "tgeo-kd",
        covers="shares of each example by an MLP of the differences of student, teacher, label and "
        "the teacher's mean of the class, learned by held-out cross-entropy behind one unrolled "
        "step (optim.gradient unrolled); chosen without public code: a part of each batch is held "
        "out, an outer step at every one; not attack detection or click-through rates",
        where=(
            "scanmax.train.terms.tgeo_kd.TgeoKd",
            "scanmax.train.gradients.unrolled.Unrolled",
        ),
        tests=(
            "tests/train/terms/test_tgeo_kd.py::TgeoKdSuite",
            "tests/train/terms/test_tgeo_kd.py::test_outer_gradient_is_that_of_a_step_by_hand_and_"
            "differences",
        ),
        reproduced="the outer gradient is that of differences; not that shares are lower where the "
        "teacher is wrong, nor that they beat a share of one half: on 400 digits, a part of each "
        "batch held out, they are 0.65 there and 0.60 elsewhere, and the student two percent "
        "below: benchmarks claims few-digits-tgeo",
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
        reproduced="what is added to a channel changes nothing; on few digits channels add a "
        "third of a point to KD at the last epoch, none at the best: `benchmarks claims "
        "few-digits-channelwise`; stages that are fused add 0.4 points to KD: `benchmarks "
        "claims few-digits-selective-fusion`",
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
        reproduced="at a small epsilon the plan is the assignment that scipy finds; on few digits "
        "it adds a fifth of a point to KD, less than seeds differ by, and is above relations "
        "alone: `benchmarks claims few-digits-wcord`",
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
        "towards it; on few digits it adds nothing to KD or DKD: `benchmarks claims "
        "few-digits-nd-loss-kd`",
    ),
    Paper(
        "clip-kd",
        covers="distillation of features, interactive contrast, contrastive relation, gradients in "
        "closed form and augmented features between two towers of any models and widths, masked "
        "features by hidden patches; the scales of contrasts are exponentials of what is learned, "
        "where the released code takes the logarithm itself; not the tables' data or models",
        where=(
            "scanmax.train.terms.clip_kd.ClipKd",
            "scanmax.train.objectives.contrastive.Clip",
        ),
        tests=(
            f"{_TOWERS}::PairTermsSuite",
            f"{_TOWERS}::test_the_closed_form_of_gradients_is_the_gradient",
            f"{_TOWERS}::test_towers_that_are_their_teacher_have_nothing_to_learn",
            "tests/train/test_towers.py::ClipSuite",
        ),
        reproduced="towers that are their teacher lose nothing of features, relation and "
        "gradients; on pairs of 70 digits a teacher brings small towers from 63.3% to 73.2%, "
        "by contrast as much as by features, by relations less: `benchmarks claims "
        "few-pairs-clip-kd`",
    ),
    Paper(
        "teachtext",
        covers="the matrix of similarities of a batch held to the mean of several teachers' by the "
        "smooth L1 loss, beside the ranking loss with a margin, for images and texts; not videos, "
        "their mixtures of experts or modalities that are dropped",
        where=(
            "scanmax.train.terms.similarity_matrix.SimilarityMatrix",
            "scanmax.train.objectives.contrastive.MaxMargin",
        ),
        tests=(
            f"{_TOWERS}::PairTermsSuite",
            f"{_TOWERS}::test_a_matrix_of_similarities_is_blind_to_turns_and_is_the_mean_of_several",
        ),
        reproduced="a teacher whose embeddings are turned together teaches the same; on pairs of "
        "70 digits 68.2% for 55.8% of the ranking loss alone: `benchmarks claims "
        "few-pairs-similarity-matrix`",
    ),
    Paper(
        "tinyclip",
        covers="affinity mimicking, both ways over the whole batch of all devices, each side with "
        "its own temperature; a student that inherits evenly spaced blocks and front channels of "
        "its teacher, stage after stage; not the learned masks or the models of the tables",
        where=(
            "scanmax.train.terms.affinity.Affinity",
            "scanmax.models.weights.thinning.thinned",
        ),
        tests=(
            f"{_TOWERS}::PairTermsSuite",
            f"{_TOWERS}::test_a_teacher_that_is_sure_teaches_clips_own_loss",
            f"{_TOWERS}::test_a_student_inherits_of_a_larger_teacher",
        ),
        reproduced="of a teacher that is sure of all pairs it is CLIP's loss; on pairs of 70 "
        "digits 66.8% for 63.3% of CLIP's loss alone: `benchmarks claims few-pairs-affinity`",
    ),
    Paper(
        "dho-dual-head",
        covers="two heads on shared features, one of the labels that there are and one of what a "
        "teacher, two towers by captions of classes, says of all images; the mixture of both as "
        "the answer, and a share of labels in the made-up pairs; its two numbers are set, "
        "not searched for, and the tables' data are not here",
        where=(
            "scanmax.train.objectives.named.DualHeadOptimization",
            "scanmax.models.parts.heads.DualHead",
        ),
        tests=(
            f"{_NAMED}::DualHeadSuite",
            f"{_NAMED}::test_both_heads_answer_by_their_shares",
            f"{_NAMED}::test_heads_apart_do_not_pull_at_each_other",
        ),
        reproduced="neither loss moves the other's head, and both move the features; of few "
        "labels and a teacher that errs above labels alone and the teacher, and a point below "
        "one head: `benchmarks claims few-digits-dual-head`",
    ),
    Paper(
        "large-vlm-distill-ood",
        covers="a student in the space of a teacher's images and captions of classes: mimicry of "
        "features, contrast among the images of a batch, coherence of answers, labels of the "
        "classes that have some; made-up pairs with classes that training does not show; not "
        "captions by a language model or few-shot prompts",
        where=("scanmax.train.objectives.named.SharedVectors",),
        tests=(
            f"{_NAMED}::SharedVectorsSuite",
            f"{_NAMED}::test_a_class_is_the_mean_of_its_captions",
            "tests/data/test_pairs.py::test_classes_that_no_training_picture_shows",
        ),
        reproduced="of captions that no training pair has, 62.4% are told, 56.1% by labels "
        "alone: `benchmarks claims few-pairs-new-captions`",
    ),
    Paper(
        "promptkd",
        covers="deep prompts of any isotropic image tower and of a causal text tower, learned by "
        "labels with all else frozen (the teacher's, without PromptSRC's regularisers); the "
        "divergence of answers by the teacher's vectors of classes, from a projector of two "
        "layers, with the released batch norm or gelu, on a frozen student with prompts, without "
        "labels; vectors are carried, and no text tower is asked for held-out images; not CLIP's "
        "weights or the tables of eleven data sets",
        where=(
            "scanmax.train.objectives.named.SharedVectors",
            "scanmax.train.objectives.named.CaptionedClasses",
            "scanmax.models.parts.heads.UnitProjection",
            "scanmax.models.prompts.PromptedBlock",
        ),
        tests=(
            f"{_NAMED}::SharedVectorsSuite",
            f"{_NAMED}::CaptionedClassesSuite",
            f"{_NAMED}::test_a_student_begins_as_the_image_tower_of_two",
            f"{_PROMPTS}::test_prompts_of_images_stand_behind_the_prefix_and_are_left_behind",
            f"{_PROMPTS}::test_prompts_of_texts_stand_ahead_and_are_not_answered",
        ),
        reproduced="on pairs of digits answers teach a projector of random features more than "
        "features do, 14.6% for 8.6%, and far from the teacher's 93.4%: `benchmarks claims "
        "few-pairs-promptkd`",
    ),
)
