"""T5's bias of logits: distances in buckets, each its own near by and shared far away."""

import math
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from scanmax.models.layers import Initializer, normal_init, partitioned


def bucket_of_distance(buckets: int, max_distance: int) -> np.ndarray:
    """The bucket of each distance 0, 1, ..., max_distance and whatever lies beyond.

    Half of the buckets are for one distance each, the others grow as its logarithm.

    >>> bucket_of_distance(8, 16).tolist()
    [0, 1, 2, 3, 4, 4, 5, 5, 6, 6, 6, 6, 7, 7, 7, 7, 7]
    """
    near = buckets // 2
    distances = np.arange(max_distance + 1)
    share = np.log(np.maximum(distances, near) / near) / math.log(max_distance / near)
    # What is a whole number but for rounding is one.
    far = near + (share * (buckets - near) + 1e-9).astype(int)
    return np.where(distances < near, distances, np.minimum(far, buckets - 1))


class BucketedBias(nn.Module):
    """A learned bias per head and bucket of distances, [H, T, S].

    Attributes:
      heads: H.
      buckets: rows of the table; of both directions half are behind a query, half before it.
      max_distance: from there on all distances share a bucket.
      both_directions: keys behind a query are told from keys before it; else all that come later
        count as distance 0.
    """

    heads: int
    buckets: int = 32
    max_distance: int = 128
    both_directions: bool = True
    bias_init: Initializer = normal_init
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, queries: Int[Array, "T"], keys: Int[Array, "S"]) -> Float[Array, "H T S"]:
        """The bias of queries and keys that stand at these places."""
        init = partitioned(self.bias_init, (None, "heads"))
        table = self.param("table", init, (self.buckets, self.heads), self.param_dtype)
        count = self.buckets // 2 if self.both_directions else self.buckets
        near = jnp.asarray(bucket_of_distance(count, self.max_distance), jnp.int32)
        offset = keys[None, :] - queries[:, None]
        distance = jnp.abs(offset) if self.both_directions else jnp.maximum(-offset, 0)
        bucket = jnp.take(near, jnp.minimum(distance, self.max_distance))
        if self.both_directions:
            bucket = bucket + count * (offset > 0).astype(jnp.int32)
        return jnp.take(table.astype(self.dtype).T, bucket, axis=1)
