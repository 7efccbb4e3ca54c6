"""Rows times the matrix of their group, in both forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scanmax.ops.channels.grouped import LEAST_ROWS, MOST_ROWS, block_rows, grouped_product


@pytest.mark.parametrize("counts", [(0, 37, 0, 1, 12), (50, 0, 0, 0, 0), (16, 16, 0, 2, 16)])
@pytest.mark.parametrize("form", ["blocks", "ragged"])
def test_products_and_gradients_are_those_of_a_loop(float64, counts, form):
    rng = np.random.default_rng(0)
    z, kernel = rng.normal(size=(50, 3)), rng.normal(size=(5, 3, 4))
    weights = rng.normal(size=(50, 4))

    def total(z, kernel):
        y = grouped_product(z, kernel, jnp.asarray(counts), form=form)
        return jnp.sum(y * weights), y

    (_, y), (d_z, d_kernel) = jax.jit(jax.value_and_grad(total, (0, 1), has_aux=True))(z, kernel)
    group = np.repeat(np.arange(5), counts)
    np.testing.assert_allclose(y, np.einsum("nd,ndf->nf", z, kernel[group]), atol=1e-13)
    np.testing.assert_allclose(d_z, np.einsum("nf,ndf->nd", weights, kernel[group]), atol=1e-13)
    wanted = np.zeros_like(kernel)
    np.add.at(wanted, group, z[:, :, None] * weights[:, None])
    np.testing.assert_allclose(d_kernel, wanted, atol=1e-12)


def test_blocks_sum_in_float32_and_take_turns_under_vmap():
    rng = np.random.default_rng(1)
    z, kernel = rng.normal(size=(2, 40, 3)), rng.normal(size=(2, 2, 3, 4))
    counts = jnp.array([[40, 0], [7, 33]])
    z, kernel = (jnp.asarray(x, jnp.bfloat16) for x in (z, kernel))

    def slope(z, kernel, counts):
        return jax.grad(lambda w: grouped_product(z, w, counts, form="blocks").sum())(kernel)

    found = jax.vmap(slope)(z, kernel, counts)
    assert found.dtype == jnp.bfloat16
    sums = [z[0].astype(jnp.float32).sum(0), z[1, :7].astype(jnp.float32).sum(0)]
    for i, wanted in enumerate(sums):
        np.testing.assert_allclose(found[i, 0, :, 0].astype(jnp.float32), wanted, rtol=2**-8)


def test_blocks_are_half_a_group():
    assert block_rows(4096, 8) == 256 == MOST_ROWS
    assert block_rows(4096, 32) == 64
    assert block_rows(5, 8) == LEAST_ROWS
