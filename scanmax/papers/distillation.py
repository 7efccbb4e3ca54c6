"""Learning from a teacher."""

from scanmax.papers.paper import Paper

LEDGER = (
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
