"""Calls of attention that kernels serve, for the suites of several of them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from scanmax import ops
from scanmax.ops import reference
from scanmax.testing import compare

# float32 sums of some hundred terms, in another order than the equation's
RMS = 5e-6
# Cases whose queries do not all read something.
WITH_EMPTY_ROWS = ("lengths", "a window, lengths within it", "one more key")


def arrays(lengths, heads=(4, 2), widths=(8, 4), batch=(2,), dtype=jnp.float32):
    """query, key, value and the gradient of the output."""
    rng = np.random.default_rng(0)
    (T, S), (H, G), (K, V) = lengths, heads, widths
    shapes = (T, H, K), (S, G, K), (S, G, V), (T, H, V)
    return [jnp.asarray(rng.normal(size=(*batch, *shape)), dtype) for shape in shapes]


def value_and_gradients(function, given, **options):
    *inputs, d_y = given
    y, pull = jax.vjp(functools.partial(function, **options), *inputs)
    return [y, *pull(d_y)]


def segments(*shape):
    return jnp.asarray(np.sort(np.random.default_rng(1).integers(0, 5, shape), -1))


CASES = {
    "causal, shared keys, padded": ({"lengths": (150, 150)}, {"is_causal": True}),
    "causal, more keys": ({"lengths": (128, 260), "heads": (1, 1)}, {"is_causal": True}),
    "more queries": (
        {"lengths": (250, 120), "batch": (), "heads": (2, 1)},
        {"local_window_size": (130, None)},
    ),
    "lengths": (
        {"lengths": (130, 200), "heads": (2, 2)},
        {
            "key_value_seq_lengths": jnp.asarray([150, 0]),
            "query_seq_lengths": jnp.asarray([100, 130]),
        },
    ),
    "a window, lengths within it": (
        {"lengths": (256, 256), "heads": (2, 1)},
        {
            "local_window_size": (30, 5),
            "logits_soft_cap": 2.0,
            "scale": jnp.asarray(0.7),
            "key_value_seq_lengths": jnp.asarray([256, 90]),
        },
    ),
    "one more key": (
        {"lengths": (128, 128), "heads": (2, 1)},
        {
            "normalizer": ops.SoftmaxOne(0.5),
            "key_value_seq_lengths": jnp.asarray([100, 0]),
        },
    ),
    "packed, causal": (
        {"lengths": (200, 200)},
        {"is_causal": True, "segment_ids": segments(2, 200)},
    ),
    "packed, under a mask of keys": (
        {"lengths": (250, 250), "heads": (2, 1)},
        {
            "segment_ids": segments(2, 250),
            # some segments hold no key, so that their rows are empty
            "mask": jnp.asarray(np.random.default_rng(2).random((1, 1, 1, 250)) < 0.02),
        },
    ),
}


def assert_is_the_equation(case, sizes, options, implementation):
    """Values and gradients of an implementation are the reference's, and empty rows are zeros."""
    given = arrays(**sizes)
    function = functools.partial(ops.dot_product_attention, implementation=implementation)
    got = value_and_gradients(function, given, **options)
    assert got[0].dtype == jnp.float32
    with jax.enable_x64(True):
        exact = [jnp.asarray(np.asarray(x, np.float64)) for x in given]
        expected = value_and_gradients(reference.dot_product_attention, exact, **options)
    for one, other in zip(got, expected, strict=True):
        compare.assert_rms(one, other, RMS)
    empty = np.all(np.asarray(expected[0]) == 0, -1)
    assert np.array_equal(np.all(np.asarray(got[0]) == 0, -1), empty)
    assert empty.any() == (case in WITH_EMPTY_ROWS) or "mask" in options
