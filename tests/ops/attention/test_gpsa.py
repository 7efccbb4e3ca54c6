"""gpsa against its equations, and against the convolution that it starts as."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scanmax import ops
from scanmax.ops import reference
from scanmax.testing import OpCase, OpSuite, compare


class GpsaTest(OpSuite):
    op = ops.gpsa
    reference = reference.gpsa
    forms = ("parallel", "chunked")
    cases = (
        OpCase(
            batch=(2,),
            heads=(4, 2),
            options={"grid": (2, 3), "prefix_tokens": 2},
            full=True,
        ),
        OpCase(heads=(1, 1), options={"grid": (1, 1)}, forms=("parallel",)),
        OpCase(batch=(1, 2), heads=(3, 3), options={"grid": (5, 2)}, forms=("parallel",)),
    )
    errors = (
        ({"grid": (2, 4)}, ValueError, r"query has shape \(2, 8, 4, 3\); expected T = 2 \+ 2 \* 4"),
        ({"position_weight": lambda x: x[:3]}, ValueError, r"position_weight has shape \(3, 3\)"),
        ({"gate": lambda x: x[:, None]}, ValueError, r"gate has shape \(4, 1\)"),
        ({"form": "recurrent"}, ValueError, "'parallel', 'chunked'"),
    )

    def make_args(self, rng, case):
        (H, G), grid = case.heads, case.options["grid"]
        T = case.options.get("prefix_tokens", 0) + grid[0] * grid[1]
        return {
            "query": rng.normal(size=(*case.batch, T, H, 3)),
            "key": rng.normal(size=(*case.batch, T, G, 3)),
            "value": rng.normal(size=(*case.batch, T, G, 2)),
            "position_weight": rng.normal(size=(H, 3)),
            "gate": rng.normal(size=H),
        }


class GpsaMatrixTest(GpsaTest):
    op = ops.gpsa_matrix
    reference = reference.gpsa_matrix
    forms = ()
    cases = tuple(
        OpCase(
            batch=case.batch,
            heads=case.heads,
            options=case.options,
            full=case.full,
        )
        for case in GpsaTest.cases[:2]
    )
    errors = GpsaTest.errors[:3]

    def make_args(self, rng, case):
        args = super().make_args(rng, case)
        args.pop("value")
        return args


def test_the_start_equals_its_equation():
    for heads in (1, 3, 4, 9, 11):
        for strength in (1.0, 0.5):
            weight = ops.gpsa_position_weight(heads, strength=strength)
            expected = reference.gpsa_position_weight(heads, strength=strength)
            np.testing.assert_array_equal(weight, expected)


@pytest.mark.usefixtures("float64")
def test_sharp_and_gated_it_is_a_convolution_at_any_grid():
    # Tap (i, j) of the 3 x 3 reads the channels of its own head; borders read the nearest pixel.
    rng = np.random.default_rng(0)
    grid, heads, width = (4, 6), 9, 2
    value = jnp.asarray(rng.normal(size=(24, heads, width)))
    weight, gate = ops.gpsa_position_weight(heads, strength=60.0), jnp.full(heads, 99.0)
    y = ops.gpsa(value, value, value, weight, gate, grid=grid).reshape(*grid, heads, width)
    maps = np.pad(
        np.asarray(value).reshape(*grid, heads, width), ((1, 1), (1, 1), (0, 0), (0, 0)), "edge"
    )
    taps = [maps[i : i + 4, j : j + 6, i + 3 * j] for j in range(3) for i in range(3)]
    compare.assert_relative(y, np.stack(taps, -2), 1e-6)


def test_no_matrix_over_pixels_is_made_beside_the_content():
    grid, heads = (32, 32), 2
    x = jax.ShapeDtypeStruct((1024, heads, 8), jnp.float32)
    weight, gate = (
        jax.ShapeDtypeStruct((2, 3), jnp.float32),
        jax.ShapeDtypeStruct((2,), jnp.float32),
    )

    def loss(*arrays):
        return jnp.sum(ops.gpsa(*arrays, grid=grid, form="chunked"))

    jaxpr = jax.make_jaxpr(jax.grad(loss, argnums=(0, 1, 2, 3, 4)))(x, x, x, weight, gate)
    largest = max(v.aval.size for e in jaxpr.eqns for v in e.outvars)
    assert largest < 1024 * 1024
