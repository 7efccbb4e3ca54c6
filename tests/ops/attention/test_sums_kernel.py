"""Attention of scores that add up as a kernel for TPUs, interpreted, against the form by blocks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tolerances import RMS_BF16

from scanmax import ops
from scanmax.ops.attention import sums_kernel
from scanmax.ops.attention.normalizer import NORMALIZERS
from scanmax.testing import compare

# Sums of some hundred terms in float32.
RMS = 5e-6
SERVED = ("sigmoid", "stablemax", "relu_softmax", "squared_relu", "two_quad", "square_norm",
          "softplus")  # fmt: skip


def arrays(T, S, heads=4, groups=2, batch=(2,), dtype=jnp.float32):
    rng = np.random.default_rng(0)
    shapes = ((*batch, T, heads, 5), (*batch, S, groups, 5), (*batch, S, groups, 3))
    return [jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes]


def value_and_gradients(given, **options):
    call = functools.partial(ops.dot_product_attention, **options)

    def both(given):
        y, pull = jax.vjp(lambda x: call(*x), given)
        return y, *pull(jnp.cos(y))[0]

    return jax.jit(both)(given)


def exact(given, **options):
    with jax.enable_x64(True):
        wide = [jnp.asarray(np.asarray(x, np.float64)) for x in given]
        return value_and_gradients(wide, form="parallel", **options)


SEGMENTS = np.sort(np.random.default_rng(1).integers(0, 3, (2, 150)), -1)
MASK = np.random.default_rng(2).random((2, 1, 1, 140)) < 0.8
CASES = {
    "causal, capped": (150, {"normalizer": "sigmoid", "is_causal": True, "logits_soft_cap": 2.0}),
    "packed": (150, {"normalizer": "softplus", "segment_ids": SEGMENTS, "is_causal": True}),
    "window": (140, {"normalizer": "two_quad", "local_window_size": (20, 9)}),
    "lengths": (140, {"normalizer": "stablemax", "key_value_seq_lengths": np.array([90, 3])}),
    "mask of keys": (140, {"normalizer": "squared_relu", "mask": MASK, "scale": 0.3}),
}


@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_are_those_of_the_matrix(case, monkeypatch):
    """Two blocks of queries and of keys, of which masks hide some whole."""
    monkeypatch.setattr(sums_kernel, "BLOCK", 128)
    S, options = CASES[case]
    given = arrays(150, S)
    got = value_and_gradients(given, implementation="pallas", **options)
    for one, other in zip(got, exact(given, **options), strict=True):
        compare.assert_rms(one, other, RMS)


@pytest.mark.parametrize("normalizer", SERVED)
def test_every_normalizer_that_adds_up(normalizer):
    assert {name for name, each in NORMALIZERS.items() if sums_kernel.adds_up(each)} == set(SERVED)
    given = arrays(9, 9, batch=(), dtype=jnp.bfloat16)
    options = {"normalizer": normalizer, "is_causal": True}
    y = ops.dot_product_attention(*given, implementation="pallas", **options)
    assert y.dtype == jnp.bfloat16
    compare.assert_rms(y, exact(given, **options)[0], RMS_BF16)


def test_what_needs_more_than_sums_is_named():
    given = arrays(3, 3)
    with pytest.raises(NotImplementedError, match="pallas does not serve normalizer=Sparsemax"):
        ops.dot_product_attention(*given, normalizer="sparsemax", implementation="pallas")
