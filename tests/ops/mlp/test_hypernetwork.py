"""Encodings of one length."""

import jax.numpy as jnp
import numpy as np

from scanmax import ops
from scanmax.ops import reference
from scanmax.testing import OpCase, OpSuite


class MipEncodeTest(OpSuite):
    op = ops.mip_encode
    reference = reference.mip_encode
    cases = (
        OpCase(batch=(4,), full=True),
        OpCase(options={"encoding": "z|1-z"}),
        OpCase(batch=(2, 3), options={"encoding": None}),
    )
    errors = (
        ({"encoding": "sin"}, ValueError, "encoding='sin' is not one of"),
        ({"x": jnp.ones(())}, ValueError, "x has shape"),
    )

    def make_args(self, rng, case):
        return {"x": rng.uniform(size=(*case.batch, 3))}


def test_one_length_for_all_numbers():
    x = jnp.linspace(0, 1, 9)[:, None]
    lengths = {
        encoding: np.linalg.norm(ops.mip_encode(x, encoding=encoding), axis=1)
        for encoding in (None, "cos|sin")
    }
    np.testing.assert_allclose(lengths["cos|sin"], 1, rtol=1e-6)
    np.testing.assert_allclose(lengths[None], x[:, 0])
