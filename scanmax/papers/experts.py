"""Mixtures of experts, and how they are spread over devices."""

from scanmax.papers.paper import Paper

LEDGER = (
    Paper(
        "moe-parallel-folding",
        covers="attention and experts over different axes of one mesh by rules, experts over the "
        "axes of batch, heads or both, tokens dropped or not, exchanged by all-to-all; not "
        "pipelines, nor messages of varying length",
        where=("scanmax.models.parts.experts.ExpertMlp", "scanmax.train.sharding.get_preset"),
        tests=(
            "tests/train/test_sharding.py::test_experts_take_their_devices_from_the_batch",
            "tests/train/test_sharded_models.py::test_sharded_models_equal_one_device",
        ),
        reproduced="loss and gradients are those of one device under each mapping tried",
    ),
    Paper(
        "sparsely-gated-moe",
        covers="top-k gates of a softmax, room for some tokens of a sequence, the way to experts "
        "and back, the MLP of experts in ViT and language models with the load-balance loss of its "
        "successors (GShard, Switch) and a router z-loss; not noisy gates, the losses on "
        "importance and load, or hierarchies",
        where=(
            "scanmax.ops.expert_gates",
            "scanmax.ops.dispatch_to_experts",
            "scanmax.ops.combine_experts",
            "scanmax.models.parts.experts.ExpertMlp",
        ),
        tests=(
            "tests/ops/channels/test_experts.py",
            "tests/models/parts/test_experts.py::test_it_is_a_loop_over_experts_and_tokens",
        ),
    ),
)
