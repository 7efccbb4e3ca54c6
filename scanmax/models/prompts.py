"""Prompts: learned tokens that steer a trained transformer whose own parameters stay."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.errors import UserError
from scanmax.models.blocks import Block
from scanmax.models.layers import normal_init, partitioned


class PromptedBlock(Block):
    """A block that puts its own prompts in the place of those that come in.

    Attributes:
      prompts: how many; 0 leaves the tokens as they are.
      place: how many tokens stand before them.

    Reference: promptkd
    """

    prompts: int = 0
    place: int = 0

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"], *args: Any, **kwargs: Any):
        if self.prompts:
            behind = x[:, self.place + self.prompts :]
            x = with_prompts(self, x[:, : self.place], behind, self.prompts)
        return super().__call__(x, *args, **kwargs)


def with_prompts(
    module: nn.Module, before: Float[Array, "B N D"], behind: Float[Array, "B M D"], count: int
) -> Float[Array, "B T D"]:
    """Tokens with a module's parameter "prompts" between them, the same for each row.

    Args:
      module: whose parameter they are.
      before: tokens.
      behind: tokens.
      count: of the prompts.
    """
    rows, _, dim = behind.shape
    init = partitioned(normal_init, (None, "embed"))
    prompts = module.param("prompts", init, (count, dim), module.param_dtype)
    prompts = jnp.broadcast_to(prompts.astype(behind.dtype)[None], (rows, count, dim))
    return jnp.concatenate([before, prompts, behind], axis=1)


def without_prompts(x: Float[Array, "B T D"], count: int, place: int) -> Float[Array, "B N D"]:
    """Tokens without the prompts among them."""
    return jnp.concatenate([x[:, :place], x[:, place + count :]], axis=1) if count else x


def prompted(
    fields: list[dict[str, Any]], block: type[nn.Module], count: int, depth: int, place: int
) -> tuple[list[dict[str, Any]], type[nn.Module]]:
    """The fields and the module of blocks, of which the first `depth` have prompts.

    The first reads those of the stem, each of the others its own.

    Args:
      fields: of each block.
      block: their module.
      count: of the prompts; 0 leaves all as it is.
      depth: how many blocks have them.
      place: how many tokens stand before them.

    Raises:
      UserError: a depth that there is not, or blocks of another kind.
    """
    if not count:
        return fields, block
    if not 1 <= depth <= len(fields):
        raise UserError(f"prompt_depth={depth} must be from 1 to the {len(fields)} blocks")
    if block is not Block:
        raise UserError(f"prompts stand between plain blocks, and these are {block.__name__}")
    own = [
        {**each, "prompts": count if 0 < index < depth else 0, "place": place}
        for index, each in enumerate(fields)
    ]
    return own, PromptedBlock
