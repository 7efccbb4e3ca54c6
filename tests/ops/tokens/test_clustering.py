"""Clustering of tokens against loops over centres and points, and its limits."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

from scanmax import ops
from scanmax.ops import reference
from scanmax.testing import OpCase, OpSuite


class TokenClusteringTest(OpSuite):
    op = ops.token_clustering
    reference = reference.token_clustering
    # The weights take no gradient: differences at a small scale would see them.
    cases = (
        OpCase(
            batch=(2,),
            full=True,
            grid=(5, 4),
            options={"size": (3, 2), "window": 3, "iterations": 1, "scale": 0.0},
        ),
        OpCase(grid=(9, 8), options={"size": (7, 6), "window": 3, "iterations": 2, "scale": 0.3}),
        OpCase(batch=(1, 2), grid=(3, 4), options={"size": (2, 2), "scale": 0.3}),
        OpCase(grid=(1, 4), options={"size": (1, 2), "iterations": 0}),
    )
    errors = (
        ({"size": (6, 2)}, ValueError, r"size=\(6, 2\)"),
        ({"window": 2}, ValueError, "expected an odd"),
        ({"iterations": -1}, ValueError, "is negative"),
        ({"scale": jnp.ones(2)}, ValueError, "expected a scalar"),
    )

    def make_args(self, rng, case):
        return {"x": rng.normal(size=(*case.batch, *case.grid, 3))}

    def test_gradients_pass_through_the_last_mean_alone(self):
        x = jax.random.normal(jax.random.key(0), (5, 4, 3), jnp.float64)
        options = {"size": (3, 2), "window": 3, "iterations": 2, "scale": 0.7}
        turn = jnp.cos(jnp.arange(18.0, dtype=jnp.float64)).reshape(3, 2, 3)
        ours, theirs = (
            jax.grad(lambda x, f=f: jnp.sum(turn * f(x, **options)))(x)
            for f in (ops.token_clustering, reference.token_clustering)
        )
        chex.assert_trees_all_close(ours, theirs, rtol=1e-10)

    def test_as_many_centres_as_tokens_are_the_tokens(self):
        x = jax.random.normal(jax.random.key(0), (2, 3, 2, 8))
        centers = ops.token_clustering(x, (3, 2), scale=200.0, window=3)
        chex.assert_trees_all_close(centers, x, atol=1e-5)


class TokenReconstructionTest(OpSuite):
    op = ops.token_reconstruction
    reference = reference.token_reconstruction
    cases = (
        OpCase(batch=(2,), full=True, options={"scale": 0.3}),
        OpCase(length=1, options={"neighbours": 2, "normalize": "sum", "scale": 0.3}),
        OpCase(length=5, batch=(1, 2), options={"neighbours": None, "normalize": "sum"}),
    )
    errors = (
        ({"normalize": "max"}, ValueError, "'l2', 'sum'"),
        ({"neighbours": 0}, ValueError, "expected at least 1"),
        ({"values": lambda z: z[..., 1:, :]}, ValueError, r"values has shape"),
        ({"centers": lambda z: z[..., 1:]}, ValueError, r"centers has shape"),
    )

    def make_args(self, rng, case):
        return {
            "x": rng.normal(size=(*case.batch, case.length, 3)),
            "centers": rng.normal(size=(*case.batch, 5, 3)),
            "values": rng.normal(size=(*case.batch, 5, 2)),
        }

    @parameterized.parameters("l2", "sum")
    def test_the_tokens_as_centres_give_the_values_back(self, normalize):
        x, values = jax.random.normal(jax.random.key(0), (2, 20, 8))
        y = ops.token_reconstruction(x, x, values, scale=200.0, normalize=normalize)
        chex.assert_trees_all_close(y, values, atol=1e-5)

    def test_far_tokens_have_weights_too(self):
        far = jnp.full((1, 2), 1e3)  # exp(-scale d^2) underflows
        y = ops.token_reconstruction(far, jnp.eye(2) * 9, jnp.ones((2, 1)), normalize="sum")
        chex.assert_trees_all_close(y, jnp.ones((1, 1)))


class ContextClusterTest(OpSuite):
    op = ops.context_cluster
    reference = reference.context_cluster
    cases = (
        OpCase(
            batch=(2,),
            full=True,
            options={"grid": (4, 2), "regions": (2, 1), "centers": (1, 2), "prefix_tokens": 1},
        ),
        OpCase(
            options={"grid": (3, 5), "denominator": "count", "prefix_tokens": 2},
            scalars=(2.0, -0.5),
        ),
        OpCase(batch=(1, 2), options={"grid": (1, 2), "regions": (1, 2)}),
    )
    errors = (
        ({"grid": (4, 5)}, ValueError, r"expected T = 1 \+ 4 \* 5"),
        ({"regions": (3, 1)}, ValueError, "do not divide"),
        ({"denominator": "sum"}, ValueError, "'count', 'similarity'"),
        ({"centers": (0, 2)}, ValueError, "expected positive"),
    )

    def make_args(self, rng, case):
        grid, prefix = case.options["grid"], case.options.get("prefix_tokens", 0)
        shape = (*case.batch, prefix + grid[0] * grid[1], 2)
        arrays = {"features": rng.normal(size=(*shape, 3)), "values": rng.normal(size=(*shape, 2))}
        if hasattr(case, "scalars"):
            arrays |= {name: np.asarray(z) for name, z in zip(("alpha", "beta"), case.scalars)}
        return arrays

    def test_scale_and_shift_of_the_similarity_take_gradients(self):
        rng = np.random.default_rng(0)
        x = jnp.asarray(rng.normal(size=(16, 2, 3)))

        def total(scalars, module):
            y = module.context_cluster(x, x, grid=(4, 4), alpha=scalars[0], beta=scalars[1])
            return jnp.sum(jnp.sin(y))

        ours, theirs = (
            jax.grad(total)((jnp.array(1.5), jnp.array(0.2)), m) for m in (ops, reference)
        )
        chex.assert_trees_all_close(ours, theirs, rtol=1e-10)
        self.assertGreater(float(jnp.abs(jnp.array(ours)).min()), 0)

    def test_the_denominator_is_that_of_equation_1(self):
        """One cluster of two points: similarities over their sum and 1, not over their number."""
        features = jnp.array([[1.0, 0.0], [0.6, 0.8]]).reshape(2, 1, 2)
        values = jnp.array([2.0, 5.0]).reshape(2, 1, 1)
        centre = np.array([0.8, 0.4])
        cosines = np.array([[1.0, 0.0], [0.6, 0.8]]) @ centre / np.linalg.norm(centre)
        near = 1 / (1 + np.exp(-cosines))
        total = 3.5 + near @ np.array([2.0, 5.0])
        options = {"grid": (1, 2), "centers": (1, 1)}
        for denominator, mass in (({}, near.sum()), ({"denominator": "count"}, 2)):
            y = ops.context_cluster(features, values, **options, **denominator)
            np.testing.assert_allclose(y[:, 0, 0], near * total / (1 + mass), rtol=1e-12)

    def test_a_point_of_zeros_has_no_gradient_and_spoils_no_other(self):
        x = jnp.asarray(np.random.default_rng(0).normal(size=(12, 1, 3))).at[5].set(0)

        def loss(x, module):
            return jnp.sum(jnp.sin(module.context_cluster(x, x, grid=(3, 4))))

        value, gradient = jax.value_and_grad(loss)(x, ops)
        np.testing.assert_allclose(value, loss(x, reference), rtol=1e-12)
        self.assertLess(float(jnp.abs(gradient).max()), 10)

    def test_points_have_no_order_once_the_centres_are_given(self):
        # One centre is the mean of all points: then they are a set.
        x = jax.random.normal(jax.random.key(0), (2, 12, 2, 3))
        order = jax.random.permutation(jax.random.key(1), 12)

        def run(x):
            return ops.context_cluster(x[0], x[1], grid=(3, 4), centers=(1, 1))

        chex.assert_trees_all_close(run(x[:, order]), run(x)[order], atol=1e-6)


class ContextClusterMatrixTest(OpSuite):
    op = ops.context_cluster_matrix
    reference = reference.context_cluster_matrix
    cases = (OpCase(full=True, options={"grid": (1, 4), "centers": (1, 2), "prefix_tokens": 1}),)
    errors = (({"grid": (2, 3)}, ValueError, r"expected T = 1 \+ 2 \* 3"),)

    def make_args(self, rng, case):
        return {"features": rng.normal(size=(*case.batch, 5, 2, 3))}


class KmeansCrossAttentionTest(OpSuite):
    op = ops.kmeans_cross_attention
    reference = reference.kmeans_cross_attention
    cases = (OpCase(batch=(2,), full=True), OpCase(length=1, batch=(1, 2)))
    errors = (
        ({"key": lambda z: z[..., 1:]}, ValueError, r"key has shape"),
        ({"value": lambda z: z[..., 1:, :, :]}, ValueError, r"value has shape"),
    )

    def make_args(self, rng, case):
        return {
            "query": rng.normal(size=(*case.batch, 4, 2, 3)),
            "key": rng.normal(size=(*case.batch, case.length, 2, 3)),
            "value": rng.normal(size=(*case.batch, case.length, 2, 5)),
        }

    def test_every_pixel_chooses_one_query(self):
        query, key = (jax.random.normal(jax.random.key(i), (n, 2, 3)) for i, n in ((0, 4), (1, 50)))
        matrix = ops.kmeans_cross_attention_matrix(query, key)
        chex.assert_trees_all_equal(matrix, reference.kmeans_cross_attention_matrix(query, key))
        chex.assert_trees_all_equal(matrix.sum(-2), jnp.ones((2, 50)))
        chex.assert_trees_all_equal(matrix, jnp.square(matrix))

    def test_only_the_values_take_a_gradient(self):
        x = jax.random.normal(jax.random.key(0), (6, 1, 3))
        gradients = jax.grad(
            lambda q, k, v: ops.kmeans_cross_attention(q, k, v).sum(), argnums=(0, 1, 2)
        )(x[:2], x, x)
        self.assertEqual([bool(jnp.abs(g).max() > 0) for g in gradients], [False, False, True])
