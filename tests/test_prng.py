"""The generator of the suites: even, apart, and the same under jit and vmap."""

import jax
import jax.numpy as jnp
import numpy as np

from scanmax.testing.prng import QUICK_PRNG


def test_numbers_are_even_and_keys_apart():
    key = jax.random.key(0, impl=QUICK_PRNG)
    first, second = jax.random.split(key)
    for part in (first, second, jax.random.fold_in(key, 3)):
        numbers = np.asarray(jax.random.uniform(part, (4000,)))
        counts, _ = np.histogram(numbers, 16, (0, 1))
        # 250 each, of a deviation of 15.
        assert np.abs(counts - 250).max() < 75
        assert abs(np.corrcoef(numbers[1:], numbers[:-1])[0, 1]) < 0.06
    pairs = [jax.random.normal(part, (4000,)) for part in (first, second)]
    assert abs(np.corrcoef(*pairs)[0, 1]) < 0.06
    with jax.enable_x64(True):
        wide = jax.random.uniform(first, (4000,), jnp.float64)
        assert abs(float(wide.mean()) - 0.5) < 0.02


def test_jit_and_vmap_change_nothing():
    keys = jax.random.split(jax.random.key(1, impl=QUICK_PRNG), 3)
    rows = [jax.random.bits(key, (5,)) for key in keys]
    np.testing.assert_array_equal(jax.vmap(lambda key: jax.random.bits(key, (5,)))(keys), rows)
    np.testing.assert_array_equal(
        jax.jit(jax.random.bits, static_argnums=1)(keys[2], (5,)), rows[2]
    )
