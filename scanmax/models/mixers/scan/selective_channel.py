"""A selective scan over channels: every token is a sequence of its own channels."""

from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from scanmax.models.mixers.scan.cross import GatedScan, PerDirection


class SelectiveChannel(GatedScan):
    """MambaMixer's selective channel mixer: inner channels are scanned forward and backward.

        y = out((ssm_f(conv_f(u)) + flip(ssm_b(conv_b(flip(u))))) silu(z)),  along the channels of u

    The paper writes the scan over the transposed tokens, with projections that would be over all T
    of them, yet runs one model at several image sizes; there is no public code. Here a step of the
    scan is `step_width` neighbouring channels of one token, and all tokens share the parameters. A
    token reads itself alone: this mixes channels, as an MLP does, and is causal as it stands.

    Attributes:
      step_width: channels that a step of the scan reads; it divides the inner width.
    """

    formula: ClassVar[str] = (
        "y = out((ssm(conv(u)) + flip(ssm(conv(flip(u))))) silu(z)), over channels"
    )
    causal_form: ClassVar[bool] = True
    papers: ClassVar[tuple[str, ...]] = ("mambamixer",)
    packs: ClassVar[bool] = True

    filter_size: int = 4
    step_width: int = 1

    def __call__(
        self,
        x: Float[Array, "B T D"],
        grid: tuple[int, int] | None = None,
        train: bool = False,
        state: Any = None,
        segment_ids: Int[Array, "B T"] | None = None,
    ):
        # sequences that share a row are apart as they are
        self.packed(segment_ids, state)
        y = self.gated(x, grid)
        return y if state is None else (y, state)

    @nn.nowrap
    def mix(self, x: Float[Array, "B T C"], grid, dim: int) -> Float[Array, "B T C"]:
        if x.shape[-1] % self.step_width:
            raise ValueError(f"step_width={self.step_width} does not divide {x.shape[-1]}.")
        steps = x.reshape(x.shape[0] * x.shape[1], x.shape[-1] // self.step_width, self.step_width)
        sequences = self.filter_sequences(jnp.stack([steps, jnp.flip(steps, 1)]))
        y = self.create_ssm(PerDirection, self.step_width)(sequences)
        return (y[0] + jnp.flip(y[1], 1)).reshape(x.shape)

    @nn.nowrap
    def init_state(self, batch_size: int, length: int, dim: int) -> tuple[()]:
        """Nothing: a token reads itself alone."""
        return ()
