"""Softmax attention of half-precision values: what the backward pass keeps, and how it rounds."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scanmax import ops
from scanmax.ops.attention import parallel

T, S, H, G, K, V = 24, 32, 4, 4, 8, 8


def arrays(groups=G, dtype=jnp.bfloat16):
    rng = np.random.default_rng(0)
    shapes = (2, T, H, K), (2, S, groups, K), (2, S, groups, V), (1, H, T, S), (2, T, H, V)
    return [jnp.asarray(2 * rng.normal(size=shape), dtype) for shape in shapes]


def attend(query, key, value, bias, **options):
    return ops.dot_product_attention(query, key, value, bias, form="parallel", **options)


def gradients(given, options):
    *inputs, d_y = given
    y, pull = jax.vjp(functools.partial(attend, **options), *inputs)
    return [np.asarray(x, np.float64) for x in (y, *pull(d_y.astype(y.dtype)))]


CASES = {
    "plain": ({}, G),
    "shared keys": ({}, 2),
    "causal, one more key": ({"is_causal": True, "normalizer": "softmax_one"}, G),
    "capped": ({"logits_soft_cap": 3.0, "local_window_size": (5, 3)}, G),
    "padded": ({"key_value_seq_lengths": jnp.asarray([0, 20])}, G),
}


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
@pytest.mark.parametrize("case", CASES)
def test_rounds_as_little_as_values_do(case, platform, monkeypatch):
    # What a TPU is given runs anywhere; jitted calls of other tests must not be found again.
    jax.clear_caches()
    monkeypatch.setattr(parallel, "platform", lambda: platform)
    options, groups = CASES[case]
    given = arrays(groups)
    exact = gradients([x.astype(jnp.float32) for x in given], options)
    for index, (got, expected) in enumerate(zip(gradients(given, options), exact, strict=True)):
        error = np.abs(got - expected).max()
        # in units of bfloat16; flax has 6.0 in the output and 2.7 to 4.7 in the gradients
        assert error < (6 if index else 1) * 2**-8 * np.abs(expected).max()
    jax.clear_caches()


def test_the_backward_pass_keeps_one_matrix_of_half_precision():
    *inputs, _ = arrays()
    kept = jax.tree.leaves(jax.vjp(attend, *inputs)[1])
    matrices = [leaf for leaf in kept if leaf.shape[-2:] == (T, S)]
    assert [(leaf.size, leaf.dtype) for leaf in matrices if leaf.size > H * T * S] == [
        (2 * H * T * S, jnp.bfloat16)
    ]
    assert all(leaf.dtype == jnp.bfloat16 for leaf in kept if leaf.size >= 2 * T * H * V)


def test_forward_mode_rounds_as_little():
    *inputs, _ = arrays()
    exact = [x.astype(jnp.float32) for x in inputs]
    changes = [jax.jvp(attend, x, x[:1] + x[2:0:-1] + x[3:])[1] for x in (inputs, exact)]
    got, expected = (np.asarray(x, np.float64) for x in changes)
    assert np.abs(got - expected).max() < 4 * 2**-8 * np.abs(expected).max()
