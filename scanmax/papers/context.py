"""One sequence over many devices."""

from scanmax.papers.paper import Paper

LEDGER = (
    Paper(
        "unified-long-sequence-dmha",
        covers="attention over devices by query rows (a ring of keys, with the balanced causal "
        "order) and by heads, every normalizer, gradients included, and in the trainer's models; "
        "the layout is this project's, the paper does not say its own. Not the survey's other "
        "models, nor the sparse-capacity one",
        where=(
            "scanmax.ops.context_attention",
            "scanmax.ops.zigzag_order",
            "scanmax.models.mixers.attention.dot_product.Attention",
        ),
        tests=(
            "tests/ops/context/test_attention.py",
            "tests/train/test_sharded_models.py::test_sharded_models_equal_one_device",
        ),
        reproduced="memory of a device is its share, 1 / devices; the factor of 40 on four GPUs "
        "was not measured",
    ),
)
