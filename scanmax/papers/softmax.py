"""Functions that turn logits into weights."""

from scanmax.papers.paper import Paper

LEDGER = (
    Paper(
        "dbnorm-dual-inverted-softmax",
        covers="inverted and dual inverted softmax over banks, static and dynamic, in logarithms; "
        "k-occurrence and its skewness; not the retrieval benchmarks",
        where=(
            "scanmax.ops.inverted_softmax",
            "scanmax.ops.dual_inverted_softmax",
            "scanmax.ops.k_occurrence",
            "scanmax.ops.hubness",
        ),
        tests=("tests/ops/softmax/test_hubness.py",),
        reproduced="on shifted synthetic queries hubs vanish and recall rises "
        "(dual-inverted-softmax in docs/claims.md); there the query bank alone does better still",
    ),
    Paper(
        "lssar-softplus-attention",
        covers="length-scaled softplus and the power re-weighting as functions of logits and as "
        "normalizers of attention: matrix, streamed in linear memory with gradients, step by step; "
        "offset and power are options, the paper's choice of them is not settled; not the GPT runs "
        "or the GPU kernels",
        where=(
            "scanmax.ops.softplus_softmax",
            "scanmax.ops.reweight_power",
            "scanmax.ops.Softplus",
            "scanmax.ops.SoftplusReweighted",
        ),
        tests=(
            "tests/ops/softmax/test_positive.py",
            "tests/ops/attention/test_normalizer.py",
        ),
        reproduced="no overflow at logits of 1e4 in half precision; the entropy over length of "
        "random queries and keys (lssa-entropy in docs/claims.md) is not flatter for LSSA",
    ),
    Paper(
        "mpcvit",
        covers="ReLU softmax, squared ReLU, 2Quad and the square norm as functions and normalizers "
        "of attention; scaling attention in both orders; heads that mix the two, with their mixer; "
        "not the search for heads, the distillation or secure inference",
        where=(
            "scanmax.ops.relu_softmax",
            "scanmax.ops.squared_relu_softmax",
            "scanmax.ops.two_quad",
            "scanmax.ops.ReluSoftmax",
            "scanmax.ops.TwoQuad",
            "scanmax.ops.scaling_attention",
            "scanmax.ops.heterogeneous_attention",
        ),
        tests=(
            "tests/ops/softmax/test_positive.py",
            "tests/ops/attention/test_normalizer.py",
            "tests/ops/attention/test_heterogeneous.py",
            "tests/ops/linear/test_scaling.py",
        ),
        reproduced="rows of ReLU softmax sum to 1 or 0",
    ),
    Paper(
        "sigmoid-attention",
        covers="sigmoid attention with the bias -log n, dense, streamed and step by step; not the "
        "GPU kernel or training runs",
        where=("scanmax.ops.sigmoid_weights", "scanmax.ops.Sigmoid"),
        tests=(
            "tests/ops/softmax/test_softmax.py::SigmoidWeightsTest",
            "tests/ops/attention/test_dot_product.py::DotProductAttentionTest",
            "tests/ops/attention/test_dot_product.py::AttentionStepTest",
            "tests/test_papers.py::test_sigmoid_attention_needs_its_bias",
        ),
        reproduced="with the bias the output keeps softmax's scale from 64 to 2048 keys, without "
        "it the excess grows with their number",
    ),
    Paper(
        "stablemax-perpgrad",
        covers="StableMax, its logarithm, its cross-entropy and StableMax attention; perpGrad as "
        "an optax transformation and a field of the trainer's config; modular arithmetic; not "
        "sparse parity, the transformer or MNIST runs",
        where=(
            "scanmax.ops.stablemax",
            "scanmax.ops.log_stablemax",
            "scanmax.ops.Stablemax",
            "scanmax.train.losses.stablemax_cross_entropy",
            "scanmax.train.optim.perp_grad",
            "scanmax.data.modular.modular_arithmetic",
        ),
        tests=(
            "tests/ops/softmax/test_softmax.py::StablemaxTest",
            "tests/ops/softmax/test_softmax.py::LogStablemaxTest",
            "tests/ops/softmax/test_softmax.py::NumericsTest",
            "tests/train/test_losses_metrics.py::test_stablemax_cross_entropy",
            "tests/train/test_optim.py::test_perp_grad_is_orthogonal_and_keeps_the_norm",
            "tests/data/test_modular.py",
        ),
        reproduced="a gradient of the right class at logit gaps where softmax has exactly none; "
        "modular addition stalls in float32 and groks with perpGrad; StableMax, which the paper "
        "trains for 80000 steps, has not grokked after 6000 (docs/claims.md, with the picture)",
    ),
    Paper(
        "two-pass-softmax",
        covers="the two-pass algorithm, its (mantissa, exponent) pairs as a mergeable sum, and "
        "attention over it; not the AVX kernels",
        where=(
            "scanmax.ops.softmax",
            "scanmax.ops.extexp",
            "scanmax.ops.extexp_add",
            "scanmax.ops.extexp_sum",
            "scanmax.ops.TwoPassSoftmax",
        ),
        tests=(
            "tests/ops/softmax/test_softmax.py::SoftmaxTest",
            "tests/ops/softmax/test_softmax.py::ExtexpTest",
            "tests/ops/softmax/test_softmax.py::NumericsTest",
        ),
        reproduced="no overflow without a pass for the maximum; the speed-up is not claimed",
    ),
)
