"""Maps for the tests of local attention, and what all of its matrices keep."""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from scanmax import ops
from scanmax.ops import reference
from scanmax.testing import OpCase, compare


def make_maps(rng, case, table=None, with_value=True):
    """Maps with GQA where the case asks for it, global keys, and a table of that size."""
    H, G = getattr(case, "heads", (2, 1))
    args = {
        "query": rng.normal(size=(*case.batch, *case.grid, H, 5)),
        "key": rng.normal(size=(*case.batch, *case.grid, G, 5)),
        "value": rng.normal(size=(*case.batch, *case.grid, G, 3)),
    }
    if table is not None:
        args["relative_bias"] = rng.normal(size=(H, *table))
    if hasattr(case, "globals"):
        args["global_key"] = rng.normal(size=(*case.batch, case.globals, G, 5))
        args["global_value"] = rng.normal(size=(*case.batch, case.globals, G, 3))
    if hasattr(case, "scale"):
        args["scale"] = np.asarray(case.scale)
    if not with_value:
        args.pop("value")
        args.pop("global_value", None)
    return args


class MatrixCase(chex.TestCase):
    """The matrices are the weights of the references, and mix the values as the ops do."""

    def setUp(self):
        super().setUp()
        self.enterContext(jax.enable_x64(True))
        self.enterContext(jax.numpy_dtype_promotion("strict"))
        self.enterContext(jax.numpy_rank_promotion("raise"))

    def check(self, name, matrix_of, table, options):
        """`matrix_of(ops or reference, **arguments)` is the matrix of ops.NAME."""
        case = OpCase(grid=(4, 3), batch=(2,), heads=(4, 2), globals=2)
        args = make_maps(np.random.default_rng(0), case, table)
        args = {k: jnp.asarray(v) for k, v in args.items()}
        value, before = args.pop("value"), args.pop("global_value")
        matrix = matrix_of(ops, **args, **options)
        expected = matrix_of(reference, **args, **options)
        chex.assert_equal_shape((matrix, expected))
        compare.assert_relative(matrix, expected, 1e-12)
        y = getattr(ops, name)(**args, value=value, global_value=before, **options)
        tokens = jnp.concatenate([before, value.reshape(2, 12, 2, 3)], 1)
        mixed = jnp.einsum("bhts,bshv->bthv", matrix, jnp.repeat(tokens, 2, 2))
        compare.assert_relative(y.reshape(mixed.shape), mixed, 1e-12)
