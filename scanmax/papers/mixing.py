"""Mixing of examples."""

from scanmax.papers.paper import Paper

LEDGER = (
    Paper(
        "attentive-cutmix",
        covers="cells of any grid by the map of a teacher or of the model itself, labels by the "
        "share of the pixels; not its tables on CIFAR",
        where=("scanmax.train.mixing.attentive_cutmix.AttentiveCutMix",),
        tests=(
            "tests/train/test_mixing.py::test_pixels_and_labels_are_those_of_a_loop_over_rows",
            "tests/train/test_mixing.py::AttentiveSuite",
        ),
    ),
)
