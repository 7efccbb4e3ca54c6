"""A pyramid whose blocks take turns: a stage may have one mixer in every second block."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn

from scanmax.errors import UserError
from scanmax.models.blocks import Block, Turn
from scanmax.models.vision.pyramid import Pyramid


class TurnPyramid(Pyramid):
    """Stages of turns, of one block or of two with a mixer each.

    Attributes:
      mixer: a name of MIXERS, or one per stage.
      second_mixer: that of every second block, one per stage; None is the same. `depths` of stages
        with one are even.
      scan_layers: compile one turn per stage; parameters are stacked (blocks.stack_blocks).
    """

    second_mixer: tuple[str | None, ...] = (None,) * 4

    @property
    def block_type(self) -> type[nn.Module]:
        return Turn

    @property
    def layer_type(self) -> type[nn.Module]:
        """Module of the blocks in a turn."""
        return Block

    @nn.nowrap
    def layer_fields(self, fields: Mapping[str, Any], stage: int) -> dict[str, Any]:
        """The fields of a block, from those that `Pyramid` gives it; its mixer is among them."""
        return dict(fields)

    @nn.nowrap
    def turn_length(self, stage: int) -> int:
        """How many blocks a turn of a stage has."""
        if len(self.second_mixer) != len(self.dims):
            raise UserError(f"second_mixer={self.second_mixer}: expected {len(self.dims)} entries")
        length = 1 if self.second_mixer[stage] is None else 2
        if self.depths[stage] % length:
            raise UserError(
                f"depths={self.depths}: stage {stage} has two mixers by turns; an even number"
            )
        return length

    @nn.nowrap
    def block_fields(self, stage: int) -> list[dict[str, Any]]:
        """The fields of each turn of a stage."""
        length = self.turn_length(stage)
        fields, *_ = super().block_fields(stage)
        mixers = (fields["mixer"], self.second_mixer[stage])[:length]
        layers = tuple(self.layer_fields({**fields, "mixer": mixer}, stage) for mixer in mixers)
        return [{"block": self.layer_type, "layers": layers}] * (self.depths[stage] // length)

    @nn.nowrap
    def layer_path(self, stage: int, index: int) -> str:
        """Where the parameters of the block of that index lie, layers not scanned."""
        turn, layer = divmod(index, self.turn_length(stage))
        return f"stage{stage}_block_{turn:02d}/layer{layer}"
