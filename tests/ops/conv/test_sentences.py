"""Wide convolution, folding, and the k largest values in their order."""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from scanmax import ops
from scanmax.ops import reference
from scanmax.testing import OpCase, OpSuite


class WideConv1dTest(OpSuite):
    op = ops.wide_conv1d
    reference = reference.wide_conv1d
    cases = (
        OpCase(batch=(2,), length=4, kernel=(3, 2, 2, 3), full=True),
        OpCase(length=1, kernel=(2, 1, 1, 1)),
    )
    errors = (({"kernel": lambda k: k[:, 1:]}, ValueError, r"kernel has shape .*\[W, D, I, O\]"),)

    def make_args(self, rng, case):
        return {
            "x": rng.normal(size=(*case.batch, case.length, *case.kernel[1:3])),
            "kernel": rng.normal(size=case.kernel),
        }


class FoldRowsTest(OpSuite):
    op = ops.fold_rows
    reference = reference.fold_rows
    cases = (OpCase(batch=(2,), shape=(4, 3), full=True),)
    errors = (({"x": lambda x: x[:, 1:]}, ValueError, "expected an even number of rows"),)

    def make_args(self, rng, case):
        return {"x": rng.normal(size=(*case.batch, *case.shape))}


def test_the_k_of_each_sentence_is_known_only_when_the_program_runs():
    """One program for sentences of any length, against numpy; `top` values at the end."""
    rng = np.random.default_rng(0)
    lengths, longest, top = np.array([2, 5, 9, 12], np.int32), 12, 3
    x = rng.normal(size=(4, longest, 5)).astype(np.float32)

    @jax.jit
    def pooled(x, lengths):
        k = ops.dynamic_k(lengths, layer=1, layers=2, top=top)
        where = jnp.arange(longest)[None] < lengths[:, None]
        return k, ops.k_max_pool(x, 6, where=where, count=k)

    k, y = pooled(x, lengths)
    chex.assert_trees_all_equal(k, reference.dynamic_k(lengths, layer=1, layers=2, top=top))
    for b, length in enumerate(lengths):
        count = min(int(k[b]), length)
        places = np.sort(np.argsort(-x[b, :length], 0, kind="stable")[:count], 0)
        expected = np.zeros((6, 5), np.float32)
        expected[:count] = np.take_along_axis(x[b], places, 0)
        np.testing.assert_array_equal(y[b], expected)
    last = ops.dynamic_k(lengths, layer=2, layers=2, top=top)
    assert set(np.asarray(last).tolist()) == {top}
