"""CvT against transformers, live."""

import jax
import numpy as np
import pytest
import torch
from parity.agreement import assert_agrees, assert_maps_agree, assert_trains_alike

import scanmax

pytestmark = pytest.mark.parity


def test_logits_gradients_maps_and_a_training_step_are_those_of_transformers(peers):
    # Odd maps: strides of keys at a rest are the peer's too.
    run = peers.cvt(42, seed=3, dtype=torch.float64)
    with jax.enable_x64(True):
        double = {"dtype": np.float64, "param_dtype": np.float64}
        sizes = {"dims": (8, 16), "depths": (1, 2), "heads": (1, 2)}
        model = scanmax.create_model("cvt_13", num_classes=10, **sizes, **double)
        vanishing = (
            r"params/(stage\d_block_\d+/mixer/key/bias|stage0_block_00/mixer/key_norm/bias|"
            r"stage1_block_01/mixer/query_.*)"
        )
        assert_agrees(model, run, vanishing)
        assert_maps_agree(model, run)
        assert_trains_alike(model, run)
