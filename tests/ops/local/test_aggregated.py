"""Aggregated attention against dense masked attention over pixels and pooled keys."""

import jax
import jax.numpy as jnp
import numpy as np

from scanmax import ops
from scanmax.ops import reference
from scanmax.testing import OpCase, OpSuite, compare


class AggregatedAttentionTest(OpSuite):
    op = ops.aggregated_attention
    reference = reference.aggregated_attention
    cases = (
        OpCase(
            grid=(4, 5), batch=(2,), pooled=3, scale=0.7, options={"kernel_size": (3, 1)}, full=True
        ),
        OpCase(grid=(4, 5), pooled=3, options={"normalizer": "lssar"}),
        OpCase(grid=(1, 2), pooled=1, plain=True),
    )
    errors = (
        ({"kernel_size": 2}, ValueError, "kernel_size=2; expected odd"),
        ({"pooled_value": lambda x: x[:, :1]}, ValueError, "global_value has shape"),
        ({"local_bias": lambda x: x[1:]}, ValueError, "local_bias has shape"),
        ({"pooled_bias": lambda x: x[..., 1:]}, ValueError, "pooled_bias has shape"),
        ({"local_weights": lambda x: x[0]}, ValueError, "local_weights has shape"),
    )

    def make_args(self, rng, case, with_value=True):
        lead, H, G = (*case.batch, *case.grid), 4, 2
        kernel = case.options.get("kernel_size", 3)
        kernel = kernel if isinstance(kernel, tuple) else (kernel, kernel)
        args = {
            "query": rng.normal(size=(*lead, H, 5)),
            "key": rng.normal(size=(*lead, G, 5)),
            "pooled_key": rng.normal(size=(*case.batch, case.pooled, G, 5)),
        }
        if with_value:
            args["value"] = rng.normal(size=(*lead, G, 3))
            args["pooled_value"] = rng.normal(size=(*case.batch, case.pooled, G, 3))
        if not hasattr(case, "plain"):
            args["local_bias"] = rng.normal(size=(H, *kernel))
            args["pooled_bias"] = rng.normal(size=(H, *case.grid, case.pooled))
            args["local_weights"] = rng.normal(size=(*lead, H, kernel[0] * kernel[1]))
        if hasattr(case, "scale"):
            args["scale"] = np.asarray(case.scale)
        return args

    def test_matrix(self):
        case = OpCase(grid=(4, 5), batch=(2,), pooled=3)
        arrays, _ = self.inputs(case)
        value, pooled = arrays.pop("value"), arrays.pop("pooled_value")
        matrix = ops.aggregated_attention_matrix(**arrays)
        expected = reference.aggregated_attention_matrix(**arrays)
        compare.assert_relative(matrix, expected, 1e-12)
        y = ops.aggregated_attention(**arrays, value=value, pooled_value=pooled)
        values = jnp.concatenate([pooled, value.reshape(2, 20, 2, 3)], 1)
        mixed = jnp.einsum("bhts,bshv->bthv", matrix, jnp.repeat(values, 2, 2))
        compare.assert_relative(y.reshape(mixed.shape), mixed, 1e-12)


def test_training_memory_is_linear_in_the_pixels():
    def train(x, pooled):
        def loss(x, pooled):
            return jnp.sum(ops.aggregated_attention(x, x, x, pooled, pooled) ** 2)

        return jax.grad(loss)(x, pooled)

    def temporary(side):
        x = jax.ShapeDtypeStruct((side, side, 2, 16), jnp.float32)
        pooled = jax.ShapeDtypeStruct((49, 2, 16), jnp.float32)
        return jax.jit(train).lower(x, pooled).compile().memory_analysis().temp_size_in_bytes

    assert temporary(48) < 5 * temporary(24)
