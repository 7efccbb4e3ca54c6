"""Layers whose edges are functions, and mixing by maps over tokens."""

from scanmax.papers.paper import Paper

LEDGER = (
    Paper(
        "kan",
        covers="B-splines of any degree on any knots, the layer over them as one product, knots "
        "from samples and the fit that moves an edge to other or finer knots, the sparsity of "
        "edges and their entropy, and pruning of nodes; not symbolic edges or training by LBFGS",
        where=(
            "scanmax.ops.bspline_basis",
            "scanmax.ops.extend_knots",
            "scanmax.ops.sample_knots",
            "scanmax.ops.fit_bspline",
            "scanmax.ops.kan_linear",
            "scanmax.models.parts.kan.KanDense",
            "scanmax.models.parts.kan.refit_kan",
            "scanmax.models.parts.kan_pruning.edge_sparsity",
            "scanmax.models.parts.kan_pruning.prune_kan",
        ),
        tests=(
            "tests/ops/mlp/test_bspline.py::BsplineBasisTest",
            "tests/ops/mlp/test_bspline.py::FitBsplineTest",
            "tests/ops/mlp/test_bspline.py::test_it_is_scipys_with_its_derivative",
            "tests/ops/mlp/test_kan.py::KanLinearTest",
            "tests/models/parts/test_kan.py::test_a_layer_of_splines_is_scipys_sum_over_edges",
            "tests/models/parts/test_kan.py::test_knots_move_and_the_function_stays",
            "tests/models/parts/test_kan_pruning.py",
        ),
        reproduced="error of a spline falls as the fourth power of its grid: "
        "`benchmarks claims kan-grid-scaling`; five nodes are pruned to the one that a function "
        "needs: `benchmarks claims kan-pruning`; D O (G + k + 2) parameters a layer: "
        "tests/models/parts/test_kan.py::test_counts_are_the_papers",
    ),
    Paper(
        "kan-conv",
        covers="the convolution and the dense layer over B-splines, Gaussian bumps, Chebyshev, "
        "Legendre, Jacobi, Bernstein and Gram polynomials and six wavelets, N of them a channel or "
        "one an edge, along one, two and three axes; the layers with their base, norm and bend, "
        "and the bottleneck with its noise; experts of layers and of functions, with their loss; "
        "attention, with rotary positions too, and focal modulation, as parts and as mixers; "
        "SimpleKAN over six kinds of layers, VGG-KAGN and ResKANet, with experts and, VGG, "
        "attention as fields. To all of these the authors' code gives the same numbers, but for "
        "the loss of noisy experts, where it compares logits with probabilities; its places in a "
        "square and its depthwise layers that mix channels are options. Not DenseKANet, UKANet "
        "and RDNet",
        where=(
            "scanmax.ops.polynomial_basis",
            "scanmax.ops.gram_basis",
            "scanmax.ops.radial_basis",
            "scanmax.ops.wavelet_basis",
            "scanmax.ops.kan_conv1d",
            "scanmax.ops.kan_conv2d",
            "scanmax.ops.kan_conv3d",
            "scanmax.models.parts.kan.KanConv",
            "scanmax.models.parts.kan_layers.KanConvNorm",
            "scanmax.models.parts.kan_experts.RoutedExamples",
            "scanmax.models.parts.kan_mixing.KanAttention",
            "scanmax.models.parts.kan_mixing.KanFocalModulation",
            "scanmax.models.mixers.KanAttentionMixer",
            "scanmax.models.mixers.KanFocalMixer",
            "scanmax.models.parts.kan_layers.EdgeWavelets",
            "scanmax.models.vision.simple_kan.SimpleKan",
            "scanmax.models.vision.vgg_kan.VggKan",
            "scanmax.models.vision.resnet_kan.ResKanet",
        ),
        tests=(
            "tests/ops/mlp/test_basis.py",
            "tests/ops/mlp/test_kan.py::KanConv1dTest",
            "tests/ops/mlp/test_kan.py::KanConv2dTest",
            "tests/ops/mlp/test_kan.py::KanConv3dTest",
            "tests/ops/mlp/test_kan.py::test_a_convolution_is_the_dense_layer_over_its_patches",
            "tests/models/parts/test_kan.py::test_every_basis_learns_in_all_its_parameters",
            "tests/models/parts/test_kan_layers.py::test_a_layer_is_its_equation",
            "tests/models/parts/test_kan_mixing.py",
            "tests/models/vision/test_simple_kan.py",
            "tests/models/vision/test_vgg_kan.py",
            "tests/models/vision/test_resnet_kan.py",
            "tests/models/vision/test_authors.py",
        ),
        reproduced="(degree + 2) times the parameters of a convolution: "
        "tests/models/parts/test_kan.py::test_counts_are_the_papers; parameters of the report's "
        "networks to the last one, 7.25 million of the bottleneck: "
        "tests/models/vision/test_simple_kan.py::test_counts_are_those_of_the_report",
    ),
    Paper(
        "kat",
        covers="group rational functions with their own gradient, as printed and as the released "
        "kernels have them, the released starts, the MLP of them whose weights keep the variance "
        "at the start, and the transformers by their names, to which the authors' code gives the "
        "same numbers; not their start from a ViT's weights, or that of their attention",
        where=(
            "scanmax.ops.group_rational",
            "scanmax.models.parts.kan.Rational",
            "scanmax.models.parts.kan.RationalMlp",
            "scanmax.models.vision.kat.Kat",
        ),
        tests=(
            "tests/ops/mlp/test_rational.py::GroupRationalTest",
            "tests/models/parts/test_kan.py::test_a_rational_begins_as_its_name",
            "tests/models/parts/test_kan.py::test_variance_stays_through_three_rational_mlps",
            "tests/models/vision/test_kat.py",
            "tests/models/vision/test_authors.py",
        ),
        reproduced="76 parameters a block: `benchmarks claims kat-parameters`; parameters of T, S "
        "and B to the last one",
    ),
    Paper(
        "maxim",
        covers="linear maps over blocks and over dilated grids of maps of any size, the multi-axis "
        "gated MLP as a mixer, cross-gating as a module, and the networks S-1 to M-3, which "
        "restore images of any size and read the released weights, to which the released code "
        "gives the same numbers; not their losses, recipes or trained quality",
        where=(
            "scanmax.ops.block_mix",
            "scanmax.ops.grid_mix",
            "scanmax.models.mixers.MultiAxisMlp",
            "scanmax.models.parts.multi_axis.CrossGating",
            "scanmax.models.vision.maxim.Maxim",
        ),
        tests=(
            "tests/ops/mlp/test_multi_axis.py::BlockMixTest",
            "tests/ops/mlp/test_multi_axis.py::GridMixTest",
            "tests/models/parts/test_multi_axis.py",
            "tests/models/vision/test_maxim.py",
            "tests/models/vision/test_authors.py",
            "tests/models/mixers/test_mixers.py",
        ),
        reproduced="a block reaches its window and a grid, two a map of block times "
        "grid: `benchmarks claims maxim-reach`; parameters of the released code to the last one, "
        "with images at three scales and at one; the paper's operations of S-2 and S-3 but for 2%, "
        "what is no product",
    ),
    Paper(
        "mlp-mixer",
        covers="the perceptron over tokens, plain, gated or one map, as an op and as a mixer whose "
        "weights are resampled to other maps, and the networks S, B, L and H with weights of timm, "
        "gMixer and ResMLP besides; not the recipes, or the start from JFT-300M",
        where=(
            "scanmax.ops.token_mlp",
            "scanmax.models.mixers.TokenMlp",
            "scanmax.models.vision.mixer.MlpMixer",
        ),
        tests=(
            "tests/ops/mlp/test_perceptron.py::TokenMlpTest",
            "tests/ops/mlp/test_perceptron.py::test_permuted_patches_are_permuted_weights",
            "tests/models/vision/test_mixer.py::MixerSuite",
            "tests/models/vision/test_mixer.py::test_every_published_size_has_its_exact_count",
            "tests/parity/test_mixer_parity.py",
            "tests/models/mixers/test_mixers.py",
        ),
        reproduced="parameters of S/32 to H/14 to the last one",
    ),
    Paper(
        "mlp-kan",
        covers="the reflectional switch basis, beside the others in KAN layers, experts of two "
        "kinds behind one router, with room for all tokens or for a share, and DeiT of them in "
        "three sizes, to which the authors' code gives the same numbers; experts are evaluated at "
        "as many places as a sequence has tokens, not by sorting; not BERT with them, the recipe "
        "or trained quality",
        where=(
            "scanmax.ops.switch_basis",
            "scanmax.models.parts.mixed_experts.MixedExperts",
            "scanmax.models.vision.mlp_kan.MlpKan",
        ),
        tests=(
            "tests/ops/mlp/test_basis.py::SwitchBasisTest",
            "tests/models/parts/test_mixed_experts.py",
            "tests/models/vision/test_mlp_kan.py",
            "tests/models/vision/test_authors.py",
        ),
        reproduced="parameters of the released code that learn, to the last one: "
        "tests/models/vision/test_mlp_kan.py::"
        "test_counts_are_deits_with_experts_for_mlps; that both kinds together serve as well as "
        "the better one does not hold here, on functions and digits: `benchmarks claims "
        "mlp-kan-experts`",
    ),
    Paper(
        "ms-mlp",
        covers="mixing and shifting as an op and a mixer, with the released shifts around edges "
        "and any sizes of kernels, and the networks by the names and with the kernels of the "
        "released configurations, to which the authors' code gives the same numbers; its own "
        "default kernels are a field; not the recipe, or Swin with these mixers",
        where=(
            "scanmax.ops.mix_shift",
            "scanmax.models.mixers.MixShift",
            "scanmax.models.vision.ms_mlp.MsMlp",
        ),
        tests=(
            "tests/ops/mlp/test_mix_shift.py::MixShiftTest",
            "tests/models/mixers/test_mixers.py",
            "tests/models/vision/test_ms_mlp.py",
            "tests/models/vision/test_authors.py",
        ),
        reproduced="the reach grows by the shift: `benchmarks claims ms-mlp-reduction`; parameters "
        "of the released code to the last one, 28.7, 50.3 and 88.7 million (28, 50 and 88 in its "
        "table, 85 in the abstract); 4.4, 8.7 and 15.3 G multiply-adds, within 2% of what that "
        "code counts and not the 4.9, 9.0 and 16.1 of the table",
    ),
    Paper(
        "s-kan",
        covers="layers that choose among kinds of functions by scores of a layer, its inputs, its "
        "outputs or its edges, dense and convolutional, as softmax, above a share of the largest, "
        "as one choice with the gradient of the softmax, or free; pruning to the chosen kinds. "
        "That weights are a softmax, and of inputs, is a reading: the text at hand does not say "
        "it, and the authors' public code has the kinds and not the choice; not their schedule or "
        "image networks",
        where=(
            "scanmax.ops.selection_weights",
            "scanmax.ops.select_functions",
            "scanmax.models.parts.selectable_kan.SelectableKanDense",
            "scanmax.models.parts.selectable_kan.SelectableKanConv",
            "scanmax.models.parts.selectable_kan.prune_selection",
        ),
        tests=(
            "tests/ops/mlp/test_selectable.py",
            "tests/models/parts/test_selectable_kan.py",
        ),
        reproduced="a layer that is pruned to one kind is the layer of that kind: "
        "tests/models/parts/test_selectable_kan.py::"
        "test_one_choice_of_all_is_the_layer_of_that_kind; that it fits seven functions best does "
        "not hold here, with as many steps for all: `benchmarks claims s-kan-fitting`",
    ),
    Paper(
        "snnk",
        covers="random features of a dense layer whose activation is given by its Fourier "
        "transform, with the i on either side or on both and with damping, sine, cosine and a "
        "Gaussian ready and any other by its three arrays; the released ReLU map with its floor; "
        "bundling, the closed form of a net that is bundled whole, the layer, whose weights may be "
        "a trained layer's, and adapters of it in every isotropic ViT and language model. Rows "
        "are normalised over channels, where the released code divides by the sequence's, and "
        "directions are normal, where its frequency adapters draw uniform ones; not power series, "
        "or poolers of BERT",
        where=(
            "scanmax.ops.fourier_samples",
            "scanmax.ops.universal_random_features",
            "scanmax.ops.universal_random_weights",
            "scanmax.ops.relu_random_features",
            "scanmax.ops.bundle_dense",
            "scanmax.ops.fit_dense",
            "scanmax.models.parts.random_features.RandomFeatureDense",
            "scanmax.models.parts.random_features.SnnkAdapter",
            "scanmax.models.adapters.AdaptedBlock",
        ),
        tests=(
            "tests/ops/mlp/test_random_features.py",
            "tests/ops/mlp/test_random_features.py::"
            "test_a_layer_is_estimated_without_bias_and_better_by_more_features",
            "tests/ops/mlp/test_random_features.py::test_a_bundled_layer_is_the_two_it_stands_for",
            "tests/models/test_adapters.py",
        ),
        reproduced="errors fall as 1 / sqrt(m) around no bias: `benchmarks claims "
        "snnk-monte-carlo`; a bundled net in closed form beside its training by gradients: "
        "`benchmarks claims snnk-bundled-digits`",
    ),
    Paper(
        "mip-hypernetworks",
        covers="the encodings of the released code, [cos, sin], [z, 1 - z] and none, and its net: "
        "LeakyReLU, normal starts by what a layer makes, a head for each array; any module with "
        "all or some of its parameters added to what the net makes of numbers, started as the "
        "module starts them or from trained ones, where the released code draws all kernels "
        "alike; jax.vmap over numbers of each example; not categories, or the trainer",
        where=(
            "scanmax.ops.mip_encode",
            "scanmax.models.hypernetworks.HyperNet",
            "scanmax.models.hypernetworks.Hypernetized",
        ),
        tests=(
            "tests/ops/mlp/test_hypernetwork.py",
            "tests/models/test_hypernetworks.py",
            "tests/models/test_hypernetworks.py::"
            "test_weights_grow_with_the_number_unless_it_is_encoded",
        ),
        reproduced="weights as large as the number that they are made of, unless it is encoded: "
        "`benchmarks claims mip-magnitudes`; steps to a loss, fewer at six of seven "
        "learning rates, over no wider a range of them: `benchmarks claims mip-digits`",
    ),
)
