"""Fake quantisation of weights: trained in floats, used as small integers times a scale."""

import dataclasses
import re
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.train.transforms.base import Transform, check_patterns, map_matching

# A stack of scanned layers lies under "blocks", "stage0_blocks", ...
STACKED = re.compile(r"(^|/)\w*blocks/")


@dataclasses.dataclass(frozen=True)
class FakeQuantize(Transform):
    """Each weight becomes the nearest of 2^bits - 1 even steps, symmetric about zero.

        q(w) = s round(w / s),   s = max |w| / (2^(bits - 1) - 1)

    with a scale s for each index of the last axis (the output channels; heads share theirs), and
    for each of stacked layers. The gradient passes straight through. What is evaluated and exported
    are the quantised values.

    Attributes:
      match: regular expressions of the parameters, searched for in paths such as
        "model/block_00/mlp/fc1/kernel".
      bits: from 2 to 8.

    Source: Jacob et al., Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference (2018), with symmetric scales per channel.
    """

    match: tuple[str, ...]
    bits: int = 8

    def __post_init__(self) -> None:
        if isinstance(self.match, str):
            raise ValueError(f"match={self.match!r} must be a tuple, such as ({self.match!r},)")
        if self.bits not in range(2, 9):
            raise ValueError(f"bits={self.bits} must be from 2 to 8")

    def __call__(self, params: Any, state: Any) -> Any:
        """The parameters, those that match quantised."""
        return map_matching(self.quantize, self.match, params)

    def check(self, params: Any, field: str) -> None:
        """Refuses patterns that match no parameter."""
        check_patterns(self.match, params, field)

    def quantize(self, path: str, weights: Float[Array, "... C"]) -> Float[Array, "... C"]:
        """The nearest steps, with the gradient of the identity."""
        kept = {weights.ndim - 1} | ({0} if STACKED.search(path) else set())
        reduced = tuple(axis for axis in range(weights.ndim) if axis not in kept)
        largest = jnp.max(jnp.abs(weights), axis=reduced, keepdims=True)
        scale = jnp.where(largest > 0, largest, 1) / (2 ** (self.bits - 1) - 1)
        return weights + jax.lax.stop_gradient(jnp.round(weights / scale) * scale - weights)
