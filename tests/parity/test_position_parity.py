"""Positions against timm and transformers, live."""

import jax.numpy as jnp
import numpy as np
import pytest
import tolerances

from scanmax import ops
from scanmax.testing import compare

pytestmark = pytest.mark.parity


@pytest.mark.parametrize("new_grid", [(24, 24), (7, 7), (10, 17), (1, 3)])
def test_resampling_is_timms(peers, new_grid):
    import torch
    from timm.layers import resample_abs_pos_embed

    table = np.random.default_rng(0).normal(size=(1, 1 + 14 * 14, 5)).astype(np.float32)
    theirs = resample_abs_pos_embed(torch.tensor(table), list(new_grid), num_prefix_tokens=1)
    ours = ops.resample_positions(table, (14, 14), new_grid, prefix_tokens=1)
    compare.assert_rms(ours, jnp.asarray(theirs.numpy()), 1e-6)


def test_half_layout_is_that_of_llama_in_transformers(peers):
    import torch
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    query, key = np.random.default_rng(0).normal(size=(2, 2, 9, 3, 8)).astype(np.float32)
    frequencies = 500.0 ** (-np.arange(0, 8, 2) / 8)
    angles = torch.tensor(np.outer(np.arange(9), np.tile(frequencies, 2)), dtype=torch.float32)
    theirs = apply_rotary_pos_emb(
        torch.tensor(query).transpose(1, 2),
        torch.tensor(key).transpose(1, 2),
        angles.cos()[None],
        angles.sin()[None],
    )
    for ours, peer in zip((query, key), theirs):
        turned = ops.rotary(ours, base=500.0)
        compare.assert_rms(turned, jnp.asarray(peer.transpose(1, 2).numpy()), tolerances.PARITY)


def test_interleaved_layout_is_that_of_gptj_in_transformers(peers):
    import torch
    from transformers.models.gptj.modeling_gptj import apply_rotary_pos_emb

    x = np.random.default_rng(0).normal(size=(2, 9, 3, 8)).astype(np.float32)
    angles = np.outer(np.arange(9), 10000.0 ** (-np.arange(0, 8, 2) / 8))
    sin, cos = (torch.tensor(f(angles), dtype=torch.float32)[None] for f in (np.sin, np.cos))
    theirs = apply_rotary_pos_emb(torch.tensor(x), sin, cos)
    turned = ops.rotary(x, layout="interleaved")
    compare.assert_rms(turned, jnp.asarray(theirs.numpy()), tolerances.PARITY)


def test_grid_table_is_that_of_transformers_with_columns_first(peers):
    from transformers.models.vit_mae.modeling_vit_mae import build_2d_sinusoidal_position_embedding

    # transformers puts rows first, MAE's own code and big_vision columns.
    theirs = build_2d_sinusoidal_position_embedding(3, 5, 16).numpy()
    theirs = np.concatenate([theirs[:, 8:], theirs[:, :8]], axis=1)
    compare.assert_rms(ops.sincos_2d((3, 5), 16), jnp.asarray(theirs), tolerances.PARITY)


def test_fourier_code_is_that_of_xcit_in_timm(peers):
    import torch
    from timm.models.xcit import PositionalEncodingFourier

    module = PositionalEncodingFourier(hidden_dim=8, dim=16)
    with torch.no_grad():
        # The projection behind the code, as the identity: timm reads its device and dtype.
        module.token_projection.weight.copy_(torch.eye(16)[:, :, None, None])
        module.token_projection.bias.zero_()
        theirs = module(1, 5, 7)[0].permute(1, 2, 0).reshape(35, 16)
    compare.assert_rms(ops.fourier_positions((5, 7), 16), jnp.asarray(theirs.numpy()), 1e-6)


@pytest.mark.parametrize("window", [(7, 7), (3, 5)])
def test_relative_index_is_that_of_swin_in_timm(peers, window):
    from timm.layers import gen_relative_position_index

    theirs = gen_relative_position_index(window).numpy()
    np.testing.assert_array_equal(ops.relative_position_index(window), theirs)
