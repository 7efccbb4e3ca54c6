"""What ops over packed rows share: where a sequence starts, which tokens are of one, the forms."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

# What a recurrence calls the ways to evaluate it.
FORMS = (None, "parallel", "chunked", "recurrent")


def segment_starts(segment_ids: Int[Array, "*B T"], reverse: bool = False) -> Bool[Array, "*B T"]:
    """Where a token has another number than the token read before it; never the first one read."""
    changes = segment_ids[..., 1:] != segment_ids[..., :-1]
    first = jnp.zeros_like(segment_ids[..., :1], bool)
    return jnp.concatenate([changes, first] if reverse else [first, changes], -1)


def same_segment(segment_ids: Int[Array, "*B T"]) -> Bool[Array, "*B T T"]:
    """Whether two tokens lie in one segment, a run of equal numbers."""
    runs = jnp.cumsum(segment_starts(segment_ids), -1)
    return runs[..., :, None] == runs[..., None, :]
