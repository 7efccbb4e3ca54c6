"""Losses of labels."""

from scanmax.papers.paper import Paper

_EQUATION = "tests/train/test_losses.py::test_values_and_gradients_are_those_of_the_equation"
_LIMITS = "tests/train/test_losses.py::test_limits_are_the_losses_that_they_should_be"

LEDGER = (
    Paper(
        "cnn-svm",
        covers="the squared hinge of each class against the rest, of plain, mixed and smoothed "
        "labels, the norm by weight decay; not the network or its tables",
        where=("scanmax.train.losses.squared_hinge.SquaredHinge",),
        tests=(
            _EQUATION,
            "tests/train/test_losses.py::test_a_linear_model_of_squared_hinges_is_the_support_"
            "vector_machine",
        ),
        reproduced="a linear model of it has its least loss where scikit-learn's LinearSVC has; on "
        "few digits it is half a percent below softmax: benchmarks claims few-digits-svm",
    ),
    Paper(
        "comp-sum-losses",
        covers="the family at any tau, of plain, mixed and smoothed labels; not the smooth "
        "adversarial losses or the bounds",
        where=("scanmax.train.losses.comp_sum.CompSum",),
        tests=(_EQUATION, _LIMITS),
        reproduced="tau = 0, 1, 2 are the sum-exponential loss, cross-entropy and the mean "
        "absolute error; on digits 1 is better than 0 and 2, and 1.5 bears wrong labels better: "
        "benchmarks claims few-digits-comp-sum",
    ),
    Paper(
        "cpp-rate-reduction-clustering",
        covers="rates of vectors whole and by soft groups, memberships by Sinkhorn with the "
        "released gradient or the whole one, both heads with the warm start, on the features of "
        "any image model; spectral clusters, and their number by coding length (evaluator "
        "clustering); not names of clusters by prompts, or CLIP's features",
        where=(
            "scanmax.train.objectives.rate_reduction.RateReduction",
            "scanmax.train.losses.rate_reduction.compressed_rate",
            "scanmax.train.clustering.cluster_count",
        ),
        tests=(
            "tests/train/test_rate_reduction.py::RateReductionSuite",
            "tests/train/test_rate_reduction.py::test_rates_and_memberships_equal_loops_and_their_"
            "gradients_finite_differences",
            "tests/train/test_rate_reduction.py::test_a_rate_is_bounded_and_subspaces_at_right_"
            "angles_save_most",
        ),
        reproduced="planes at right angles save most, and their clusters and number are found; not "
        "that digits cluster better: behind SimCLR's features of few digits 59 percent are right "
        "where k-means has 72, and coding length finds 2 to 4: benchmarks claims "
        "digits-rate-reduction",
    ),
    Paper(
        "dexml-decoupled-softmax",
        covers="the decoupled softmax and the soft top-k loss with its own gradient, of one, "
        "several and mixed labels; not the two encoders, hard negatives or cached gradients",
        where=(
            "scanmax.train.losses.decoupled_softmax.DecoupledSoftmax",
            "scanmax.train.losses.soft_topk.SoftTopK",
        ),
        tests=(_EQUATION, _LIMITS, "tests/train/test_losses.py::test_soft_topk_sums_to_k"),
        reproduced="labels that are true together do not push each other down, and are ranked "
        "better for it, by the soft top-k no better still: benchmarks claims made-up-labels",
    ),
    Paper(
        "equiangular-basis-vectors",
        covers="fixed vectors of any width within a bound of their cosines, classification by the "
        "nearest, with any loss; not the descent in slices for very many classes or the released "
        "vectors",
        where=(
            "scanmax.train.objectives.cosine_classification.CosineClassification",
            "scanmax.train.objectives.class_vectors.equiangular_vectors",
        ),
        tests=(
            "tests/train/test_losses.py::WeighedCosineSuite",
            "tests/train/test_cosine_classification.py::test_fixed_vectors_keep_their_angles",
            "tests/train/test_cosine_classification.py::test_nearest_of_the_fixed_vectors_is_the_"
            "answer",
        ),
        reproduced="not that it is as good as a head: on few digits fixed vectors are two percent "
        "below, of six dimensions nine: benchmarks claims few-digits-equiangular",
    ),
    Paper(
        "hyperspherical-normalized-softmax",
        covers="the normalised softmax with learned vectors, scale and margin, and features that "
        "classes never seen are told apart by (evaluator knn); not the protocols of the tables",
        where=("scanmax.train.objectives.cosine_classification.CosineClassification",),
        tests=(
            "tests/train/test_cosine_classification.py::test_learned_vectors_give_the_normalised_"
            "softmax_and_its_gradient",
            "tests/parity/test_losses_parity.py::test_angles_with_learned_vectors_are_those_of_"
            "pytorch_metric_learning",
        ),
        reproduced="at its best epoch, not at the last, it tells four unseen digits apart as a "
        "plain head's features do: benchmarks claims few-digits-unseen",
    ),
    Paper(
        "imagenet21k-p-semantic-softmax",
        covers="the semantic softmax of any tree of classes with the released weights of levels, "
        "accuracy within a level; not semantic distillation, the cleaning of the data or the tree "
        "of ImageNet-21K",
        where=("scanmax.train.losses.semantic_softmax.SemanticSoftmax",),
        tests=(
            _EQUATION,
            _LIMITS,
            "tests/train/test_losses.py::test_a_label_says_nothing_below_its_own_level",
        ),
        reproduced="one level is cross-entropy with smoothed labels; of labels of two levels it "
        "learns nine percent more than a flat softmax: benchmarks claims few-digits-semantic",
    ),
    Paper(
        "z-loss-spherical",
        covers="the Z-loss, and the Taylor and square softmax of the spherical family; not the "
        "factorised update, whose cost does not grow with the classes",
        where=(
            "scanmax.train.losses.z_loss.ZLoss",
            "scanmax.train.losses.spherical_softmax.SphericalSoftmax",
        ),
        tests=(_EQUATION, _LIMITS),
        reproduced="neither a shift nor a scale of the logits changes the Z-loss; within the 5 and "
        "10 highest of 100 labels: benchmarks claims made-up-z-loss",
    ),
)
