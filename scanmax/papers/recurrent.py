"""RWKV, modal state spaces and the language models of Mamba."""

from scanmax.papers.paper import Paper

LEDGER = (
    Paper(
        "diffusion-rwkv",
        covers="the bidirectional wkv and the causal one of RWKV-4 in log space, three forms with "
        "step and state, their matrix; the Q-shift; the spatial mix as a mixer of both kinds with "
        "the released start; not the channel mix, the diffusion models or their sampling",
        where=(
            "scanmax.ops.wkv",
            "scanmax.ops.wkv_step",
            "scanmax.ops.wkv_matrix",
            "scanmax.ops.quarter_shift",
            "scanmax.models.mixers.Wkv",
        ),
        tests=(
            "tests/ops/scan/test_wkv.py::WkvTest",
            "tests/ops/scan/test_wkv.py::BidirectionalWkvTest",
            "tests/ops/scan/test_wkv.py::QuarterShiftTest",
            "tests/parity/test_rwkv_parity.py",
            "tests/models/mixers/test_mixers.py",
            "tests/test_claims.py",
        ),
        reproduced="two scans give the double sum: benchmarks claims wkv-is-its-double-sum; time "
        "linear in the tokens: time-slopes",
    ),
    Paper(
        "laughing-hyena",
        covers="the modal recurrence by steps, by chunks and by FFT, with state and step; "
        "distillation of filters from a balanced truncation on by gradients; Hankel singular "
        "values and the order they ask for; not MultiHyena or the distillation of trained models",
        where=(
            "scanmax.ops.modal_ssm",
            "scanmax.ops.modal_ssm_step",
            "scanmax.ops.modal_ssm_filter",
            "scanmax.ops.hankel_singular_values",
            "scanmax.ops.hankel_order",
            "scanmax.train.distill.distill_filter",
        ),
        tests=(
            "tests/ops/scan/test_modal.py",
            "tests/train/test_distill.py",
            "tests/test_claims.py",
        ),
        reproduced="the error falls with the order as the Hankel values foretell: benchmarks "
        "claims hankel-values-foretell-the-error; a token costs the same behind any number of "
        "others: distilled-filters-generate-in-constant-time",
    ),
    Paper(
        "rwkv-clip",
        covers="the wkv of RWKV-6 in three forms with step and state, causal and in both "
        "directions as the released kernels of both towers run it, its matrix; the token shifts; "
        "the spatial mix as a mixer with data-dependent mixing and the released start; not the "
        "channel mix, the towers or their contrastive training",
        where=(
            "scanmax.ops.wkv6",
            "scanmax.ops.wkv6_step",
            "scanmax.ops.wkv6_matrix",
            "scanmax.ops.token_shift",
            "scanmax.ops.quarter_shift",
            "scanmax.models.mixers.Wkv6",
        ),
        tests=(
            "tests/ops/scan/test_wkv.py::Wkv6Test",
            "tests/ops/scan/test_wkv.py::TokenShiftTest",
            "tests/models/mixers/test_mixers.py",
            "tests/test_claims.py",
        ),
        reproduced="recurrent, chunked and quadratic form agree: benchmarks claims "
        "wkv6-forms-agree; time linear in the tokens: time-slopes",
    ),
)
