"""The ledger: which papers are in the code, where, how each is verified, what is reproduced.

`python -m scanmax.papers` prints docs/papers.md; a test checks that every name and test exists. A
paper is entered when what its row claims works.
"""

import dataclasses

# Every paper that a docstring or a table of models cites, entered in the ledger or not.
TITLES = {
    "attsets": "Robust Attentional Aggregation of Deep Feature Sets for Multi-view 3D "
    "Reconstruction",
    "cbam": "CBAM: Convolutional Block Attention Module",
    "conditional-cross-attention": "Conditional Cross Attention Network for Multi-Space Embedding "
    "without Entanglement in Only a SINGLE Network",
    "context-cluster": "Image as Set of Points",
    "convit-gpsa": "ConViT: Improving Vision Transformers with Soft Convolutional Inductive Biases",
    "convnext": "A ConvNet for the 2020s",
    "dcal": "Dual Cross-Attention Learning for Fine-Grained Visual Categorization and Object "
    "Re-Identification",
    "deit": "Training data-efficient image transformers & distillation through attention",
    "evit": "Not All Patches are What You Need: Expediting Vision Transformers via Token "
    "Reorganizations",
    "evonorm": "Evolving Normalization-Activation Layers",
    "expedit-dense-vit": "Expediting Large-Scale Vision Transformer for Dense Prediction without "
    "Fine-tuning",
    "glmix": "Revisiting the Integration of Convolution and Attention for Vision Backbone",
    "hidden-mamba-attention": "The Hidden Attention of Mamba Models",
    "icl-linreg-multihead-softmax": "In-Context Linear Regression Demystified: Training Dynamics "
    "and Mechanistic Interpretability of Multi-Head Softmax Attention",
    "illama": "Adapting LLaMA Decoder to Vision Transformer",
    "inception-v3": "Rethinking the Inception Architecture for Computer Vision",
    "inline-attention": "Bridging the Divide: Reconsidering Softmax and Linear Attention",
    "kmax-deeplab": "kMaX-DeepLab: k-means Mask Transformer",
    "mala-magnitude-aware-linear-attention": "Rectifying Magnitude Neglect in Linear Attention",
    "mamba2-ssd": "Transformers are SSMs: Generalized Models and Efficient Algorithms Through "
    "Structured State Space Duality",
    "mctf": "Multi-criteria Token Fusion with One-step-ahead Attention for Efficient Vision "
    "Transformers",
    "moh": "MoH: Multi-Head Attention as Mixture-of-Head Attention",
    "mpcvit": "MPCViT: Searching for Accurate and Efficient MPC-Friendly Vision Transformer with "
    "Heterogeneous Attention",
    "pkcam": "PKCAM: Previous Knowledge Channel Attention Module",
    "rala-ravlt": "Breaking the Low-Rank Dilemma of Linear Attention",
    "rmt-masa": "RMT: Retentive Networks Meet Vision Transformers",
    "se-net": "Squeeze-and-Excitation Networks",
    "sigmoid-attention": "Theory, Analysis, and Best Practices for Sigmoid Self-Attention",
    "sit-self-slimmed": "Self-slimmed Vision Transformer",
    "soft-softmax-free": "Softmax-free Linear Transformers",
    "ssa-selective-self-attention": "Selective Attention: Enhancing Transformer through "
    "Principled Context Control",
    "stablemax-perpgrad": "Grokking at the Edge of Numerical Stability",
    "stm-evaluation": "Demystify Transformers & Convolutions in Modern Image Deep Networks",
    "t2t-vit": "Tokens-to-Token ViT: Training Vision Transformers from Scratch on ImageNet",
    "tensor-attention": "How to Capture Higher-order Correlations? Generalizing Matrix Softmax "
    "Attention to Kronecker Computation",
    "tic-msa-conv": "TiC: Exploring Vision Transformer in Convolution",
    "transnext": "TransNeXt: Robust Foveal Visual Perception for Vision Transformers",
    "two-pass-softmax": "The Two-Pass Softmax Algorithm",
    "unified-long-sequence-dmha": "A Unified View of Long-Sequence Models towards Modeling "
    "Million-Scale Dependencies",
    "visual-transformer-vt": "Visual Transformers: Token-based Image Representation and "
    "Processing for Computer Vision",
    "vit-performs-convolution": "Can Vision Transformers Perform Convolution?",
    "vssd": "VSSD: Vision Mamba with Non-Causal State Space Duality",
    "xcit": "XCiT: Cross-Covariance Image Transformers",
}


@dataclasses.dataclass(frozen=True)
class Paper:
    """A row of the ledger.

    Attributes:
      key: id of the paper, one of TITLES.
      covers: which part of the paper the code holds.
      where: dotted names of the code.
      tests: pytest node ids that verify it.
      reproduced: the figure, table or claim of the paper that is shown again, and by what; "" for
        none.
    """

    key: str
    covers: str
    where: tuple[str, ...]
    tests: tuple[str, ...]
    reproduced: str = ""


LEDGER = (
    Paper(
        "convnext",
        covers="the five sizes, feature maps, training at any image size, weights of timm and of "
        "the authors; not the isotropic variants or the roadmap from ResNet",
        where=("scanmax.models.convnext.ConvNext", "scanmax.ops.depthwise_conv2d"),
        tests=(
            "tests/test_registry.py::ConvNextSuite",
            "tests/models/test_weights.py::test_golden",
            "tests/parity/test_convnext_parity.py",
            "tests/test_papers.py::test_published_multiply_adds",
        ),
        reproduced="parameters of T to XL to the last one; GFLOPs of T, S, B, L",
    ),
    Paper(
        "deit",
        covers="Ti, S and B, the distilled models with their token, 384 pixels; hard and soft "
        "distillation; the recipe as a config, not trained on ImageNet here; weights of timm",
        where=(
            "scanmax.models.vit.VisionTransformer",
            "scanmax.train.losses.hard_distillation",
            "scanmax.train.losses.soft_distillation",
            "scanmax.configs.imagenet_deit_small",
        ),
        tests=(
            "tests/test_registry.py::VitSuite",
            "tests/models/test_weights.py::test_golden",
            "tests/parity/test_vit_parity.py",
            "tests/train/test_losses_metrics.py::test_distillation",
            "tests/train/test_configs.py",
            "tests/test_papers.py::test_published_multiply_adds",
        ),
        reproduced="parameters of all eight models to the last one; GFLOPs of Ti, S, B",
    ),
    Paper(
        "hidden-mamba-attention",
        covers="the matrix view of selective scan and SSD; not the rollout or the attribution",
        where=(
            "scanmax.ops.selective_scan",
            "scanmax.ops.selective_scan_matrix",
            "scanmax.ops.ssd_matrix",
        ),
        tests=(
            "tests/ops/test_ssm.py::SelectiveScanTest",
            "tests/ops/test_ssm.py::SelectiveScanMatrixTest",
            "tests/ops/test_ssm.py::SsdMatrixTest",
        ),
        reproduced="scan, recurrence and attention matrix of one layer give equal outputs",
    ),
    Paper(
        "illama",
        covers="the soft causal mask after the softmax (released) and before it, whole and by "
        "blocks, with its schedule and a mixer whose class token stands last; rotary positions; "
        "not the four models",
        where=(
            "scanmax.ops.soft_causal_attention",
            "scanmax.ops.rotary",
            "scanmax.models.mixers.SoftCausal",
            "scanmax.train.schedules.soft_mask_strength",
        ),
        tests=(
            "tests/ops/test_distance_attention.py::SoftCausalAttentionTest",
            "tests/models/test_attention_options.py",
            "tests/train/test_optim.py::test_the_soft_mask_ends_when_it_should",
        ),
    ),
    Paper(
        "mamba2-ssd",
        covers="SSD in three forms with step and state, the block, the five language models with "
        "generation, weights of transformers and of the authors; not their training or tensor "
        "parallel layout",
        where=(
            "scanmax.ops.ssd",
            "scanmax.ops.ssd_step",
            "scanmax.ops.ssd_matrix",
            "scanmax.ops.causal_conv1d",
            "scanmax.ops.gated_rms_norm",
            "scanmax.models.mixers.Mamba2",
            "scanmax.models.mamba2.Mamba2LM",
        ),
        tests=(
            "tests/ops/test_ssm.py::SsdTest",
            "tests/ops/test_ssm.py::test_duality_ssd_is_linear_attention",
            "tests/models/test_mamba2.py",
            "tests/models/test_weights.py::test_original_mamba2_names",
            "tests/parity/test_mamba2_parity.py",
            "tests/parity/test_ssm_parity.py",
        ),
        reproduced="the duality: recurrent, quadratic and chunked forms are equal; parameters of "
        "the five sizes to the last one; the state does not grow with the sequence",
    ),
    Paper(
        "rmt-masa",
        covers="Manhattan decay on the logits (released) and on the weights (printed), whole and "
        "along one axis a time, with the mixer's rotary positions and LePE; 1-D and 2-D decay "
        "masks; not the models around it (stem, position convolutions, their feed-forward layer)",
        where=(
            "scanmax.ops.manhattan_attention",
            "scanmax.ops.distance_attention",
            "scanmax.ops.decay_mask_2d",
            "scanmax.models.mixers.Manhattan",
        ),
        tests=(
            "tests/ops/test_manhattan_attention.py",
            "tests/ops/test_distance_attention.py",
            "tests/models/test_attention_options.py",
            "tests/test_claims.py::test_a_claim_holds",
        ),
        reproduced="the 2-D mask is the product of two 1-D masks; time of the decomposed form over "
        "HW (docs/claims.md)",
    ),
    Paper(
        "sigmoid-attention",
        covers="sigmoid attention with the bias -log n, dense, streamed and step by step; not the "
        "GPU kernel or training runs",
        where=("scanmax.ops.sigmoid_weights", "scanmax.ops.Sigmoid"),
        tests=(
            "tests/ops/test_softmax.py::SigmoidWeightsTest",
            "tests/ops/test_attention.py::DotProductAttentionTest",
            "tests/ops/test_attention.py::AttentionStepTest",
            "tests/test_papers.py::test_sigmoid_attention_needs_its_bias",
        ),
        reproduced="with the bias the output keeps softmax's scale from 64 to 2048 keys, without "
        "it the excess grows with their number",
    ),
    Paper(
        "ssa-selective-self-attention",
        covers="temperatures of queries (token and position term, summed or multiplied, which is "
        "not settled) and of values, the released position-only variant, and the mixer, which "
        "generates; not the fine-tuning of language models",
        where=(
            "scanmax.ops.selective_attention",
            "scanmax.ops.selective_temperature",
            "scanmax.models.mixers.SelectiveAttention",
        ),
        tests=(
            "tests/ops/test_selective_attention.py",
            "tests/models/test_attention_options.py",
            "tests/test_claims.py::test_a_claim_holds",
        ),
        reproduced="the entropy of a row stays where it is as the context grows; less than 0.5% "
        "new parameters (docs/claims.md)",
    ),
    Paper(
        "stablemax-perpgrad",
        covers="StableMax, its logarithm, its cross-entropy and StableMax attention; not perpGrad "
        "or the grokking runs",
        where=(
            "scanmax.ops.stablemax",
            "scanmax.ops.log_stablemax",
            "scanmax.ops.Stablemax",
            "scanmax.train.losses.stablemax_cross_entropy",
        ),
        tests=(
            "tests/ops/test_softmax.py::StablemaxTest",
            "tests/ops/test_softmax.py::LogStablemaxTest",
            "tests/ops/test_softmax.py::NumericsTest",
            "tests/train/test_losses_metrics.py::test_stablemax_cross_entropy",
        ),
        reproduced="a gradient of the right class at logit gaps where softmax has exactly none",
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
            "tests/ops/test_softmax.py::SoftmaxTest",
            "tests/ops/test_softmax.py::ExtexpTest",
            "tests/ops/test_softmax.py::NumericsTest",
        ),
        reproduced="no overflow without a pass for the maximum; the speed-up is not claimed",
    ),
    Paper(
        "unified-long-sequence-dmha",
        covers="attention over devices by query rows (a ring of keys, with the balanced causal "
        "order) and by heads, gradients included; the layout is this project's, the paper does "
        "not say its own. Not the survey's other models, nor the sparse-capacity one",
        where=("scanmax.ops.context_attention", "scanmax.ops.zigzag_order"),
        tests=("tests/ops/test_context_attention.py",),
        reproduced="memory of a device is its share, 1 / devices; the factor of 40 on four GPUs "
        "was not measured",
    ),
    Paper(
        "vssd",
        covers="non-causal SSD, its matrix, the block, the four sizes; outputs of the authors' "
        "code as a golden file; not trained on ImageNet here",
        where=(
            "scanmax.ops.nc_ssd",
            "scanmax.ops.nc_ssd_matrix",
            "scanmax.models.mixers.NcSsd",
            "scanmax.models.vssd.Vssd",
        ),
        tests=(
            "tests/ops/test_ssm.py::NonCausalSsdTest",
            "tests/ops/test_ssm.py::NonCausalSsdMatrixTest",
            "tests/ops/test_ssm.py::"
            "test_non_causal_is_both_directions_without_decay_less_the_diagonal",
            "tests/ops/test_ssm.py::test_non_causal_does_not_know_the_order_of_tokens",
            "tests/models/test_vssd.py::VssdSuite",
            "tests/models/test_vssd.py::GoldenTest",
        ),
        reproduced="both directions of the scan collapse into one global sum",
    ),
)


def table() -> str:
    """docs/papers.md: the ledger as markdown."""
    lines = [
        "# Papers",
        "",
        "Generated from `scanmax/papers.py` by `make docs`; what a row names is checked by a test.",
        "",
        "| paper | what is covered | where | verified by | reproduced |",
        "| --- | --- | --- | --- | --- |",
    ]
    for paper in sorted(LEDGER, key=lambda paper: paper.key):
        where = ", ".join(f"`{name}`" for name in paper.where)
        tests = ", ".join(f"`{name}`" for name in paper.tests)
        cells = (
            f"{TITLES[paper.key]} (`{paper.key}`)",
            paper.covers,
            where,
            tests,
            paper.reproduced or "-",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
