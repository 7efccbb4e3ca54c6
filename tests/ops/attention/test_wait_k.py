"""The wait-k schedule against loops over rows and steps, and what it promises."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scanmax import ops
from scanmax.ops import reference


def test_masks_are_those_of_the_loops_with_one_program_for_every_k():
    k, lengths = np.array([[1, 2], [3, 9]]), np.array([[5, 3], [4, 5]])
    for given in ((k,), (k, lengths), (k[0, 0],), (k[0], lengths[1])):
        expected = reference.wait_k_mask(*given, length=4, source_length=5)
        mask = ops.wait_k_mask(*map(jnp.asarray, given), length=4, source_length=5)
        assert mask.dtype == bool
        np.testing.assert_array_equal(mask, expected)
    rows = jax.vmap(lambda k: ops.wait_k_mask(k, length=4, source_length=5))(jnp.arange(1, 4))
    np.testing.assert_array_equal(
        rows, reference.wait_k_mask(np.arange(1, 4), length=4, source_length=5)
    )


def test_what_has_not_been_read_changes_nothing():
    rng = np.random.default_rng(0)
    query, key, value = (jnp.asarray(rng.normal(size=(6, 2, 4)), jnp.float32) for _ in range(3))
    mask = ops.wait_k_mask(jnp.array(2), length=6, source_length=6)
    y = ops.dot_product_attention(query, key, value, mask=mask)
    for step in range(5):
        # of the source only the k + step tokens that were read are as they were
        arrived = (jnp.arange(6) < 2 + step)[:, None, None]
        other = [jnp.where(arrived, x, x + 7) for x in (key, value)]
        again = ops.dot_product_attention(query, *other, mask=mask)
        np.testing.assert_array_equal(y[: step + 1], again[: step + 1])
        assert step == 4 or not np.array_equal(y[step + 1], again[step + 1])


def test_lags_are_those_of_the_loops_and_of_wait_k_itself():
    rng = np.random.default_rng(0)
    read = np.sort(rng.integers(1, 7, size=(2, 3, 6)), -1)
    source, target = rng.integers(4, 7, size=(2, 3)), rng.integers(1, 7, size=(2, 3))
    with jax.enable_x64(True):
        lags = ops.average_lagging(*(jnp.asarray(x) for x in (read, source, target)))
        np.testing.assert_allclose(
            lags, reference.average_lagging(read, source, target), rtol=1e-12
        )
    # for as many tokens on both sides it is k
    for k in (1, 3, 6):
        read = jnp.minimum(k + jnp.arange(6), 6)
        np.testing.assert_allclose(ops.average_lagging(read, jnp.array(6), jnp.array(6)), k)


def test_mistakes_are_told():
    with pytest.raises(ValueError, match="length=0; expected at least 1"):
        ops.wait_k_mask(jnp.array(1), length=0, source_length=2)
    with pytest.raises(ValueError, match="source_lengths has shape"):
        ops.wait_k_mask(jnp.array([1]), jnp.array([1, 2]), length=2, source_length=2)
    with pytest.raises(ValueError, match="target_lengths has shape"):
        ops.average_lagging(jnp.ones((2, 3), int), jnp.ones(2, int), jnp.ones(3, int))
