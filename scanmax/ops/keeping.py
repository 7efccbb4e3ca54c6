"""What a backward pass finds of the forward pass, and what it computes again."""

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name


def recomputed(function, *kept: str):
    """The function, whose inputs the backward pass keeps, and values of these `checkpoint_name`s.

    Where the forward pass is another program, as of a loop over layers, all that is kept between
    the two is written out for every layer: a float32 copy for each step of a norm, unless it is
    computed again. In one program the compiler finds both equal, and nothing changes.
    """
    policy = jax.checkpoint_policies.save_only_these_names(*kept)
    return jax.checkpoint(function, policy=policy, prevent_cse=False)


# Beside these, and products in their operands' dtype, a loop over layers keeps values of `kept`.
DEAR = frozenset({"conv_general_dilated", "custom_call", "fft", "pallas_call", "sort", "top_k"})
KEPT = ("kept", "mean", "inverse_rms")


def kept(x):
    """Marks what a backward pass that computes the rest again should find."""
    return checkpoint_name(x, KEPT[0])


def what_is_dear(primitive, *avals, **params) -> bool:
    """A policy of `jax.checkpoint`: products and marked values are kept, the rest made again.

    A product in a wider dtype than its operands, as of queries and keys in bfloat16, is what ops
    accumulate in: they mark the narrow values that they make of it.
    """
    if primitive.name == "dot_general":
        wanted = params["preferred_element_type"]
        return wanted is None or jnp.dtype(wanted).itemsize <= avals[0].dtype.itemsize
    return primitive.name in DEAR or (primitive.name == "name" and params["name"] in KEPT)
