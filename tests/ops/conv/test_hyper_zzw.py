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


class HyperKernelTest(OpSuite):
    op = ops.hyper_kernel
    reference = reference.hyper_kernel
    cases = (
        OpCase(size=(2, 3), full=True, context=True, options={"detached": False}),
        OpCase(size=(1, 4), context=False),
        OpCase(size=(3, 3), context=True, offset=False, options={"renormalized": 0.5}),
    )
    errors = (
        ({"filters": lambda g: g[0]}, ValueError, r"expected \[F, Y, X, H\]"),
        ({"weights": lambda w: w[:1]}, ValueError, "weights has shape"),
        ({"offset": lambda p: p[1:]}, ValueError, "offset has shape"),
        ({"context": lambda c: c[..., 1:]}, ValueError, "context has shape"),
    )

    def make_args(self, rng, case):
        layers, hidden = 2, 3
        return {
            "filters": rng.normal(size=(layers + 1, *case.size, hidden)),
            "weights": rng.normal(size=(layers, hidden, hidden)),
            "bias": rng.normal(size=(layers, hidden)),
            "offset": rng.normal(size=case.size) if getattr(case, "offset", True) else None,
            "context": rng.normal(size=(layers, *case.size, hidden)) if case.context else None,
        }

    def test_released_kernels_learn_by_the_direction_alone(self):
        """With r = 0 nothing in front of the last context has a gradient."""
        arrays, _ = self.inputs(self.cases[0])
        arrays = {name: jnp.asarray(array) for name, array in arrays.items()}

        def total(weights, context, **options):
            given = {**arrays, "weights": weights, "context": context}
            return jnp.sum(ops.hyper_kernel(**given, **options))

        own = arrays["weights"], arrays["context"]
        gradients = jax.grad(total, (0, 1))
        weights, context = gradients(*own, renormalized=0.0)
        assert not weights.any()
        assert not context[0].any()
        assert context[1].all()
        whole = gradients(*own, renormalized=0.0, detached=False)[0]
        halves = gradients(*own, renormalized=1.0)[0]
        assert whole.all()
        assert halves.any()


def test_an_output_reads_its_row_and_its_column():
    z, kernel = jax.random.normal(jax.random.key(0), (2, 5, 5, 1))
    jacobian = jax.jacobian(ops.hyper_zzw)(z, kernel)[2, 3, 0, :, :, 0]
    reads = (jacobian != 0).astype(jnp.int32)
    assert reads[2].all()
    assert reads[:, 3].all()
    assert int(reads.sum()) == 9
