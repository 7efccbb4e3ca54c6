"""The global operators of HyperZZW."""

import jax
import jax.numpy as jnp

from scanmax import ops
from scanmax.ops import reference
from scanmax.testing import OpCase, OpSuite


class HyperZzwTest(OpSuite):
    op = ops.hyper_zzw
    reference = reference.hyper_zzw
    cases = (
        OpCase(batch=(2,), size=(3, 3), full=True, fast=True),
        OpCase(size=(4, 4), fast=False),
        OpCase(size=(2, 4), fast=True),
        OpCase(size=(3, 2), fast=False),
        OpCase(size=(2, 3), fast=False, options={"interaction": "elementwise"}),
    )
    errors = (
        ({"kernel": lambda k: k[1:]}, ValueError, r"kernel has shape .*\[Y, X, C\]"),
        ({"fast": lambda k: k[:, 1:]}, ValueError, "fast has shape"),
        ({"interaction": "dot"}, ValueError, "interaction='dot' is not one of"),
    )

    def make_args(self, rng, case):
        shape = (*case.batch, *case.size, 2)
        return {
            "z": rng.normal(size=shape),
            "kernel": rng.normal(size=(*case.size, 2)),
            "fast": rng.normal(size=shape) if case.fast else None,
        }


def test_an_output_reads_its_row_and_its_column():
    z, kernel = jax.random.normal(jax.random.key(0), (2, 5, 5, 1))
    jacobian = jax.jacobian(ops.hyper_zzw)(z, kernel)[2, 3, 0, :, :, 0]
    reads = (jacobian != 0).astype(jnp.int32)
    assert reads[2].all()
    assert reads[:, 3].all()
    assert int(reads.sum()) == 9
