"""Unit vectors that stand for classes: learned, or fixed at large angles from each other."""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from scanmax.errors import UserError
from scanmax.models.layers import Dense, partitioned
from scanmax.train.objectives.views import unit

# Steps of the descent at most, and its rate.
STEPS, RATE = 5000, 0.25


class ClassVectors(nn.Module):
    """Cosines of features with a vector of each class.

    Attributes:
      classes: C.
      dim: width of the vectors, which features are projected to; 0 is the features' own.
      fixed: vectors of `equiangular_vectors`, carried and not learned.
      max_cosine: of these.
    """

    classes: int
    dim: int = 0
    fixed: bool = False
    max_cosine: float = 0.5

    @nn.compact
    def __call__(self, features: Float[Array, "B D"]) -> Float[Array, "B C"]:
        """In float32 or wider."""
        if self.dim:
            project = Dense(self.dim, ("embed", "mlp"), name="project", dtype=features.dtype)
            features = project(features)
        shape = (self.classes, features.shape[-1])
        if self.fixed:
            found = self.variable(
                "class_vectors",
                "fixed",
                lambda: jnp.asarray(equiangular_vectors(*shape, self.max_cosine), jnp.float32),
            )
            vectors = jax.lax.stop_gradient(found.value)
        else:
            init = partitioned(nn.initializers.normal(1.0), ("classes", "embed"))
            vectors = self.param("vectors", init, shape, jnp.float32)
        features, vectors = unit(features), unit(vectors)
        return features @ vectors.astype(features.dtype).T


@functools.lru_cache(maxsize=8)
def equiangular_vectors(count: int, dim: int, max_cosine: float) -> np.ndarray:
    """Unit vectors [count, dim] of which no two have a cosine beyond +-max_cosine.

    As many as dimensions or fewer are orthogonal. More come of a descent on the squares of what
    cosines have beyond the bound (the paper: on their sum, which is zero for the same vectors),
    from a fixed seed, so that every process finds the same.

    Raises:
      UserError: a bound that is not reached, with the least that there could be (Welch).

    >>> vectors = equiangular_vectors(10, 6, 0.5)
    >>> bool((abs(vectors @ vectors.T - np.eye(10)) <= 0.5).all())
    True
    """
    draws = np.random.default_rng(0).normal(size=(count, dim))
    if count <= dim:
        return np.linalg.qr(draws.T)[0].T
    vectors = draws / np.linalg.norm(draws, axis=1, keepdims=True)
    # Within the bound to the last digit of what is kept.
    aim = max_cosine * (1 - 1e-4)
    for _ in range(STEPS):
        cosines = vectors @ vectors.T
        np.fill_diagonal(cosines, 0)
        beyond = cosines - np.clip(cosines, -aim, aim)
        if np.abs(cosines).max() <= max_cosine * (1 - 1e-5):
            return vectors
        vectors = vectors - RATE * beyond @ vectors
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    least = math.sqrt((count - dim) / (dim * (count - 1)))
    raise UserError(
        f"config.objective.kwargs: {count} vectors of width {dim} were not found with cosines "
        f"within max_cosine={max_cosine} (none are below {least:.3f}); raise it, or dim"
    )
