"""One meaning of n in the scores: the keys that a row may attend to, in every op and evaluation."""

import dataclasses
import inspect
from typing import ClassVar

import chex
import jax
import jax.numpy as jnp
import numpy as np

from scanmax import ops
from scanmax.ops import reference
from scanmax.testing import compare


@dataclasses.dataclass(frozen=True)
class OverCount(ops.Normalizer):
    """(1 + l^2) / (n + 1): a user's, which also divides what an empty row sums up."""

    normalized: ClassVar[bool] = False

    def score(self, logits, level, num_keys):
        seen = logits > -jnp.inf
        square = jnp.square(jnp.where(seen, logits, 0))
        return jnp.where(seen, 1 + square, 0) / (num_keys + 1)


NORMALIZERS = ("sigmoid", "softplus", OverCount())
SEGMENTS = np.array([[0, 0, 0, 1, 1, 2, 2], [0, 0, 0, 0, 0, 0, 1]])

# op: how it is called, by the arrays of `tokens` or `maps`.
TOKENS = {
    "whole": ("dot_product_attention", {}),
    "causal": ("dot_product_attention", {"is_causal": True}),
    "window": ("dot_product_attention", {"is_causal": True, "local_window_size": 2}),
    "lengths": (
        "dot_product_attention",
        {"key_value_seq_lengths": np.array([4, 0], np.int32), "local_window_size": (None, 1)},
    ),
    "packed": (
        "dot_product_attention",
        {"mask": (SEGMENTS[:, None, :, None] == SEGMENTS[:, None, None]), "is_causal": True},
    ),
    "soft causal": ("soft_causal_attention", {"strength": np.asarray(0.3)}),
    "strided": ("sparse_attention", {"stride": 3, "prefix_tokens": 1}),
    "fixed": (
        "sparse_attention",
        {"pattern": "fixed", "stride": 4, "subblocks": 2, "is_causal": False},
    ),
    "heads": ("sparse_attention", {"combine": "heads", "stride": 2, "is_causal": False}),
    "spans": ("per_head_window_attention", {"windows": (2, 4), "sinks": 1, "prefix_tokens": 2}),
}
MAPS = {
    "window": ("window_attention", {"window_size": 2, "shift": 1}),
    "large window": ("window_attention", {"window_size": 7}),
    "halo": ("halo_attention", {"block_size": 2, "halo": 1, "edges": "masked"}),
    "halo of zeros": ("halo_attention", {"block_size": 2, "halo": 1, "edges": "zero"}),
    "clamped": ("neighborhood_attention", {"kernel_size": 3}),
    "masked": ("neighborhood_attention", {"kernel_size": 3, "edges": "masked"}),
    "masked, by blocks": (
        "neighborhood_attention",
        {"kernel_size": 3, "edges": "masked", "form": "chunked"},
    ),
    "zeros": ("msa_conv", {"kernel_size": 3, "stride": 2}),
}


class KeyCountTest(chex.TestCase):
    def setUp(self):
        super().setUp()
        self.enterContext(jax.enable_x64(True))
        self.rng = np.random.default_rng(0)

    def arrays(self, *shape):
        return [jnp.asarray(self.rng.normal(size=shape)) for _ in range(3)]

    def compare(self, name, arrays, options, changes=({},)):
        backend = ("form", "chunk_size")
        kept = {k: v for k, v in options.items() if k not in backend}
        op, equation = getattr(ops, name), getattr(reference, name)

        # One program for all normalizers, for compiling is what this costs.
        @jax.jit
        def both(arrays):
            return [
                (
                    [op(*arrays, normalizer=each, **options, **change) for change in changes],
                    equation(*arrays, normalizer=each, **kept),
                )
                for each in NORMALIZERS
            ]

        for found, expected in both(tuple(arrays)):
            for actual in found:
                compare.assert_relative(actual, expected, 1e-12)

    def test_tokens(self):
        streamed = {"form": "chunked", "chunk_size": (3, 2)}
        for case, (name, options) in TOKENS.items():
            arrays = self.arrays(2, 7, 2, 3)
            forms = "form" in ops_options(name)
            with self.subTest(case):
                self.compare(name, arrays, options, ({}, streamed) if forms else ({},))

    def test_maps(self):
        for case, (name, options) in MAPS.items():
            with self.subTest(case):
                self.compare(name, self.arrays(2, 4, 5, 2, 3), options)
                more = dict(zip(("global_key", "global_value"), self.arrays(2, 3, 2, 3)))
                self.compare(name, self.arrays(2, 4, 5, 2, 3), options | more)

    def test_aggregated(self):
        arrays = (*self.arrays(4, 5, 2, 3), *self.arrays(6, 2, 3)[:2])
        self.compare("aggregated_attention", arrays, {"kernel_size": 3})

    def test_manhattan(self):
        for decomposed in (False, True):
            for prefix in (0, 2):
                arrays = (*self.arrays(prefix + 12, 2, 3), -jnp.ones(2))
                options = {"grid": (3, 4), "decomposed": decomposed, "prefix_tokens": prefix}
                self.compare("manhattan_attention", arrays, options)

    def test_the_bias_of_a_row_is_the_log_of_the_keys_that_it_sees(self):
        """Of equal logits 0, n sigmoids sum to n / (n + 1)."""
        zeros, ones = jnp.zeros((2, 7, 2, 3)), jnp.ones((2, 7, 2, 1))
        for case, (name, options) in TOKENS.items():
            if name == "soft_causal_attention":
                continue
            kept = {k: v for k, v in options.items() if k not in ("form",)}
            matrix = "attention_matrix" if name.startswith("dot") else f"{name}_matrix"
            seen = jnp.sum(getattr(ops, matrix)(zeros, zeros, **kept) > 0, -1)  # [B, H, T]
            expected = jnp.moveaxis(seen / (seen + 1), 1, 2)[..., None]
            y = getattr(ops, name)(zeros, zeros, ones, normalizer="sigmoid", **options)
            with self.subTest(case):
                compare.assert_relative(y, expected, 1e-12)

    def test_steps_over_a_larger_cache_equal_the_whole_pass(self):
        calls = (
            ("attention_step", "dot_product_attention", {"is_causal": True}, {}),
            (
                "attention_step",
                "dot_product_attention",
                {"is_causal": True, "local_window_size": 2},
                {"local_window_size": 2},
            ),
            ("sparse_attention_step", "sparse_attention", {"stride": 3}, {"stride": 3}),
            (
                "per_head_window_attention_step",
                "per_head_window_attention",
                {"windows": (2, 4), "sinks": 1, "length": 7},
                {"windows": (2, 4), "sinks": 1, "length": 7},
            ),
        )
        for step, whole, options, step_options in calls:
            for normalizer in NORMALIZERS:
                query, key, value = self.arrays(2, 7, 2, 3)
                expected = getattr(ops, whole)(query, key, value, normalizer=normalizer, **options)
                state = ops.init_kv_cache((2,), 11, 2, 3, dtype=jnp.float64)
                outputs = []
                for t in range(7):
                    y, state = getattr(ops, step)(
                        state,
                        *(x[:, t] for x in (query, key, value)),
                        normalizer=normalizer,
                        **step_options,
                    )
                    outputs.append(y)
                with self.subTest(step, normalizer=normalizer):
                    compare.assert_relative(jnp.stack(outputs, 1), expected, 1e-12)

    def test_gradients_of_rows_without_keys_are_finite(self):
        query, key, value = self.arrays(2, 7, 2, 3)
        mask = jnp.arange(7)[:, None] > jnp.arange(7)  # the first row sees nothing
        for normalizer in NORMALIZERS:
            for form in ("parallel", "chunked"):

                def loss(*arrays, normalizer=normalizer, form=form):
                    options = {"form": form, "chunk_size": 3, "normalizer": normalizer}
                    return ops.dot_product_attention(*arrays, mask=mask, **options).sum()

                chex.assert_tree_all_finite(jax.grad(loss, (0, 1, 2))(query, key, value))

    def test_weights_of_a_mask(self):
        x = jnp.asarray(self.rng.normal(size=(3, 5)))
        where = jnp.asarray(np.arange(5) < np.array([[5], [2], [0]]))
        for n, row, weights in zip((5, 2, 0), x, ops.sigmoid_weights(x, where=where)):
            expected = 1 / (1 + n * np.exp(-row[:n]))
            compare.assert_relative(weights[:n], expected, 1e-12)
            self.assertFalse(weights[n:].any())


def ops_options(name):
    return inspect.signature(getattr(ops, name)).parameters
