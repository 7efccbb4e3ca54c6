"""What the equations over packed rows share: where the numbers of the segments change."""

import jax.numpy as jnp

from scanmax.ops.contract import align


def segment_runs(segment_ids):
    """The number of changes up to each token."""
    first = segment_ids[..., :1]
    return jnp.cumsum(jnp.diff(segment_ids, axis=-1, prepend=first) != 0, -1)


def in_one_segment(segment_ids):
    """[*B, T, T]: no number changes from one token to the other."""
    i, j, t = jnp.ix_(*[jnp.arange(segment_ids.shape[-1])] * 3)
    changes = jnp.diff(segment_ids, axis=-1, prepend=segment_ids[..., :1]) != 0
    between = ((j < t) & (t <= i)) | ((i < t) & (t <= j))
    return ~jnp.any(changes[..., None, None, :] & align(between, changes[..., None, None, :]), -1)
