"""Papers on networks that read whole texts."""

from scanmax.papers.paper import Paper

_TRAINS = "tests/train/test_text_classification.py"

LEDGER = (
    Paper(
        "byte-recursive-conv-ae",
        covers="encoder and decoder with one set of weights for all levels, any length, the "
        "paper's three depths, and training on strings made up; not the authors' code, which is "
        "not public, so that the shortcut where lengths double and the variance of the first "
        "weights are ours, nor their corpora",
        where=(
            "scanmax.models.language.byte_recursive_ae.ByteRecursiveAe",
            "scanmax.data.sequence_tasks.reconstruction",
        ),
        tests=(
            "tests/models/language/test_byte_recursive_ae.py",
            "tests/data/test_sequence_tasks.py::"
            "test_strings_are_to_be_told_again_but_for_their_padding",
            "tests/train/test_configs.py::test_every_argument_traces",
        ),
        reproduced="160 layers for 1024 bytes, parameters by the list of layers, the same for any "
        "length: tests/models/language/test_byte_recursive_ae.py; strings beside a recurrent "
        "auto-encoder of its size: benchmarks claims byte-autoencoder",
    ),
    Paper(
        "char-cnn",
        covers="the large and the small network, the characters of a text as tokens; not the "
        "thesaurus that makes more of a text, or trained weights",
        where=(
            "scanmax.models.language.char_cnn.CharCnn",
            "scanmax.models.language.char_cnn.character_tokens",
        ),
        tests=("tests/models/language/test_char_cnn.py::CharCnnSuite", _TRAINS),
        reproduced="34 frames of 1014 characters, parameters by the list of layers: "
        "tests/models/language/test_char_cnn.py::CharCnnSuite",
    ),
    Paper(
        "convbert",
        covers="the three sizes with a head of classification, grouped MLPs, projected embeddings, "
        "weights of transformers; not replaced-token detection, or dropout of attention weights",
        where=(
            "scanmax.models.language.convbert.ConvBert",
            "scanmax.models.parts.grouped_linear.GroupedDense",
        ),
        tests=(
            "tests/models/language/test_convbert.py::ConvBertSuite",
            "tests/parity/test_text_encoders_parity.py",
        ),
        reproduced="the convolution is a banded matrix of each token's own taps: "
        "tests/models/language/test_convbert.py::"
        "test_the_span_convolution_is_a_banded_matrix_whose_rows_are_the_tokens_own",
    ),
    Paper(
        "dcnn-dynamic-kmax",
        covers="k-max pooling that keeps the order, with a k of each sentence under jit, wide "
        "convolution, folding, and both networks of sentiment; not those of questions and of "
        "Twitter, or the L2 terms of each layer",
        where=(
            "scanmax.ops.k_max_pool",
            "scanmax.ops.dynamic_k",
            "scanmax.ops.wide_conv1d",
            "scanmax.ops.fold_rows",
            "scanmax.models.language.dcnn.Dcnn",
        ),
        tests=(
            "tests/ops/tokens/test_k_max.py::KMaxPoolTest",
            "tests/ops/conv/test_sentences.py::WideConv1dTest",
            "tests/ops/conv/test_sentences.py::FoldRowsTest",
            "tests/models/language/test_dcnn.py::DcnnSuite",
            "tests/models/language/test_dcnn.py::test_ragged_sentences_are_those_of_the_equations",
            _TRAINS,
        ),
        reproduced="two values in their order say which came first, where a maximum and a mean say "
        "nothing: tests/ops/tokens/test_k_max.py::test_order_tells_what_max_and_mean_do_not; one "
        "program for sentences of all lengths: tests/ops/conv/test_sentences.py::"
        "test_the_k_of_each_sentence_is_known_only_when_the_program_runs",
    ),
    Paper(
        "encoder-decoder-slm",
        covers="the host of two halves whose keys of the source are made once, the released model "
        "with its grouped heads, to which the authors' code gives the same numbers, T5 under "
        "transformers' names with its weights, answers by cache and beside padding, and "
        "training on rows of a source and an answer; not the teacher's alignment, images, dropout "
        "of attention weights, or scaled rotary positions",
        where=(
            "scanmax.models.language.encoder_decoder.EncoderDecoder",
            "scanmax.models.language.t5.T5",
            "scanmax.models.parts.bucketed_bias.BucketedBias",
            "scanmax.data.sequence_tasks.reversal",
        ),
        tests=(
            "tests/models/language/test_t5.py",
            "tests/parity/test_t5_parity.py",
            "tests/train/test_configs.py::test_every_argument_traces",
        ),
        reproduced="only the answer's cache grows: tests/models/language/test_t5.py::"
        "test_the_cache_that_grows_is_the_answers_alone; 332 million parameters, two thirds of "
        "the layers in the encoder: tests/models/language/test_t5.py::"
        "test_layers_add_up_to_the_published_counts",
    ),
    Paper(
        "squeezebert",
        covers="the published size with a head of classification, any groups, weights of "
        "transformers; not pre-training, distillation, or dropout of attention weights",
        where=(
            "scanmax.models.language.squeezebert.SqueezeBert",
            "scanmax.models.parts.grouped_linear.GroupedDense",
        ),
        tests=(
            "tests/models/language/test_squeezebert.py::SqueezeBertSuite",
            "tests/parity/test_text_encoders_parity.py",
        ),
        reproduced="7.42 thousand million operations at 128 tokens, of BERT's 22.5: "
        "tests/models/language/test_squeezebert.py::"
        "test_groups_are_a_quarter_of_the_weights_and_products",
    ),
    Paper(
        "textcnn",
        covers="rand, static, non-static and multichannel, and classification of text as an "
        "objective; not the bound on the rows of the head, word vectors of other sources, or the "
        "published sets of sentences",
        where=(
            "scanmax.models.language.textcnn.TextCnn",
            "scanmax.train.objectives.TextClassification",
        ),
        tests=(
            "tests/models/language/test_textcnn.py::TextCnnSuite",
            "tests/models/language/test_textcnn.py::test_logits_are_those_of_the_equations",
            _TRAINS,
        ),
        reproduced="order beyond the widest filter is not seen: "
        "tests/models/language/test_textcnn.py::"
        "test_order_beyond_the_widest_filter_is_not_seen",
    ),
    Paper(
        "gencnn",
        covers="the gate between neighbours that takes the place of pooling; not the network for "
        "the next word, whose layers nothing public settles",
        where=("scanmax.ops.gated_pairwise_pool",),
        tests=("tests/ops/conv/test_pairwise.py",),
        reproduced="what goes on lies between both, and tells orders apart that the larger of two "
        "does not: `benchmarks claims gencnn-gates`",
    ),
    Paper(
        "pervasive-attention",
        covers="the convolution over a grid of two sequences that is causal along one; not the "
        "network of them, its pooling over the source, or translation",
        where=("scanmax.ops.causal_conv2d",),
        tests=("tests/ops/conv/test_grid.py::CausalConv2dTest",),
        reproduced="through layers of it no cell reads what comes after its row, and all its "
        "columns: `benchmarks claims pervasive-causality`",
    ),
)
