"""Merged branches give what the branches gave."""

import chex
import jax
import jax.numpy as jnp
import pytest
from small_mixers import compiled, mixer_and_variables

from scanmax.errors import UserError
from scanmax.models.mixers.conv.reparameterized import merge_dilated_branches

GRID = (6, 5)


def test_one_kernel_gives_what_all_branches_gave():
    options = {"kernel_size": 13, "branches": None}
    double = {"dtype": jnp.float64, "param_dtype": jnp.float64}
    with jax.enable_x64(True):
        mixer, variables, x = mixer_and_variables("dilated_reparam", options, grid=GRID, **double)
        # As a mixer lies in a model, beside what stays.
        whole = {
            name: {"block": {"mixer": tree, "other": jnp.ones(1)}}
            for name, tree in variables.items()
        }
        merged = merge_dilated_branches(whole)
        chex.assert_trees_all_equal(merged["params"]["block"]["other"], jnp.ones(1))
        params = merged["params"]["block"]["mixer"]
        assert set(params) == {"large", "gate"}
        assert "mixer" not in merged["batch_stats"]["block"]
        outputs = []
        for own, given in ((mixer, variables), (mixer.clone(merged=True), {"params": params})):
            run = compiled(lambda v, x, own=own: own.apply(v, x, grid=GRID), given, x)
            outputs.append(run(given, x))
        expected, actual = outputs
        chex.assert_trees_all_close(actual, expected, rtol=1e-12, atol=1e-12)


def test_what_cannot_be_merged_is_told():
    with pytest.raises(UserError, match="no mixer with dilated branches"):
        merge_dilated_branches({"params": {"dense": {"kernel": jnp.ones((2, 2))}}})
    with pytest.raises(UserError, match="kernel_size=4 has no branches of its own"):
        mixer_and_variables("dilated_reparam", {"kernel_size": 4, "branches": None})
