"""Gates of channels, and mixtures of experts."""

from scanmax.papers.paper import Paper

LEDGER = (
    Paper(
        "cbam",
        covers="both gates and the module with its norm, in any block; not the pooling variants of "
        "the released code (Lp, log-sum-exp), BAM or the ResNets",
        where=(
            "scanmax.ops.cbam_channel_gate",
            "scanmax.ops.cbam_spatial_gate",
            "scanmax.models.parts.channel_attention.Cbam",
        ),
        tests=(
            "tests/ops/channels/test_attention.py::CbamChannelGateTest",
            "tests/ops/channels/test_attention.py::CbamSpatialGateTest",
            "tests/models/parts/test_channel_attention.py::test_the_cbam_module_is_its_two_ops",
            "tests/parity/test_heads_parity.py::test_cbam_equals_timm",
        ),
    ),
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
        "pkcam",
        covers="ECA, and PKCAM over it with earlier stages, released form; ECA-ResNets with "
        "weights of timm; not its SE and SRM variants, or ResNets with PKCAM",
        where=(
            "scanmax.models.vision.resnet.ResNet",
            "scanmax.ops.efficient_channel_attention",
            "scanmax.ops.pkcam",
            "scanmax.models.parts.channel_attention.Pkcam",
        ),
        tests=(
            "tests/ops/channels/test_attention.py::EfficientChannelAttentionTest",
            "tests/ops/channels/test_attention.py::PkcamTest",
            "tests/models/parts/test_channel_attention.py::test_pkcam_has_as_many_weights_as_the_authors",
            "tests/parity/test_heads_parity.py::test_eca_equals_timm",
            "tests/models/vision/test_resnet.py::test_gates_cost_what_their_papers_say",
            "tests/parity/test_resnet_parity.py",
        ),
        reproduced="k + k + (S + 1) + 2 weights a block",
    ),
    Paper(
        "se-net",
        covers="the gate, as an op, a module and an option of every block; SE-ResNets, SE-ResNeXts "
        "and SENet-154 with weights of timm; not the other places of the gate",
        where=(
            "scanmax.models.vision.resnet.ResNet",
            "scanmax.ops.squeeze_excite",
            "scanmax.models.parts.channel_attention.SqueezeExcite",
        ),
        tests=(
            "tests/ops/channels/test_attention.py::SqueezeExciteTest",
            "tests/models/parts/test_channel_attention.py::test_blocks_take_every_gate",
            "tests/parity/test_heads_parity.py::test_squeeze_excite_equals_timm",
            "tests/models/vision/test_resnet.py::test_gates_cost_what_their_papers_say",
            "tests/models/vision/test_resnet.py::test_every_published_size_has_its_exact_count",
            "tests/parity/test_resnet_parity.py",
        ),
    ),
    Paper(
        "sparsely-gated-moe",
        covers="top-k gates of a softmax, room for some tokens of a sequence, the way to experts "
        "and back, the MLP of experts in ViT and language models with the load-balance loss of its "
        "successors (GShard, Switch) and a router z-loss, or with noisy gates and the losses on "
        "importance and load; not hierarchies of experts",
        where=(
            "scanmax.ops.noisy_logits",
            "scanmax.ops.expert_load",
            "scanmax.ops.squared_variation",
            "scanmax.ops.expert_gates",
            "scanmax.ops.dispatch_to_experts",
            "scanmax.ops.combine_experts",
            "scanmax.models.parts.experts.ExpertMlp",
        ),
        tests=(
            "tests/ops/channels/test_experts.py",
            "tests/ops/channels/test_routing.py",
            "tests/models/parts/test_experts.py::test_it_is_a_loop_over_experts_and_tokens",
            "tests/models/parts/test_experts.py::test_routers_choose_otherwise_in_training_alone",
        ),
        reproduced="the losses even out experts: `benchmarks claims noisy-gates-balance`",
    ),
    Paper(
        "sigma-moe-pkm",
        covers="top-k activation, product-key memories with exact search in two stages and relu or "
        "softmax weights, sigmoid gates with the entropy balance, expert dropout and the dense "
        "start, choices by Sinkhorn's iterations in training, and experts that drop nothing, with "
        "no gain on a CPU, where XLA does all products; not the Transformer-XL or its figures",
        where=(
            "scanmax.ops.top_k_activation",
            "scanmax.ops.product_key_top_k",
            "scanmax.ops.product_key_memory",
            "scanmax.ops.entropy_balance",
            "scanmax.ops.dropless_experts",
            "scanmax.models.parts.experts.ExpertMlp",
            "scanmax.models.parts.memory.ProductKeyMemory",
        ),
        tests=(
            "tests/ops/channels/test_memory.py",
            "tests/ops/channels/test_dropless.py",
            "tests/ops/channels/test_routing.py::EntropyBalanceTest",
            "tests/models/parts/test_experts.py",
        ),
        reproduced="all experts with gates of 1 are the dense MLP, and no product key is missed: "
        "`benchmarks claims sigma-moe-is-an-mlp`",
    ),
    Paper(
        "ska-speaker",
        covers="selective kernels, gated for each channel or for each row, which are frequencies "
        "on a spectrogram, one after the other for both; not the Res2Net blocks, the front-end or "
        "the speaker network",
        where=("scanmax.ops.selective_kernel",),
        tests=("tests/ops/channels/test_selective.py::SelectiveKernelTest",),
        reproduced="gates sum to one over branches: tests/ops/channels/test_selective.py::"
        "test_equal_branches_pass_whatever_the_gates",
    ),
    Paper(
        "spartan",
        covers="the waves of channels as an op, with their convolution and gate as an MLP, the "
        "convolutions of two reaches as a mixer, and the network of the release's one "
        "configuration, to which the authors' code gives the same numbers; not the larger sizes, "
        "which no public configuration tells, the recipe, or detection",
        where=(
            "scanmax.ops.wave_aggregation",
            "scanmax.models.parts.wave_mlp.WaveMlp",
            "scanmax.models.mixers.MultiOrder",
            "scanmax.models.vision.spartan.Spartan",
        ),
        tests=(
            "tests/ops/channels/test_wave.py::WaveAggregationTest",
            "tests/models/mixers/test_mixers.py",
            "tests/models/vision/test_spartan.py",
            "tests/models/vision/test_authors.py",
        ),
        reproduced="the released code's 3,820,296 parameters; a pair of channels is turned and "
        "scaled: tests/ops/channels/test_wave.py::test_a_pair_is_turned_and_scaled; 0.8 G "
        "multiply-adds where the abstract says about 1.0",
    ),
)
