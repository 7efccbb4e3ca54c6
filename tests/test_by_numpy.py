"""Functions done in numpy operation by operation: as compiled, gradients and odd ones included."""

import jax
import jax.numpy as jnp
import numpy as np

from scanmax.testing import compare
from scanmax.testing.by_numpy import by_numpy


def test_operations_are_those_of_the_compiled_function(float64):
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(3, 5)), rng.normal(size=(5, 4))
    place = np.asarray([2, 0])

    def function(x, w):
        y = jnp.stack([jax.nn.gelu(row @ w) for row in x])
        z = jax.nn.softmax(y) * jax.lax.stop_gradient(jnp.sort(y))
        z = jnp.where(z > 0.1, z, z**3) + jnp.max(y, axis=1, keepdims=True)
        z += jnp.log1p(jnp.abs(y)) - jnp.sqrt(y * y + 1) + jnp.roll(y, 1, axis=1)
        z += jnp.pad(y, ((0, 0), (1, 0)))[:, :-1] + jnp.expm1(y) ** -2 + jnp.cumsum(y, 0)
        z += jnp.einsum("ij,kj->ik", y, y) @ y + jnp.arange(4.0) + jax.nn.logsumexp(y)
        z += jax.random.normal(jax.random.key(0), z.shape) + jnp.tril(y)[::-1] + y.T[place[0]][0]
        z += jnp.stack(jnp.split(y, 2, 1), 0).swapaxes(0, 1).reshape(3, 4) * jnp.fmod(y, 0.3)
        z += jnp.cumsum(y, 1)[:, ::-1] + jnp.real((y + 1j * z) * jnp.conj(y - 2j))
        z += jax.lax.convert_element_type(y * (1 + 2j), y.dtype) ** 2
        z += jax.lax.cumsum(y, 0, reverse=True) * jnp.cumprod(y, 1) + sum(iter(y.T[:, :, None]))
        return z.sum() + (z**2).mean() + y[place, 1::2].sum() * jnp.argmax(y[0])

    both = jax.value_and_grad(function, (0, 1))
    compare.assert_relative(by_numpy(both)(x, w), jax.jit(both)(x, w), 1e-12)


def test_integers_are_divided_as_integers():
    def function(x):
        return x // 2, x / 2, x - 1 > 0

    given = np.asarray([-3, 4, 7])
    for found, expected in zip(by_numpy(function)(given), jax.jit(function)(given), strict=True):
        np.testing.assert_array_equal(found, expected)
        assert found.dtype == expected.dtype
