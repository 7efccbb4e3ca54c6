"""Adapters: small learned layers in the branches of a trained model whose own parameters stay."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
from jaxtyping import Array, Float

from scanmax.errors import UserError
from scanmax.models.blocks import Block
from scanmax.models.parts.random_features import SnnkAdapter


class AdaptedBlock(Block):
    """A block whose branches, the mixer's and the MLP's, pass an adapter before they are added.

    Attributes:
      adapter: fields of `SnnkAdapter`.

    Reference: snnk
    """

    adapter: Mapping[str, Any] | None = None

    @nn.nowrap
    def add_branch(self, x, branch: Float[Array, "B T D"], index: int | str, rate, train: bool):
        fields = {**self.dtypes, **(self.adapter or {})}
        branch = SnnkAdapter(**fields, name=f"adapter{index}")(branch)
        return super().add_branch(x, branch, index, rate, train)


def adapted(
    fields: list[dict[str, Any]], block: type[nn.Module], adapter: Mapping[str, Any] | None
) -> tuple[list[dict[str, Any]], type[nn.Module]]:
    """The fields and the module of blocks, all of which have adapters.

    Args:
      fields: of each block.
      block: their module.
      adapter: fields of `SnnkAdapter`; None leaves all as it is.

    Raises:
      UserError: blocks of another kind, or a field that an adapter has not.
    """
    if adapter is None:
        return fields, block
    if block is not Block:
        raise UserError(f"adapters stand in plain blocks, and these are {block.__name__}")
    known = set(SnnkAdapter.__dataclass_fields__) - {"parent", "name", "dtype", "param_dtype"}
    odd = sorted(set(adapter) - known)
    if odd:
        raise UserError(f"adapter has {', '.join(odd)}; its fields are {', '.join(sorted(known))}")
    return [{**each, "adapter": adapter} for each in fields], AdaptedBlock
