"""Batch norms folded into kernels, and dilated branches merged into one kernel."""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from scanmax import ops
from scanmax.ops import reference
from scanmax.testing import OpCase, OpSuite


class FoldBatchNormTest(OpSuite):
    op = ops.fold_batch_norm
    reference = reference.fold_batch_norm
    cases = (
        OpCase(shape=(3, 3, 1, 4), full=True, affine=True),
        OpCase(shape=(1, 2, 3, 2), options={"epsilon": 0.1}),
    )
    errors = (
        ({"mean": jnp.ones(3)}, ValueError, r"mean has shape .*\[O\]"),
        ({"scale": jnp.ones((1, 4))}, ValueError, "scale has shape"),
    )

    def make_args(self, rng, case):
        vector = case.shape[-1:]
        args = {
            "kernel": rng.normal(size=case.shape),
            "mean": rng.normal(size=vector),
            "variance": rng.uniform(0.5, 2, size=vector),
        }
        if hasattr(case, "affine"):
            args |= {name: rng.normal(size=vector) for name in ("scale", "bias")}
        return args


class MergeDilatedKernelsTest(OpSuite):
    op = ops.merge_dilated_kernels
    reference = reference.merge_dilated_kernels
    cases = (
        OpCase(size=7, branches=(5, 3, 3, 1), options={"dilations": (1, 2, 3, 1)}, full=True),
        OpCase(size=3, branches=(), options={"dilations": ()}),
    )
    errors = (
        ({"dilations": (1, 2, 3)}, ValueError, "of 3 branches; branches has 4"),
        ({"dilations": (2, 2, 3, 1)}, ValueError, r"shape \(5, 5, 1, 3\) and dilation 2; expected"),
        ({"kernel": jnp.ones((6, 6, 1, 3))}, ValueError, "of odd K"),
        ({"kernel": jnp.ones((7, 7, 1, 2))}, ValueError, "of the channels"),
    )

    def make_args(self, rng, case):
        sizes = [case.size, *case.branches]
        kernel, *branches = (rng.normal(size=(size, size, 1, 3)) for size in sizes)
        return {"kernel": kernel, "branches": branches}


def test_a_merged_kernel_is_the_sum_of_normalised_branches():
    """UniRepLKNet's seven by seven taps with their three branches, each behind its norm."""
    sizes, dilations = (7, 5, 3, 3), (1, 1, 2, 3)
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        x = jnp.asarray(rng.normal(size=(1, 5, 4, 2)))
        total, kernels, biases = 0, [], []
        for size, dilation in zip(sizes, dilations):
            kernel = jnp.asarray(rng.normal(size=(size, size, 1, 2)))
            norm = [jnp.asarray(rng.uniform(0.5, 2, size=2)) for _ in range(4)]
            convolved = reference.depthwise_conv2d(x, kernel, dilation=dilation)
            total = total + reference.batch_norm(convolved, *norm)
            folded, bias = ops.fold_batch_norm(kernel, *norm)
            kernels.append(folded)
            biases.append(bias)
        merged = ops.merge_dilated_kernels(kernels[0], kernels[1:], dilations=dilations[1:])
        actual = ops.depthwise_conv2d(x, merged) + sum(biases).reshape(1, 1, 1, -1)
        chex.assert_trees_all_close(actual, total, rtol=1e-12, atol=1e-12)
